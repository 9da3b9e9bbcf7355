"""Schedules of a run: the learning rate and the weight of the KL term."""

from __future__ import annotations


def learning_rate(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Relative learning rate: linear warm-up, flat, then linear fall to 2 % of the peak."""
    rise = min(1.0, (step + 1) / warmup)
    left = (steps - step) / max(1.0, steps * decay_share)
    return rise * max(0.02, min(1.0, left))


def beta(step: int, steps: int, stop: float, cycles: int) -> float:
    """Cyclical weight of the KL term: 50 % zero, 25 % ramp, 25 % flat in each cycle.

    Source: Das et al., arXiv 2403.11901, section 3; Li et al. 2020 (Optimus).
    """
    place = (step * cycles / steps) % 1.0
    return stop * min(1.0, max(0.0, (place - 0.5) / 0.25))
