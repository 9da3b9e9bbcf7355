"""What a run shows of its model as it goes: samples, CounterFact, plots, and its command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest
import torch

from larimar.checkpoint import ModelFolder
from larimar.errors import InvalidArgument, NotFound
from larimar.memory import FIXED_LIMIT
from tests.training_runs import RECORD, loop, tiny_episodic, write_corpus, write_warm_start
from training import mix, package
from training.__main__ import main, precision_of, train
from training.looks import CounterFact, read_probes, samples
from training.loop import Loop
from training.progress import RunLog, forget_after
from training.recipes import small, small_embedding_add, to_json


@pytest.fixture(scope="module")
def warm_start(tmp_path_factory):
    return write_warm_start(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    other = json.loads(json.dumps(RECORD))
    other["requested_rewrite"] |= {
        "target_new": {"str": "Ostrava"},
        "target_true": {"str": "Tartu"},
    }
    path.write_text("\n".join(json.dumps(record) for record in (RECORD, other, RECORD)))
    return path


def test_an_answer_that_the_decoder_is_made_to_say_is_found(
    warm_start, corpus, records, tmp_path
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path)
    parts = run.stage.parts
    said = parts.decoder_tokenizer("Tartu", add_special_tokens=False)["input_ids"]
    assert len(said) == 2
    bias = parts.networks.decoder.lm.get_output_embeddings().bias
    with torch.no_grad():
        bias[said] += 50.0
    numbers, lines = CounterFact(records, 2)(run.stage)
    assert numbers["edit_S"] == numbers["paraphrase_S"] == 0.5
    assert numbers["edit_generated"] == 0.0 and "2 records" in lines[0]


def test_a_record_is_its_prompt_its_answers_and_a_rephrasing(records) -> None:
    first, second = read_probes(records, 2)
    assert (first.prompt, first.answer, first.true) == ("Arn Velk was born in", "Tartu", "Ostrava")
    assert first.rephrased == "The birthplace of Arn Velk is" and second.answer == "Ostrava"


def test_records_are_read_from_the_original_file_too(records, tmp_path) -> None:
    """It is one JSON list, of records without clean paraphrases."""
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    whole = tmp_path / "counterfact.json"
    whole.write_text(json.dumps(lines, indent=1))
    assert read_probes(whole, 10) == read_probes(records, 10)
    assert len(read_probes(whole, 2)) == 2
    whole.write_text(json.dumps(lines)[:-9])
    with pytest.raises(InvalidArgument, match="not JSON"):
        read_probes(whole, 2)


def test_a_file_of_other_records_is_refused_with_its_line(records, tmp_path) -> None:
    records.write_text(records.read_text() + "\n{}\n")
    with pytest.raises(InvalidArgument, match="record 4"):
        read_probes(records, 10)
    records.write_text("\n")
    with pytest.raises(InvalidArgument, match="no records"):
        read_probes(records, 10)
    with pytest.raises(NotFound, match="eval-data"):
        read_probes(tmp_path / "nothing", 1)


def test_samples_ask_in_two_ways(warm_start, corpus, tmp_path) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path)
    _, lines = samples(run.stage)
    assert len(lines) == 6 and all("->" in line for line in lines)


def test_a_run_by_its_command_leaves_metrics_plots_and_a_board(
    warm_start, corpus, records, tmp_path, capsys
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(dataclasses.replace(tiny_episodic(warm_start), steps=2)))
    out = tmp_path / "run"
    options = ["--log-every", "1", "--eval-every", "2", "--eval-data", str(records)]
    options += ["--threads", str(torch.get_num_threads()), "--device", "cpu"]
    train([str(recipe), "--corpus", str(corpus), "--out", str(out), *options])
    said = capsys.readouterr().out
    assert "step 2/2" in said and "tokens/s" in said and "CounterFact, 3 records" in said
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("paraphrase_generated" in record for record in found)
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"losses.png", "rate.png", "beta.png", "evaluation.png"}
    assert any((out / "tensorboard").iterdir())
    train([str(recipe), "--corpus", str(corpus), "--out", str(out), *options])
    assert "resumed at step 2" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_its_step_and_goes_on_from_it(
    warm_start, corpus, tmp_path, monkeypatch, capsys, number
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(dataclasses.replace(tiny_episodic(warm_start), steps=4)))
    out = tmp_path / "run"
    arguments = ["train", str(recipe), "--corpus", str(corpus), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*arguments, "--device", "cpu", "--threads", "1"])
    step, before = Loop.train_step, signal.getsignal(number)

    def asked_in_the_second(run):
        numbers = step(run)
        if run.step == 2:
            os.kill(os.getpid(), number)
        return numbers

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "train_step", asked_in_the_second)
        assert main() == 128 + number
    said = capsys.readouterr()
    assert "stopped after step 2 of 4" in said.err and "Traceback" not in said.err
    assert signal.getsignal(number) == before
    assert main() == 0
    assert "resumed at step 2" in capsys.readouterr().out


def test_a_second_signal_ends_a_run_at_once(warm_start, corpus, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(tiny_episodic(warm_start)))
    arguments = ["train", str(recipe), "--corpus", str(corpus), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [*arguments, "--device", "cpu", "--threads", "1"])

    def impatient(run):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr(Loop, "train_step", impatient)
    assert main() == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert "stopped at once" in said and not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize(("steps", "wanted"), [(6000, 500), (1000, 100), (320, 32), (40, 25)])
def test_a_run_saves_ten_times_where_nobody_says_how_often(
    warm_start, corpus, tmp_path, monkeypatch, steps, wanted
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(dataclasses.replace(tiny_episodic(warm_start), steps=steps)))
    given = []

    def built(recipe, sources, options, *rest):
        given.append(options.save_every)
        raise InvalidArgument("built")

    monkeypatch.setattr("training.__main__.build_loop", built)
    paths = ["--corpus", str(corpus), "--out", str(tmp_path)]
    for more in ([], ["--save-every", "7"]):
        with pytest.raises(InvalidArgument, match="built"):
            train([str(recipe), *paths, *more])
    assert given == [wanted, 7]


@pytest.mark.parametrize("instructions", [True, False])
def test_a_run_multiplies_in_what_the_device_has_instructions_for(
    warm_start, corpus, tmp_path, monkeypatch, instructions
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(tiny_episodic(warm_start)))
    given = []

    def built(recipe, sources, options, *rest):
        given.append((options.precision, recipe.optimizer))
        raise InvalidArgument("built")

    monkeypatch.setattr("training.__main__.build_loop", built)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: instructions)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    paths = ["--corpus", str(corpus), "--out", str(tmp_path), "--device", "cpu"]
    chosen = ["--precision", "bfloat16", "--optimizer", "muon"]
    for more in ([], chosen, ["--precision", "float32"]):
        with pytest.raises(InvalidArgument, match="built"):
            train([str(recipe), *paths, *more])
    fitting = "bfloat16" if instructions else "float32"
    assert given == [(fitting, "adamw"), ("bfloat16", "muon"), ("float32", "adamw")]
    assert precision_of("auto", "cuda") == "bfloat16"


def test_a_recipe_refuses_what_it_does_not_have(corpus, tmp_path) -> None:
    with pytest.raises(InvalidArgument, match="--sentences"):
        train(["small_base", "--corpus", str(corpus), "--out", str(tmp_path), "--sentences", "5"])
    with pytest.raises(InvalidArgument, match="--encoder and --decoder"):
        train(["any", "--corpus", str(corpus), "--out", str(tmp_path)])


def test_steps_that_are_done_again_are_not_recorded_twice(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    forget_after(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_packaged_model_fits_its_latents_and_keeps_its_weights(
    warm_start, corpus, tmp_path, storage, monkeypatch, capsys
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path / "run")
    run.options.out.mkdir(exist_ok=True)
    run.save()
    options = ["--corpus", str(corpus), "--storage", storage, "--threshold", "0.55"]
    monkeypatch.setattr(
        "sys.argv", ["package", str(tmp_path / "run"), str(tmp_path / "m"), *options]
    )
    assert package.main() == 0
    said = json.loads(capsys.readouterr().out)
    folder = ModelFolder.open(tmp_path / "m")
    assert folder.config.scope.threshold == 0.55 and folder.model_digest == said["model_digest"]
    assert said["largest_value"] * 2**folder.config.fixed_point.value_bits * 16 <= FIXED_LIMIT
    trained = run.stage.parts.networks.decoder.lm.get_input_embeddings().weight
    stored = folder.networks().decoder.lm.get_input_embeddings().weight
    torch.testing.assert_close(stored, trained, atol=2e-3, rtol=1e-2)


def test_what_cannot_be_packaged_is_named_in_one_line(
    warm_start, corpus, tmp_path, monkeypatch, capsys
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path / "run")
    run.save()
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "val.txt").write_text("A title\n")
    for folder, text, named in (
        (tmp_path / "absent", corpus, "absent"),
        (tmp_path / "run", tmp_path, "no val.txt in"),
        (tmp_path / "run", empty, "no sentence"),
    ):
        given = ["package", str(folder), str(tmp_path / "out"), "--corpus", str(text)]
        monkeypatch.setattr("sys.argv", given)
        assert package.main() == 1
        said = capsys.readouterr().err.splitlines()
        assert [named in line for line in said if line.startswith("error: ")] == [True]
    assert not (tmp_path / "out").exists()


def test_a_mix_is_between_two_decoders_with_the_connector_of_the_second(
    warm_start, corpus, tmp_path, monkeypatch
) -> None:
    folders = []
    for seed in (1, 2):
        out = tmp_path / f"run{seed}"
        run = loop(dataclasses.replace(tiny_episodic(warm_start), seed=seed), corpus, out)
        run.train_step()
        run.save()
        folders.append(out / "model")
    monkeypatch.setattr(
        "sys.argv", ["mix", *map(str, folders), str(tmp_path / "mixed"), "--share", "0.25"]
    )
    assert mix.main() == 0
    first, second, mixed = (
        ModelFolder.open(path).networks() for path in (*folders, tmp_path / "mixed")
    )
    old, new, found = (each.decoder.lm.state_dict() for each in (first, second, mixed))
    assert any(not torch.equal(old[name], new[name]) for name in old)
    for name in old:
        torch.testing.assert_close(found[name], 0.75 * old[name] + 0.25 * new[name])
    for name, weight in second.decoder.connector.state_dict().items():
        assert torch.equal(mixed.decoder.connector.state_dict()[name], weight)
    with pytest.raises(InvalidArgument, match="from 0 to 1"):
        mix.mix_decoders(first, second, 1.5)


def test_a_whole_mix_moves_everything_and_a_map_that_was_not_there_from_zero(
    warm_start, corpus, tmp_path, monkeypatch, capsys
) -> None:
    folders = []
    for name, recipe in (("before", small()), ("after", small_embedding_add())):
        recipe = dataclasses.replace(tiny_episodic(warm_start, recipe), seed=len(name))
        run = loop(recipe, corpus, tmp_path)
        run.options.out.mkdir(exist_ok=True)
        run.train_step()
        run.save()
        folders.append((tmp_path / "model").rename(tmp_path / name))
        (tmp_path / "state.pt").unlink()
    options = [str(tmp_path / "mixed"), "--share", "0.25", "--whole"]
    monkeypatch.setattr("sys.argv", ["mix", *map(str, folders), *options])
    assert mix.main() == 0
    before, after, mixed = (
        ModelFolder.open(path).networks().modules().state_dict()
        for path in (*folders, tmp_path / "mixed")
    )
    assert mixed.keys() - before.keys() == {mix.ADDED}
    for name, weight in mixed.items():
        old = before.get(name, torch.zeros_like(weight))
        torch.testing.assert_close(weight, 0.75 * old + 0.25 * after[name])
    assert mixed[mix.ADDED].abs().max() > 0
    monkeypatch.setattr("sys.argv", ["mix", *map(str, reversed(folders)), *options])
    assert mix.main() == 1 and "not of one shape" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_speed_and_time_left(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "metrics.jsonl").write_text("")
    with RunLog(tmp_path, 4, 0, 0, print) as log:
        for step in (1, 2):
            log.step(step, 100 * step, {"total": 3.25, "rate": 1e-3})
        log.found(2, {}, ["The capital [of] Velmora"])
    said = capsys.readouterr().out
    assert "2/4" in said and "total 3.250" in said and "tokens/s" in said and "min left" in said
    assert "The capital [of] Velmora" in said
