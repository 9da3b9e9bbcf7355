"""Benchmarks: the arithmetic of their ratios, and that every in-process side does its work.

No timing is asserted: a shared machine would fail such a test at random.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import math
import platform
import re
import subprocess
import sys

import grpc
import pytest
import torch
import typer
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks import ask, bulk, decode, edit, measure, replay, shapes
from benchmarks.measure import (
    Aim,
    Report,
    Shape,
    in_turns,
    ratio_of_medians,
    seconds_of,
    spread,
    turned,
)
from benchmarks.texts import UNRELATED, made_up_facts
from larimar.cli.processes import checkout_root
from larimar.errors import Conflict, InvalidArgument, LarimarError, Unavailable
from larimar.memory import BankConfig
from larimar.results import Answer
from larimar.v1 import memory_pb2, memory_pb2_grpc
from services.contracts import add_servicer
from services.follower import Follower
from services.log import MemoryLog
from services.memory.service import MemoryService
from services.rpc import start_server


@pytest.fixture(autouse=True)
def one_tensor_thread(monkeypatch):
    """In-process sides on one thread: on a busy machine two wait for each other."""
    before = torch.get_num_threads()
    monkeypatch.setattr(measure, "THREADS", 1)
    yield
    torch.set_num_threads(before)


def sound(seconds) -> bool:
    return all(math.isfinite(one) and one > 0 for one in seconds)


def quiet(_: str) -> None:
    pass


# The arithmetic


def test_spread_has_the_ends_and_the_middle():
    assert spread([5.0, 1.0, 3.0]) == {"min": 1.0, "median": 3.0, "max": 5.0, "count": 3}
    assert spread([1.0, 2.0])["median"] == 1.5


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_was_not_measured_is_not_reported(values):
    with pytest.raises(LarimarError):
        spread(values)


def test_the_ratio_is_of_medians_so_that_one_slow_round_does_not_count():
    assert ratio_of_medians([2.0, 2.0, 900.0], [4.0, 0.1, 4.0]) == 0.5
    with pytest.raises(LarimarError):
        ratio_of_medians([1.0], [0.0])


def test_an_aim_is_met_on_its_limit_and_on_one_side_of_it():
    least, most = Aim(0.8, at_least=True), Aim(15.0, at_least=False)
    assert [least.met(value) for value in (0.79, 0.8, 0.9)] == [False, True, True]
    assert [most.met(value) for value in (14.9, 15.0, 15.1)] == [True, True, False]
    assert (str(least), str(most)) == ("at least 0.8", "at most 15")


def test_the_sides_take_turns_and_the_first_one_changes():
    calls, told = [], []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert in_turns(sides, 3, told.append) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert calls == list("abbaab")
    assert told == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    assert turned(["a", "b"], 1) == ["b", "a"]


def test_a_report_says_of_each_comparison_whether_its_aim_was_met():
    report = Report({"rounds": 2})
    report.measure("a", "ms", [1.0, 3.0])
    report.compare("with", 0.5, Aim(0.8, at_least=True))
    report.compare("without", 2.0, unit="ms")
    assert report.results() == {
        "setting": {"rounds": 2},
        "measured": {"a": {"unit": "ms", "min": 1.0, "median": 2.0, "max": 3.0, "count": 2}},
        "compared": {
            "with": {"value": 0.5, "unit": "", "aim": "at least 0.8", "met": False},
            "without": {"value": 2.0, "unit": "ms"},
        },
    }


def test_the_added_time_is_of_each_prompt_and_its_median_is_judged():
    found = {
        "in scope": {"pipeline": [0.030, 0.110], "in process": [0.020, 0.080]},
        "out of scope": {"pipeline": [0.050], "in process": [0.040]},
    }
    results = ask.report_of(found, {}).results()
    assert results["compared"]["added at p50"]["value"] == pytest.approx(10.0)
    assert results["compared"]["added at p50"]["met"]
    assert results["measured"]["in scope, added"]["max"] == pytest.approx(30.0)
    ratio = results["compared"]["in scope, pipeline against in process"]["value"]
    assert ratio == pytest.approx(0.070 / 0.050)


# The texts


def test_made_up_facts_are_distinct_and_the_same_each_time():
    facts = made_up_facts(1000)
    assert len({fact["prompt"] for fact in facts}) == 1000
    assert facts[:50] == made_up_facts(50)
    assert facts[:50] != made_up_facts(50, seed=1)
    assert all(fact["answer"].strip() for fact in facts)
    assert len(UNRELATED) >= ask.PROMPTS <= ask.FACTS


# The in-process sides


def test_bare_passes_of_bulk_writing_take_time():
    encoder, embedder = bulk.models()
    facts = made_up_facts(3)
    assert sound([seconds_of(lambda: bulk.bare_pass(encoder, embedder, facts))])
    with pytest.raises(InvalidArgument):
        bulk.bare_pass(encoder, embedder, [{"prompt": " ", "answer": "a"}])


@pytest.fixture(scope="module")
def tiny():
    return shapes.prepared(Shape.tiny)


def test_decoding_takes_the_same_steps_with_and_without_a_latent(tiny):
    facts = made_up_facts(3)
    z_BC = decode.latents_of(tiny, facts)
    assert z_BC.shape == (3, tiny.decoder.value_size)
    prompts = [fact["prompt"] for fact in facts]
    seconds = decode.step_seconds(tiny.decoder, prompts, 3, z_BC)
    assert list(seconds) == list(decode.SIDES)
    assert all(len(found) == 3 and sound(found) for found in seconds.values())


def test_the_sides_of_decoding_make_the_same_number_of_tokens(tiny):
    prompts = [fact["prompt"] for fact in made_up_facts(3)]
    sides = decode.sides_of(tiny, prompts, 3, "cpu", at_once=3)
    assert {decode.OURS, decode.GENERATE, decode.PADDED} <= set(sides)
    ((*pieces,),) = sides[decode.OURS]()
    assert [piece.tokens for piece in pieces] == [3, 3, 3]
    assert sides[decode.PADDED]().shape == (3, 3)
    assert [found.shape for found in sides[decode.GENERATE]()] == [(1, 3)] * 3


def test_the_sides_of_decoding_alone_say_the_same(tiny):
    prompts = [fact["prompt"] for fact in made_up_facts(3)]
    sides = decode.sides_of(tiny, prompts, 9, "cpu", at_once=1)
    assert {decode.OURS, decode.UNDRAFTED, decode.GENERATE} <= set(sides)
    found = sides[decode.OURS]()
    assert found == sides[decode.UNDRAFTED]()
    assert [[piece.tokens for piece in pieces] for pieces in found] == [[9]] * 3


def test_a_table_of_which_rows_are_taken_is_not_read_whole(tiny):
    lm = tiny.stock
    table = lm.get_input_embeddings().weight
    assert lm.get_output_embeddings().weight is table  # the head reads it, so it counts once
    every = sum(one.numel() * one.itemsize for one in lm.parameters())
    assert tiny.token_bytes() == every


def test_every_stage_of_an_edit_takes_time(tiny):
    seconds = edit.staged(tiny, made_up_facts(2), "cpu")
    assert list(seconds) == list(edit.STAGES)
    assert all(len(found) == 2 and sound(found) for found in seconds.values())


@pytest.mark.parametrize("benchmark_", [decode, edit])
def test_a_shape_of_random_weights_is_measured(benchmark_):
    results = benchmark_.run(True, False, quiet, shape="tiny", gb_per_s=10.0).results()
    assert results["setting"]["shape"] == "tiny"
    assert all(math.isfinite(one["value"]) for one in results["compared"].values())


class DecoderOfSteps:
    """Decodes for its own number of steps, whatever was asked for."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def generate(self, prompts, samplings, z_BC=None):
        return iter([["piece"] * len(prompts)] * self.steps)


@pytest.mark.parametrize(("steps", "trouble"), [(2, "ended at step 2"), (4, "went on after 3")])
def test_decoding_for_another_number_of_steps_is_refused(steps, trouble):
    with pytest.raises(LarimarError, match=trouble):
        decode.step_seconds(DecoderOfSteps(steps), ["a prompt"], 3, torch.zeros(1, 4))


def test_asking_measures_both_sides_and_refuses_unequal_work():
    facts = made_up_facts(2)
    model = ask.loaded(facts)
    asked = {"in scope": [facts[0]["prompt"]], "out of scope": [UNRELATED[0]]}

    def answer(prompt: str, max_tokens: int) -> Answer:
        return model.ask(prompt, max_tokens=max_tokens)

    found = ask.measure({"pipeline": answer, "in process": answer}, asked, 2, 2, quiet)
    for kind in asked:
        assert {side: len(seconds) for side, seconds in found[kind].items()} == {
            "pipeline": 2,
            "in process": 2,
        }
        assert all(map(sound, found[kind].values()))

    def other(prompt: str, max_tokens: int) -> Answer:
        return dataclasses.replace(answer(prompt, max_tokens), text="something else")

    with pytest.raises(LarimarError, match="differ"):
        ask.measure({"pipeline": other, "in process": answer}, asked, 1, 2, quiet)
    swapped = {"in scope": asked["out of scope"]}
    with pytest.raises(LarimarError, match="is not in scope"):
        ask.measure({"pipeline": answer, "in process": answer}, swapped, 1, 2, quiet)


CONFIGS = {
    "slots": BankConfig(prompt_size=6, value_size=5, scope_size=4),
    "pinv": BankConfig(addressing="pinv", slots=3, prompt_size=6, value_size=5, scope_size=4),
}


@pytest.mark.parametrize("addressing", CONFIGS)
async def test_replay_and_bare_fold_are_of_one_log(addressing):
    config = CONFIGS[addressing]
    steps = list(replay.synthetic_steps(config, 1250))
    state, seconds = replay.folded(config, replay.payload_log(config, steps))
    assert sound([seconds])
    assert (state.version, len(state)) == (1250, 1250 - 2 * 125)

    log = MemoryLog()
    server, port = await start_server(
        "127.0.0.1:0",
        add_servicer("memory", MemoryService(log, Follower(log, ("memory", "scope"), 2**30))),
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            memory = memory_pb2_grpc.MemoryStub(channel)
            await asyncio.to_thread(replay.append, memory, "b", config, steps)
            rebuilt = await asyncio.to_thread(
                memory.RebuildBank, memory_pb2.RebuildBankRequest(bank="b")
            )
            with pytest.raises(Conflict):  # its event id is that of the first write
                await asyncio.to_thread(replay.append, memory, "b", config, steps[9:10])
    finally:
        await server.stop(None)
    assert (rebuilt.digest, rebuilt.folded_sha256) == (state.digest(), state.folded_sha256())
    assert rebuilt.matches
    assert sound([rebuilt.seconds])


def test_the_paper_memory_has_the_paper_sizes_and_the_model_of_the_bank():
    like = dataclasses.replace(CONFIGS["slots"], encoder_digest="e", scope_digest="s")
    config = replay.paper_config(like)
    assert (config.addressing, config.slots, config.value_size) == ("pinv", 512, 768)
    assert (config.encoder_digest, config.scope_digest) == ("e", "s")
    assert config.validate() is config


def test_the_memory_port_is_the_newest_that_the_log_tells(tmp_path):
    log = tmp_path / "up.log"
    log.write_text("store is up (pid 1)\nmemory listens on port 11 (pid 2)\n")
    assert replay.memory_port(tmp_path) == 11
    log.write_text(log.read_text() + "memory listens on port 12 (pid 3)\nready on x\n")
    assert replay.memory_port(tmp_path) == 12
    log.write_text("ray listens on port 11 (pid 2)\n")
    with pytest.raises(Unavailable):
        replay.memory_port(tmp_path)


# The command


def test_every_benchmark_can_be_run():
    assert {"bulk", "ask", "replay", "decode"} <= set(command.NAMES)
    for name in command.NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").run), name


def test_a_quick_run_writes_one_json_file_that_does_not_name_the_machine(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "decode",
            "--quick",
            "--shape",
            "tiny",
            "--json",
            "--out",
            "numbers",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(checkout_root()), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "numbers" / "decode-quick.json").read_text())
    assert json.loads(done.stdout) == document
    assert set(document) == {"name", "machine", "versions", "commit", "results"}
    assert set(document["machine"]) == {"cpus", "platform", "torch_threads"}
    assert platform.node() not in document["machine"]["platform"].split("-")
    assert document["results"]["quick"]
    for one in document["results"]["measured"].values():
        assert sound([one["min"], one["median"], one["max"]])
    latent = document["results"]["compared"]["step time with a latent against without"]
    assert latent["met"] == (latent["value"] <= 1.05)


@pytest.mark.parametrize("option", [["--shape", "tiny"], ["--device", "cpu"], ["--bandwidth", "9"]])
def test_only_benchmarks_of_the_model_have_a_shape(option):
    assert "only decode and edit" in misused("bulk", *option)


def test_an_unknown_benchmark_is_a_usage_error():
    assert "'speed' is not one of" in misused("speed")


def misused(*words: str) -> str:
    """What the command says of a command line that is wrong."""
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    return re.sub(r"[^\w']+", " ", done.stderr)
