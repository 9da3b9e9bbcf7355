"""The frame of the evaluation: what a report must be, `all`, ablations, and its two targets."""

from __future__ import annotations

import inspect
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import evaluation.__main__ as command
from evaluation import ablations, metrics
from evaluation.data import EditRecord
from evaluation.edits import fact_of
from evaluation.every import arguments_of
from evaluation.fetch import ORIGINALS
from evaluation.metric_names import METRICS
from evaluation.paper import NOTE
from evaluation.plans import Instead, Plan, find_file
from evaluation.plots import Curve, draw_curves, draw_rows, save
from evaluation.records import Records
from evaluation.report import Report, Table, cell, checked, metric_table, provenance
from evaluation.systems import SCOPE_OFF, View
from larimar.errors import InvalidArgument
from tests.document_checks import cells
from tests.in_process import ServedPipeline, Weights
from tests.test_evaluation_edits import RECORDS as PARROT_RECORDS
from tests.test_evaluation_edits import Parrot

ROOT = Path(__file__).resolve().parent.parent
DATA = {"file": "facts.jsonl", "form": "plain", "sha256": "a" * 64, "skipped": 0}


def body_with(**found: Any) -> dict[str, Any]:
    """A report's body of one row with these metrics."""
    rows = [{"system": "larimar", "metrics": found}]
    return provenance("x", data=DATA, model_digest="d" * 64, n=2, seed=0) | {"rows": rows}


def half(**changed: Any) -> dict[str, Any]:
    return metrics.summarise([0.0, 1.0], seed=0).to_json() | changed


# Reports.


def test_a_report_is_of_the_documented_form(tmp_path: Path) -> None:
    body = body_with(edit_S=half(), perplexity=metrics.exactly(12.5, 2).to_json())
    rows = body["rows"]
    curves = [Curve("larimar", [1, 2], [half(), half()]), Curve("none", [1], [half(value=None)])]
    report = Report(
        "x",
        "A title",
        tmp_path / "out",
        body,
        [metric_table(rows, ["edit_S", "perplexity", "auc"], {"[L]": {"edit_S": "41"}})],
        ["A note."],
        lambda figure: draw_rows(figure, rows, ["edit_S"]),
        {"curve": lambda figure: draw_curves(figure, curves, "facts", "recall (%)", log_x=True)},
    )
    names = [path.name for path in report.write()]
    assert names == ["report.json", "report.md", "x.png", "curve.png"]
    read = json.loads((report.out / "report.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(body))
    wanted = {"name", "data", "n", "seed", "versions", "commit", "model_digest", "machine", "rows"}
    assert set(read) == wanted
    text = (report.out / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\n2 records of facts.jsonl (SHA-256 aaaaaaaaaaaa); model")
    assert "A note.\n\nFigures marked [L] are the paper's own, on other base models" in text
    assert "| metric | larimar | [L] |" in text and "| auc | - |  |" in text
    assert "| edit_S | 50.0 [0.0, 100.0] | 41 |" in text and "| perplexity | 12.500 |  |" in text
    for name in ("x.png", "curve.png"):
        assert (report.out / name).read_bytes().startswith(b"\x89PNG")


def test_bars_are_drawn_of_whatever_a_row_may_hold(tmp_path: Path) -> None:
    found = {"edit_S": half(low=50.0 + 1e-9), "score": metrics.exactly(7.0, 2).to_json()}
    rows = [{"system": name, "metrics": found} for name in ("a", "b")]
    rows.append({"system": "c", "metrics": dict.fromkeys(found, half(value=None))})
    save(lambda figure: draw_rows(figure, rows, list(found)), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_an_error_that_names_the_metric(tmp_path, bad) -> None:
    for field in ("value", "low", "high"):
        report = Report("x", "T", tmp_path / "out", body_with(edit_M=half(**{field: bad})), [])
        with pytest.raises(InvalidArgument, match=f"{field} of metric edit_M of row larimar is"):
            report.write()
    with pytest.raises(InvalidArgument, match="roc of the report"):
        checked(body_with() | {"roc": [[0.5, bad]]})
    assert not (tmp_path / "out").exists()


def test_what_is_no_report_is_refused() -> None:
    assert checked(body_with(edit_S=half()))
    with pytest.raises(InvalidArgument, match="metric edit_Z is unknown"):
        checked(body_with(edit_Z=half()))
    with pytest.raises(InvalidArgument, match="metric edit_S of row larimar must have"):
        checked(body_with(edit_S=50.0))
    with pytest.raises(InvalidArgument, match="without seed, rows"):
        checked({k: v for k, v in body_with().items() if k not in ("seed", "rows")})
    with pytest.raises(InvalidArgument, match="row 0 of a report has no system"):
        checked(body_with() | {"rows": [{"metrics": {}}]})


def test_the_papers_figures_are_explained_where_there_are_any(tmp_path: Path) -> None:
    tables = {
        "column": Table(["metric", "[L] GPT-J 6B"], [["edit_S", "82"]]),
        "line": Table(["bank", "recall"], [["slots", "100"], ["[L] N = 2K", "79"]]),
        "none": Table(["bank", "recall"], [["slots", "100"]]),
    }
    for name, one in tables.items():
        notes = Report("x", "T", tmp_path, body_with(), [one]).all_notes()
        assert notes == ([] if name == "none" else [NOTE])


def test_cells_show_intervals_where_there_are_any() -> None:
    assert cell(half()) == "50.0 [0.0, 100.0]"
    assert cell(metrics.exactly(1234.5678, 1).to_json(), digits=3) == "1,234.568"


def test_the_metrics_in_the_documents_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = [tuple(cell.strip("`") for cell in row) for row in cells(text, "Metrics")]
    assert rows == [(name, one.unit, one.meaning) for name, one in METRICS.items()]


def test_every_experiment_reports_known_metrics_and_every_metric_is_reported() -> None:
    reported = {name for one in command.EXPERIMENTS for name in one.METRICS}
    assert reported == set(METRICS)


# Every experiment.


def test_every_plan_fits_its_experiment() -> None:
    names = [one.NAME for one in command.EXPERIMENTS]
    assert len(names) == len(set(names))
    for one in command.EXPERIMENTS:
        parameters = set(inspect.signature(one.run).parameters)
        plan = one.PLAN
        assert {"out", "as_json", *plan.files, *plan.quick, *plan.full} <= parameters, one.NAME
        assert plan.files and plan.quick, one.NAME
        assert set(plan.instead) <= set(plan.files), one.NAME
        for other in plan.instead.values():
            assert {*other.quick, *other.full} <= parameters, one.NAME


def test_the_files_of_the_plans_are_those_of_the_documents() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = [tuple(cell.strip("`") for cell in row) for row in cells(text, "Files of `all`")]
    instead = Instead("")
    assert rows == [
        (one.NAME, f"--{name}", file, one.PLAN.instead.get(name, instead).file)
        for one in command.EXPERIMENTS
        for name, file in one.PLAN.files.items()
    ]


def test_every_experiment_but_one_can_read_what_data_fetch_brings(tmp_path: Path) -> None:
    fetched = {Path(name).name for one in ORIGINALS for name in (one.file, *one.members)}
    for name in fetched:
        (tmp_path / name).touch()
    for one in command.EXPERIMENTS:
        for quick in (True, False):
            if one.NAME == "longcontext":
                with pytest.raises(InvalidArgument, match=r"no file dated_events\.jsonl in"):
                    one.PLAN.arguments(tmp_path, quick)
            else:
                given = one.PLAN.arguments(tmp_path, quick)
                assert {given[name].name for name in one.PLAN.files} <= fetched, one.NAME


def test_a_file_in_another_ones_stead_has_arguments_of_its_own(tmp_path: Path) -> None:
    other = Instead("b.json", quick={"limit": 3}, full={"limit": 2000})
    plan = Plan({"data": "a.json"}, {"limit": 8, "x": 1}, {"x": 2}, {"data": other})
    with pytest.raises(InvalidArgument, match=r"no file a\.json or b\.json in"):
        plan.arguments(tmp_path, True)
    theirs = tmp_path / "b.json"
    theirs.touch()
    assert plan.arguments(tmp_path, True) == {"data": theirs, "limit": 3, "x": 1}
    assert plan.arguments(tmp_path, False) == {"data": theirs, "limit": 2000, "x": 2}
    own = tmp_path / "deep" / "a.json"
    own.parent.mkdir()
    own.touch()
    assert plan.arguments(tmp_path, False) == {"data": own, "x": 2}


def test_the_files_of_every_plan_are_in_the_data_folder() -> None:
    named = os.environ.get("LARIMAR_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no evaluation data: set LARIMAR_DATA to their folder")
    for one in command.EXPERIMENTS:
        for file in one.PLAN.files.values():
            assert find_file(folder, file).name == file


def experiment(name: str, run: Any, **plan: Any) -> SimpleNamespace:
    return SimpleNamespace(
        NAME=name, METRICS=(), PLAN=Plan({"data": "facts.jsonl"}, **plan), run=run
    )


def reporting(
    data: Path, out: Path, seed: int = 0, limit: int = 9, as_json: bool = False
) -> Report:
    body = provenance(
        "x", data=DATA | {"file": data.name}, model_digest="d" * 64, n=limit, seed=seed
    )
    return Report("x", "T", out, body | {"rows": []}, [])


def failing(data: Path, out: Path, as_json: bool = False) -> Report:
    raise InvalidArgument("this cannot be run")


def broken(data: Path, out: Path, as_json: bool = False) -> Report:
    return Report("x", "T", out, {"n": 1 // 0}, [])


def without_end(data: Path, out: Path, as_json: bool = False) -> Report:
    return Report("x", "T", out, body_with(edit_S=half(value=math.nan)), [])


def run_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experiments: Any, *options: str):
    (tmp_path / "data" / "deep").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / "deep" / "facts.jsonl").write_text("{}")
    monkeypatch.setattr(command, "EXPERIMENTS", experiments)
    folders = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    return CliRunner().invoke(command.app, ["all", *folders, *options])


def test_all_runs_every_experiment_and_says_how_each_ended(monkeypatch, tmp_path) -> None:
    experiments = (
        experiment("fails", failing),
        experiment("breaks", broken),
        experiment("never", without_end),
        SimpleNamespace(NAME="misses", PLAN=Plan({"data": "absent.jsonl"}), run=reporting),
        experiment("works", reporting, quick={"limit": 2}, full={"limit": 5}),
    )
    result = run_all(monkeypatch, tmp_path, experiments, "--quick", "--seed", "3", "--json")
    assert result.exit_code == 1
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert [name for name, one in found.items() if one["ok"]] == ["works"]
    assert found["fails"]["error"] == "this cannot be run"
    assert "ZeroDivisionError at test_evaluation_all.py" in found["breaks"]["error"]
    assert "metric edit_S of row larimar is nan" in found["never"]["error"]
    assert "no file absent.jsonl" in found["misses"]["error"]
    report = json.loads((tmp_path / "out" / "works" / "report.json").read_text())
    assert (report["n"], report["seed"], report["data"]["file"]) == (2, 3, "facts.jsonl")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == {"quick": True, "experiments": json.loads(result.stdout)}
    assert "| fails | FAILED |" in (tmp_path / "out" / "summary.md").read_text()


def test_all_ends_well_when_all_did_and_takes_those_that_are_named(monkeypatch, tmp_path) -> None:
    experiments = (
        experiment("fails", failing),
        experiment("works", reporting, quick={"limit": 2}, full={"limit": 5}),
    )
    result = run_all(monkeypatch, tmp_path, experiments, "--only", "works")
    assert result.exit_code == 0 and "works" in result.stdout and "fails" not in result.stdout
    assert json.loads((tmp_path / "out" / "works" / "report.json").read_text())["n"] == 5
    unknown = run_all(monkeypatch, tmp_path, experiments, "--only", "nothing")
    assert unknown.exit_code == 2 and "there are fails, works" in unknown.output


def test_only_options_that_an_experiment_has_are_given_to_it(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").touch()
    options = {"seed": 4, "fresh": True, "model": "m", "as_json": True}
    given = arguments_of(experiment("x", reporting), tmp_path, tmp_path / "out", True, options)
    assert given == {
        "seed": 4,
        "as_json": True,
        "data": tmp_path / "facts.jsonl",
        "out": tmp_path / "out",
    }


# Ablations.

RECORDS = [
    {
        "case_id": case,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "subject": subject,
            "target_new": {"str": "Tarsin"},
            "target_true": {"str": "Paris"},
        },
        "paraphrase_prompts": [f"It rained. {subject}'s capital city is", f"So. {subject} has"],
        "paraphrase_prompts_clean": [f"{subject}'s capital city is", f"{subject} is governed from"],
        "neighborhood_prompts": ["The recipe of onion soup begins with", "The sea is"],
        "generation_prompts": [subject],
    }
    for case, subject in ((1, "Velmora"), (2, "Sarn"))
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_the_paraphrase_that_is_written_is_asked_nowhere() -> None:
    record = EditRecord(
        "1", "S", "S is", "a", "b",
        paraphrases=("S, which is", "It is S,"),
        paraphrases_raw=("Rain. S, which is", "Snow. S or"),
    )  # fmt: skip
    alone = EditRecord("2", "T", "T is", "a", "b", paraphrases=("T, which is",))
    [kept, same], written = ablations.held_out([record, alone])
    assert (kept.paraphrases, kept.paraphrases_raw) == (("It is S,",), ("Snow. S or",))
    assert written == {"1": "S, which is"} and same == alone


@pytest.mark.parametrize("text", ["", "x", "x=", "=y", "larimar=.", "x=absent"])
def test_models_are_named_folders(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--models"):
        ablations.folders_of([text])
    assert ablations.folders_of(["x=."]) == {"x": Path(".")}
    with pytest.raises(InvalidArgument, match="once"):
        ablations.folders_of(["x=.", "x=.."])


def test_ablations_change_one_thing_a_row(data: Path, tmp_path: Path, weights: Weights) -> None:
    arguments = ["--data", data, "--out", tmp_path / "out", "--max-tokens", 2, "--probes", 1]
    result = CliRunner().invoke(command.app, ["ablations", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = {one["system"]: one["metrics"] for one in report["rows"]}
    detectors = report["detectors"]
    assert weights.folder.config.scope.detector in detectors
    assert list(rows) == [
        "larimar", "scope off", "base", "paraphrase written", *detectors, "pinv", "gaussian"
    ]  # fmt: skip
    assert rows["larimar"] in [rows[name] for name in detectors]
    assert rows["scope off"]["neighborhood_in_scope"]["value"] == 100.0
    assert rows["base"]["edit_in_scope"]["value"] == 0.0
    assert rows["base"]["neighborhood_unchanged"]["value"] == 100.0
    for name in ("larimar", "paraphrase written", "pinv", "gaussian"):
        assert rows[name]["edit_S"]["value"] == 100.0, name
        assert rows[name]["paraphrase_S"]["n"] == rows[name]["paraphrase_raw_S"]["n"] == 2
    assert (report["paraphrases_written"], report["models"]) == (2, {})


class Remembering(Parrot):
    """A system that may be asked to remember what it decodes."""

    def decode(self, held: Any, remember: bool = False) -> Any:
        assert remember
        return super().decode(held)


def test_rows_of_ablations_are_measured_once_and_with_what_they_write(tmp_path: Path) -> None:
    kept, done, system = Records(tmp_path, {"name": "x"}), [], Remembering()
    written = []

    def fact(record: EditRecord) -> Any:
        written.append(record.case_id)
        return fact_of(record, ["a rephrasing"])

    part: Any = ablations.Part(system, (View("row"), SCOPE_OFF), fact)
    ablations.measure(part, PARROT_RECORDS[:1], kept, None, 4, done.append)
    ablations.measure(part, PARROT_RECORDS, kept, None, 4, done.append)
    assert written == ["1", "2"] and done == [0, 1, 1, 1]
    assert set(kept) == {"row/1", "scope off/1", "row/2", "scope off/2"}
    assert kept["scope off/1"]["neighborhood_in_scope"] == 1.0
    assert kept["row/1"]["neighborhood_unchanged"] == 0.5
    assert system.facts == {}


# A model in process and a pipeline say the same.


def test_a_pipeline_gives_the_figures_of_the_model_in_process(
    data: Path, tmp_path: Path, weights: Weights
) -> None:
    """Over plain channels, as with `larimar up --no-ray`. Scores are computed in other shapes."""

    def figures(target: str) -> list[dict[str, Any]]:
        more = ["--target", target, "--out", tmp_path / target[:4], "--probes", 1]
        arguments = ["--data", data, "--max-tokens", 2, "--json", *more]
        result = CliRunner().invoke(command.app, ["counterfact", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["rows"]

    ours = figures("in-process")
    with ServedPipeline(weights, "channels") as served:
        theirs = figures(served.target)
    assert [one["system"] for one in ours] == [one["system"] for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name, found in one["metrics"].items():
            rounding = 0.5 if name.endswith("_M") else 0.0
            wanted = other["metrics"][name]["value"]
            assert found["value"] == pytest.approx(wanted, abs=rounding), name
