"""The suite as two processes: nothing is left out, and a failure of either one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.__main__ import NO_TESTS, halves, main

FOLDER = Path(__file__).parent


def test_every_file_is_in_one_half() -> None:
    first, second = halves(FOLDER)
    assert sorted(first + second) == sorted(FOLDER.glob("test_*.py"))
    assert abs(len(first) - len(second)) <= 6
    assert set(FOLDER.glob("test_ray*.py")) <= set(first)


@pytest.mark.parametrize("failing", ["", "a", "b"])
def test_a_failure_of_either_process_is_told(tmp_path: Path, capfd, failing: str) -> None:
    for name in "ab":
        wanted = name != failing
        (tmp_path / f"test_{name}.py").write_text(f"def test_{name}(): assert {wanted}\n")
    settings = ("-q", "-c", str(tmp_path / "none.ini"), "--rootdir", str(tmp_path))
    (tmp_path / "none.ini").write_text("[pytest]\n")
    assert main(settings, tmp_path) == bool(failing)
    said = capfd.readouterr().out
    assert said.count("1 passed") == (1 if failing else 2)
    assert said.count("1 failed") == bool(failing)
    assert main([*settings, "-k", "absent"], tmp_path) == NO_TESTS
    assert main([*settings, "-k", "test_b"], tmp_path) == (failing == "b")
