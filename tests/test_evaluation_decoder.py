"""What evaluations compute on the decoder itself: batched scores, the plain check, perplexity."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.perplexity import plain_text, read_text, windows
from evaluation.plain import largest_difference
from evaluation.scoring import ROWS, Job, score_together
from larimar.errors import InvalidArgument
from services.settings import DEFAULT_MODEL

PROMPTS = ["The capital of Velmora is", "A recipe for onion soup begins with", "Rain " * 14]
CANDIDATES = [(" Tarsin", " a guild of masons from Orlo"), (" onions",), (" fell", " rain", " x")]


def jobs_of(latents):
    latent = latents[0].float().numpy()
    return [
        Job(prompt, candidates, latent if conditioned else None)
        for conditioned in (True, False)
        for prompt, candidates in zip(PROMPTS, CANDIDATES, strict=True)
    ]


def test_candidates_behind_one_another_score_as_each_by_itself(decoder, latents):
    jobs = jobs_of(latents)
    for job, found in zip(jobs, score_together(decoder, jobs), strict=True):
        z_C = None if job.latent is None else torch.from_numpy(job.latent)
        wanted = decoder.score(job.prompt, job.candidates, z_C)
        tolerance = 1e-4 if decoder.network.dtype == torch.float32 else 0.2
        for one, other in zip(found, wanted, strict=True):
            assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=tolerance)
    first, second = score_together(decoder, [jobs[0], jobs[3]])
    assert first[0].token_logprobs != pytest.approx(second[0].token_logprobs, abs=0.5)


def test_a_score_does_not_depend_on_what_it_is_computed_beside(decoder, latents):
    jobs = jobs_of(latents)
    together = score_together(decoder, jobs * (ROWS // 2))
    for place, job in enumerate(jobs):
        assert score_together(decoder, [job]) == [together[place]]
        assert together[place] == together[place + len(jobs)]


def test_what_cannot_be_scored_is_refused(decoder):
    for bad in (Job("", (" a",), None), Job("A", ("",), None), Job("A", (" a" * 400,) * 9, None)):
        with pytest.raises(InvalidArgument):
            score_together(decoder, [bad])


def test_without_a_latent_the_logits_are_the_stock_models(decoder, monkeypatch):
    assert largest_difference(decoder, PROMPTS * 5) == 0.0
    assert largest_difference(decoder, []) == 0.0
    logits = decoder.network.logits
    monkeypatch.setattr(decoder.network, "logits", lambda hidden: logits(hidden) + 1.0)
    assert largest_difference(decoder, PROMPTS[:1]) == pytest.approx(1.0, abs=0.1)


# Perplexity.

WIKI = """ 
 = Velmora = 
 
 Velmora 's capital , Tarsin , is a well @-@ known port of 12 @,@ 500 ( in 1950 ) . 
 He said " it rained " ; <unk> was 3 @.@ 5 miles away . 
"""


def test_wikitext_becomes_plain_english():
    assert plain_text(WIKI).split("\n") == [
        "",
        "Velmora",
        "",
        "Velmora's capital, Tarsin, is a well-known port of 12,500 (in 1950).",
        'He said "it rained"; <unk> was 3.5 miles away.',
        "",
    ]


def test_words_are_those_of_the_file(tmp_path):
    path = tmp_path / "wiki"
    path.write_text(WIKI)
    text = read_text(path)
    assert (text.words, text.lines) == (len(WIKI.split()), 5)
    assert read_text(path, 2).words == 3
    path.write_bytes(b"a\n\xff")
    with pytest.raises(InvalidArgument, match=":2: not UTF-8"):
        read_text(path)
    path.write_text("\n \n")
    with pytest.raises(InvalidArgument, match="no words"):
        read_text(path)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 10, 23])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_every_token_is_scored_once_with_enough_before_it(tokens, stride):
    window, scored = 8, []
    for first_scored, first, end in windows(tokens, window, stride):
        assert end - first <= window - 1 and first <= first_scored < end <= tokens
        assert first == 0 or first_scored - first >= window - 1 - stride
        scored += range(first_scored, end)
    assert scored == list(range(tokens))


def test_the_perplexity_is_that_of_the_log_probabilities(decoder, tmp_path):
    """One window: as scored token by token after the start, in float32."""
    path, out = tmp_path / "wiki", tmp_path / "out"
    path.write_text(WIKI)
    arguments = ["perplexity", "--data", path, "--out", out, "--before", DEFAULT_MODEL, "--json"]
    arguments = [str(one) for one in arguments]
    result = CliRunner().invoke(app, [*arguments, "--window", "256", "--stride", "64"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["ratio"], report["words"]) == (1.0, len(WIKI.split()))
    (found, before) = report["rows"]
    assert [one["system"] for one in report["rows"]] == ["base", "base (before)"]
    assert found["nll"] == before["nll"]
    ids = [decoder.start_id] + decoder.tokenizer(plain_text(WIKI), add_special_tokens=False)[
        "input_ids"
    ]
    exact = stock_decoder()
    with torch.inference_mode():
        logits_TV = exact(input_ids=torch.tensor([ids[:-1]])).logits[0]
    nll = torch.nn.functional.cross_entropy(logits_TV, torch.tensor(ids[1:]), reduction="sum")
    assert found["nll"] == pytest.approx(float(nll), rel=1e-4)
    assert found["tokens"] == len(ids) - 1
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(
        math.exp(nll / (report["words"] + 5)), rel=1e-3
    )
    short = CliRunner().invoke(app, [*arguments, "--window", "12", "--stride", "8"])
    assert short.exit_code == 1 and "window" in json.loads(short.stderr)["error"]["message"]
    short = CliRunner().invoke(app, [*arguments, "--window", "12", "--stride", "8", "--fresh"])
    nll = json.loads(short.stdout)["rows"][0]["nll"]
    assert np.isfinite(nll) and nll != pytest.approx(found["nll"], rel=1e-3)


def stock_decoder():
    """The shipped decoder in float32, as the model of `transformers` that it is."""
    from larimar.checkpoint import ModelFolder

    return ModelFolder.open(DEFAULT_MODEL).networks().decoder.lm.eval()


def test_a_stride_past_the_window_is_refused(tmp_path):
    path = tmp_path / "wiki"
    path.write_text(WIKI)
    arguments = ["perplexity", "--data", str(path), "--window", "8", "--stride", "8"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "stride is 8" in result.stderr
