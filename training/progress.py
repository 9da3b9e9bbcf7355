"""What a run says as it goes: a progress display, metrics in files, plots at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

METRICS = "metrics.jsonl"
_BOARD = "tensorboard"
_HELD = "held_"


class RunLog:
    """Metrics to JSON lines and TensorBoard, and a bar where there is a terminal.

    Args:
        say: prints a line; None on a worker that writes nothing.
    """

    def __init__(
        self, out: Path, steps: int, step: int, tokens: int, say: Callable[[str], None] | None
    ) -> None:
        self.out, self.steps, self.say = out, steps, say
        self.first_step, self.first_tokens = step, tokens
        self.started = time.monotonic()
        self.file: Any = None
        self.board: Any = None
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        if self.say is None:
            return self
        forget_after(self.out / METRICS, self.first_step)
        self.file = (self.out / METRICS).open("a")
        self.board = _board(self.out / _BOARD, self.first_step)
        if sys.stdout.isatty():
            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=Console())
            self.task = self.bar.add_task("", total=self.steps, completed=self.first_step)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.say is None:
            return
        if self.bar is not None:
            self.bar.stop()
        self.file.close()
        if self.board is not None:
            self.board.close()
        if kind is None:
            from training.plots import plot_run

            plot_run(self.out)

    def step(self, step: int, tokens: int, numbers: dict[str, float]) -> None:
        """Records a step, and says how fast it goes and how long it will go on."""
        if self.say is None:
            return
        seconds = time.monotonic() - self.started
        done = step - self.first_step
        rate = (tokens - self.first_tokens) / seconds
        left = seconds / done * (self.steps - step)
        self._record(step, {"tokens": tokens, "tokens_s": round(rate)} | numbers)
        terms = " ".join(
            f"{name} {value:.2e}" if name == "rate" else f"{name} {value:.3f}"
            for name, value in numbers.items()
        )
        text = f"{terms} | {rate:.0f} tokens/s, {left / 60:.0f} min left"
        if self.bar is None:
            self.say(f"step {step}/{self.steps} {text}")
        else:
            self.bar.update(self.task, completed=step, description=text)

    def looked(
        self, step: int, held: dict[str, float], numbers: dict[str, float], lines: list[str]
    ) -> None:
        """Records a look in one line: one that was broken off leaves none (`has_look`).

        Args:
            held: loss terms on held-out text.
            numbers: what else was measured, with lines about it.
        """
        rounded = {name: round(value, 4) for name, value in held.items()}
        self.found(
            step,
            {f"{_HELD}{name}": value for name, value in rounded.items()} | numbers,
            [f"validation at step {step}: {json.dumps(rounded)}", *lines],
        )

    def found(self, step: int, numbers: dict[str, float], lines: list[str]) -> None:
        """Records what was measured on the model, and prints lines about it."""
        if self.say is None:
            return
        if numbers:
            self._record(step, numbers)
        for line in lines:
            if self.bar is None:
                self.say(line)
            else:
                self.bar.console.print(line, markup=False, highlight=False)

    def _record(self, step: int, numbers: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step} | numbers) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)


def has_look(path: Path, step: int) -> bool:
    """Whether a run's metrics hold what was seen of its model after a step."""
    if not path.exists():
        return False
    records = map(json.loads, path.read_text().splitlines())
    return any(one["step"] == step and any(n.startswith(_HELD) for n in one) for one in records)


def forget_after(path: Path, step: int) -> None:
    """Removes records of steps past `step`: a run that was broken off does them again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def _board(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step + 1)
