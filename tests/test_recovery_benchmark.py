"""The benchmark of recovery, at tiny sizes: does it start followers, and do they agree?"""

from __future__ import annotations

from benchmarks import recovery


def test_a_quick_run_reports_both_ways_back_for_both_parts() -> None:
    told: list[str] = []
    report = recovery.run(True, False, told.append)
    for part in ("memory", "scope"):
        assert report.compared[f"{part} in service from checkpoint and tail"]["met"]
        assert report.compared[f"{part} in service from nothing"]["value"] > 0
        assert any(line.startswith(f"checkpoint of {part} at 500:") for line in told)
