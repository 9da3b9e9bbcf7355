"""Which generated code belongs to which service."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import symbol_database

from larimar.v1 import (
    decoder_pb2_grpc,
    encoder_pb2_grpc,
    larimar_pb2_grpc,
    memory_pb2_grpc,
    scope_pb2_grpc,
)
from services.rpc import CHANNEL_OPTIONS, ChannelStub

_CONTRACTS: dict[str, tuple[Any, Any, str]] = {
    "encoder": (
        encoder_pb2_grpc.add_EncoderServicer_to_server,
        encoder_pb2_grpc.EncoderStub,
        "larimar.v1.Encoder",
    ),
    "scope": (
        scope_pb2_grpc.add_ScopeServicer_to_server,
        scope_pb2_grpc.ScopeStub,
        "larimar.v1.Scope",
    ),
    "memory": (
        memory_pb2_grpc.add_MemoryServicer_to_server,
        memory_pb2_grpc.MemoryStub,
        "larimar.v1.Memory",
    ),
    "decoder": (
        decoder_pb2_grpc.add_DecoderServicer_to_server,
        decoder_pb2_grpc.DecoderStub,
        "larimar.v1.Decoder",
    ),
    "gateway": (
        larimar_pb2_grpc.add_LarimarServicer_to_server,
        larimar_pb2_grpc.LarimarStub,
        "larimar.v1.Larimar",
    ),
}


def methods_of(name: str) -> dict[str, bool]:
    """The methods of a service, each with whether it answers with a stream."""
    service = symbol_database.Default().pool.FindServiceByName(_CONTRACTS[name][2])
    return {method.name: method.server_streaming for method in service.methods}


STREAMING = frozenset(
    method
    for name in _CONTRACTS
    if name != "gateway"
    for method, streams in methods_of(name).items()
    if streams
)
"""Methods behind the gateway that answer with a stream."""


def add_servicer(name: str, servicer: Any):
    """A function that adds the servicer to a server and returns its full name."""
    add, _, full_name = _CONTRACTS[name]

    def adder(server: grpc.aio.Server) -> list[str]:
        add(servicer, server)
        return [full_name]

    return adder


def channel_stub(name: str, address: str) -> ChannelStub:
    """The door to a service at host:port."""
    _, stub, _ = _CONTRACTS[name]
    return ChannelStub(stub(grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)), name, STREAMING)
