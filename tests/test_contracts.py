"""The contracts: generated code is fresh, every RPC says what it does, every method is there."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from larimar.defaults import DEFAULT_SLOTS, bank_config, default_fact_id
from larimar.errors import InvalidArgument
from larimar.memory import BankConfig
from larimar.v1 import common_pb2
from larimar.wire import (
    addressing_name,
    bytes_to_vector,
    config_from_proto,
    config_to_proto,
    vector_to_bytes,
)
from services.build import BUILDERS, SERVICES
from services.contracts import _CONTRACTS, STREAMING, methods_of
from services.decoder.service import DecoderService
from services.encoder.service import EncoderService
from services.gateway.service import GatewayService
from services.memory.service import MemoryService
from services.scope.service import ScopeService
from services.settings import CHECKOUT
from tests.banks import ADDRESSINGS, config_of

PROTOS = sorted((CHECKOUT / "protos" / "larimar" / "v1").glob("*.proto"))
SERVICERS = {
    "encoder": EncoderService,
    "scope": ScopeService,
    "memory": MemoryService,
    "decoder": DecoderService,
    "gateway": GatewayService,
}


def protoc(*arguments: str) -> None:
    names = [str(path.relative_to(CHECKOUT / "protos")) for path in PROTOS]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", *arguments, *names],
        check=True,
        cwd=CHECKOUT,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[descriptor_pb2.FileDescriptorProto]:
    """The contracts with their comments."""
    path = tmp_path_factory.mktemp("descriptors") / "set"
    protoc(f"--descriptor_set_out={path}", "--include_source_info")
    return list(descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file)


@pytest.fixture(scope="module")
def methods(files) -> dict[str, dict[str, descriptor_pb2.MethodDescriptorProto]]:
    """Methods by the full name of their service."""
    return {
        f"{file.package}.{service.name}": {method.name: method for method in service.method}
        for file in files
        for service in file.service
    }


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    protoc(f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", f"--pyi_out={tmp_path}")
    kept = CHECKOUT / "larimar" / "v1"
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "larimar" / "v1").iterdir()}
    stored = {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    stored.pop("__init__.py", None)
    assert len(fresh) == 3 * len(PROTOS)
    assert stored == fresh, "run `make protos`"


def test_every_rpc_has_a_comment_that_says_whether_to_retry(files) -> None:
    service_of_file, method_of_service = 6, 2
    for file in files:
        comments = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
        }
        for place, service in enumerate(file.service):
            assert comments.get((service_of_file, place)), service.name
            for number, method in enumerate(service.method):
                comment = comments.get((service_of_file, place, method_of_service, number), "")
                assert "afe to retry" in comment, f"{service.name}.{method.name}"


def test_every_rpc_has_a_request_and_a_response_of_its_own(files, methods) -> None:
    used = []
    for service in methods.values():
        for name, method in service.items():
            assert method.input_type == f".larimar.v1.{name}Request"
            assert method.output_type == f".larimar.v1.{name}Response"
            used += [method.input_type, method.output_type]
    assert len(used) == len(set(used))
    declared = {
        f".larimar.v1.{message.name}"
        for file in files
        for message in file.message_type
        if message.name.endswith(("Request", "Response"))
    }
    assert declared == set(used), "a request or response of no RPC"


def test_every_request_between_services_carries_its_context(files) -> None:
    """A Ray handle has no metadata: tenant and deadline travel in the message."""
    for file in files:
        if file.name.endswith(("larimar.proto", "common.proto")):
            continue
        for message in file.message_type:
            if message.name.endswith("Request"):
                (field,) = [field for field in message.field if field.name == "context"]
                assert (field.number, field.type_name) == (15, ".larimar.v1.CallContext")


@pytest.mark.parametrize("name", SERVICERS)
def test_the_servicer_has_every_method_in_its_shape(name: str, methods) -> None:
    add, stub, full_name = _CONTRACTS[name]
    assert add.__module__ == stub.__module__
    servicer = SERVICERS[name]
    for method, contract in methods[full_name].items():
        own = getattr(servicer, method)
        assert not own.__module__.startswith("larimar.v1"), f"{servicer.__name__} lacks {method}"
        streams = contract.server_streaming
        assert inspect.isasyncgenfunction(own) == streams, method
        assert inspect.iscoroutinefunction(own) != streams, method
        first = "request_iterator" if contract.client_streaming else "request"
        assert list(inspect.signature(own).parameters) == ["self", first, "grpc_context"]
        assert own.__doc__
    extra = {attribute for attribute in dir(servicer) if attribute[0].isupper()}
    assert extra == set(methods[full_name])


def test_every_service_of_the_contracts_is_served(methods) -> None:
    assert {full_name for _, _, full_name in _CONTRACTS.values()} == set(methods)
    assert set(_CONTRACTS) == set(SERVICERS) == {*SERVICES, "gateway"}
    assert set(BUILDERS) == set(SERVICES)


def test_the_methods_that_stream_behind_the_gateway_are_known(methods) -> None:
    streaming = {
        method
        for name in SERVICES
        for method, contract in methods[_CONTRACTS[name][2]].items()
        if contract.server_streaming
    }
    assert streaming == STREAMING
    assert not any(
        contract.client_streaming
        for name in SERVICES
        for contract in methods[_CONTRACTS[name][2]].values()
    )


@pytest.mark.parametrize("name", _CONTRACTS)
def test_methods_of_a_service_are_those_of_its_contract(name: str, methods) -> None:
    """A Ray replica is made of these: what is not among them cannot be called through a handle."""
    contract = methods[_CONTRACTS[name][2]]
    assert methods_of(name) == {
        method: descriptor.server_streaming for method, descriptor in contract.items()
    }


def test_importing_the_library_loads_no_tensors_and_no_sockets() -> None:
    code = "import sys, larimar; print(sorted({'torch', 'grpc', 'ray', 'redis'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_library_is_there() -> None:
    library = importlib.import_module("larimar")
    assert all(getattr(library, name) is not None for name in library.__all__)
    with pytest.raises(AttributeError):
        _ = library.no_such_name


def test_vectors_cross_the_wire_bit_for_bit() -> None:
    vector = np.random.default_rng(0).standard_normal(7).astype(np.float32)
    raw = vector_to_bytes(vector)
    assert len(raw) == 28 and raw == vector.astype("<f4").tobytes()
    assert bytes_to_vector(raw, 7, "value").tobytes() == vector.tobytes()
    assert vector_to_bytes(vector.astype(np.float64)[::2]) == vector[::2].copy().tobytes()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "WRONG_SHAPE"),
        (bytes(24), "WRONG_SHAPE"),
        (bytes(29), "WRONG_SHAPE"),
        (vector_to_bytes(np.array([0, 1, np.nan, 3, 4, 5, 6])), "NOT_FINITE"),
        (vector_to_bytes(np.array([0, 1, np.inf, 3, 4, 5, 6])), "NOT_FINITE"),
    ],
)
def test_bytes_that_are_no_vector_are_refused_by_name(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match="prompt latent") as caught:
        bytes_to_vector(raw, 7, "prompt latent")
    assert caught.value.reason == reason


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_banks_configuration_crosses_the_wire_whole(addressing: str) -> None:
    config = dataclasses.replace(
        config_of(addressing, ridge=0.1234567890123456, reference_seed=2**62),
        encoder_digest="e" * 64,
        scope_digest="s" * 64,
        prompt_bits=3,
        address_bits=4,
        value_bits=5,
        scope_bits=6,
    )
    message = config_to_proto("b", config)
    assert message.bank == "b" and message.config_digest == config.digest
    again = config_from_proto(common_pb2.BankConfig.FromString(message.SerializeToString()))
    assert again == config and again.digest == config.digest
    known = {field.name for field in dataclasses.fields(BankConfig)}
    sent = {field.name for field in common_pb2.BankConfig.DESCRIPTOR.fields}
    assert sent == known | {"bank", "config_digest"}


def test_a_configuration_out_of_range_is_refused() -> None:
    message = config_to_proto("b", config_of("pinv"))
    message.slots = 0
    with pytest.raises(InvalidArgument, match="slots"):
        config_from_proto(message)


def test_addressings_have_their_names() -> None:
    numbers = common_pb2.Addressing.values()
    names = [addressing_name(number) for number in numbers]
    assert names == ["slots", "slots", "pinv", "gaussian"]
    with pytest.raises(InvalidArgument, match="use slots, pinv or gaussian"):
        addressing_name(99)


SIZES = {
    "prompt_size": 3,
    "value_size": 4,
    "scope_size": 5,
    "prompt_bits": 14,
    "value_bits": 14,
    "scope_bits": 16,
    "encoder_digest": "e",
    "scope_digest": "s",
}


def test_a_new_banks_defaults() -> None:
    assert bank_config("slots", 0, **SIZES).slots == 0
    assert bank_config("pinv", 0, **SIZES).slots == DEFAULT_SLOTS
    assert bank_config("gaussian", 7, **SIZES).slots == 7
    with pytest.raises(InvalidArgument, match="only with pinv or gaussian") as caught:
        bank_config("slots", 7, **SIZES)
    assert caught.value.reason == "BAD_SLOTS"


def test_a_fact_without_an_id_is_known_by_its_prompt() -> None:
    assert default_fact_id("The capital is") == default_fact_id("  The capital is\n")
    assert default_fact_id("The capital is") != default_fact_id("the capital is")
    assert len(default_fact_id("a")) == 24 and default_fact_id("a").isalnum()
