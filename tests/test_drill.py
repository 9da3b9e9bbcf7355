"""The disaster drill: everything of before the backup is back, and what was erased is not."""

from __future__ import annotations

import pytest

from benchmarks import drill


@pytest.mark.timeout(900)
def test_a_lost_machine_is_restored_elsewhere_without_what_was_erased() -> None:
    told: list[str] = []
    results = drill.run(quick=True, use_ray=False, told=told.append).results()
    assert [what for what, one in results["compared"].items() if one.get("met") is False] == []
    assert results["compared"]["edits since the backup, lost and named"]["value"] == drill.LATER
    assert results["setting"]["banks"] == 3
    assert any("erased after the backup: DONE" in line for line in told)
