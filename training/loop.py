"""The loop of every run: step, log, validate, save, and resume to the same loss."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from larimar.errors import InvalidArgument
from training.objective import LossTerms
from training.optimizers import build_optimizers, set_rates
from training.parts import Parts, decoder_layers, encoder_layers, whole_networks
from training.progress import METRICS, RunLog, has_look
from training.recipes import Recipe, Start, from_json, start_in, to_json
from training.stopping import Asked, Stopped
from training.workers import Workers, gathered, load_module, load_optimizer, synchronise

STATE = "state.pt"
PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Types of the products of a step; weights, optimizers and the memory stay in their own."""


class Stage(Protocol):
    """What a run does with its batches."""

    recipe: Any
    parts: Parts
    module: nn.Module

    def batch(self, step: int) -> Any:
        """The batch of a step; all that is random in it follows from seed and step."""
        ...

    def part(self, batch: Any, index: int, parts: int) -> Any:
        """One of equal parts of a batch."""
        ...

    def losses(self, module: nn.Module, batch: Any, step: int) -> LossTerms:
        """Shares of the step's loss, of one part of its batch."""
        ...

    def schedule(self, step: int) -> dict[str, float]:
        """Weights that change as the run goes, by name."""
        ...

    def validate(self) -> dict[str, float]:
        """Loss terms on held-out text."""
        ...


Look = Callable[[Any], tuple[dict[str, float], list[str]]]
"""Numbers and lines about the model of a stage as it is now."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out, without a say in what it computes."""

    out: Path
    device: torch.device
    precision: str = "bfloat16"
    """One of PRECISIONS."""
    accumulate: int = 1
    """Parts that a step's rows are computed in, one after the other."""
    log_every: int = 50
    save_every: int = 500
    look_every: int = 500
    """Steps between looks at held-out text and at what the model does."""


class Loop:
    """One run of a recipe."""

    def __init__(
        self,
        stage: Stage,
        options: Options,
        workers: Workers,
        say: Callable[[str], None] = print,
        looks: Sequence[Look] = (),
        start: Start | None = None,
        text: str = "",
    ) -> None:
        """A loop at step 0.

        Args:
            looks: called on the first worker as it goes, to show what the model does.
            start: the model that the stage's first weights are of.
            text: digest of what the stage reads; a saved state of another text is refused.
        """
        self.stage, self.options, self.workers, self.start = stage, options, workers, start
        self.text = text
        self.recipe: Recipe = stage.recipe
        self.say, self.looks = say, looks
        self.module = stage.module.train()
        if workers.shard and self.recipe.optimizer != "adamw":
            raise InvalidArgument(f"--shard does not go with optimizer {self.recipe.optimizer}")
        networks = stage.parts.networks
        layers = [*encoder_layers(networks), *decoder_layers(networks)]
        self.wrapped = workers.wrapped(self.module, layers)
        self.optimizers = build_optimizers(self.module, networks, self.recipe)
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.step = 0
        self.tokens = 0

    def run(self, asked: Asked = lambda: 0) -> None:
        """Trains to the recipe's last step, saving a resumable state and a model folder.

        A look that was due when the run was broken off is made first.

        Args:
            asked: whether to stop, asked after every step.

        Raises:
            Stopped: it was asked to; the last step is saved.
        """
        options, recipe = self.options, self.recipe
        options.out.mkdir(parents=True, exist_ok=True)
        missed = self._is_look_due() and not has_look(options.out / METRICS, self.step)
        self.workers.wait()  # the first one opens that file for writing
        say = self.say if self.workers.first else None
        with RunLog(options.out, recipe.steps, self.step, self.tokens, say) as log:
            if missed:
                self._look(log)
            while self.step < recipe.steps:
                numbers = self.train_step()
                last = self.step == recipe.steps
                if self.step % options.log_every == 0 or last:
                    log.step(self.step, self.tokens, numbers)
                stop = self._stop(asked())
                if self.step % options.save_every == 0 or last or stop:
                    self.save()
                if stop:
                    raise Stopped(
                        f"stopped after step {self.step} of {recipe.steps}, which is saved: the "
                        "same command goes on from there",
                        stop,
                    )
                if self._is_look_due():
                    self._look(log)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; everything random in it follows from the seed and the step.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; nothing was changed.
        """
        rate = set_rates(self.optimizers, self.recipe, self.step)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        batch = self.stage.batch(self.step)
        numbers = self.workers.summed(self._gradients(batch), self.options.device)
        norm = gathered(nn.utils.clip_grad_norm_(self.trained, self.recipe.clip))
        if not math.isfinite(numbers["total"]) or not torch.isfinite(norm):
            raise FloatingPointError(
                f"loss {numbers['total']} with gradients of norm {float(norm)} at step "
                f"{self.step}: lower the learning rate, or use --precision float32"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        numbers |= self.stage.schedule(self.step) | {"rate": rate}
        self.step += 1
        self.tokens += batch.tokens
        return numbers

    def save(self) -> None:
        """Writes a resumable state, the recipe and the model folder."""
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "module": gathered(self.module.state_dict()),
            "optimizers": [gathered(each.state_dict()) for each in self.optimizers],
            "recipe": to_json(self.recipe, self.start),
            "text": self.text,
        }
        if self.workers.first:
            out, parts = self.options.out, self.stage.parts
            networks = parts.networks
            if self.workers.shard:
                networks = whole_networks(networks.config, state["module"])
            # The model first: a run that ends in between makes these steps again, and it anew.
            parts.save(out / "model", networks, torch.float32)
            (out / "recipe.json").write_text(state["recipe"])
            torch.save(state, out / (STATE + ".tmp"))
            (out / (STATE + ".tmp")).replace(out / STATE)
        self.workers.wait()

    def resume(self) -> bool:
        """Continues from the saved state of the run's folder, if there is one.

        Raises:
            InvalidArgument: the state is of another recipe or text, or started from another model.
        """
        path = self.options.out / STATE
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.options.device, weights_only=True)
        self._refuse_another(path, state)
        try:
            load_module(self.module, state["module"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                load_optimizer(optimizer, saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InvalidArgument(
                f"{path} is of another recipe: give --out another folder ({error})"
            ) from error
        self.step, self.tokens = state["step"], state["tokens"]
        return True

    def _refuse_another(self, path: Path, state: dict[str, Any]) -> None:
        if "recipe" not in state:  # of a version that did not keep it
            self.say(f"{path} does not say of which recipe it is: taken to be of this one")
            return
        saved = from_json(state["recipe"])
        names = [field.name for field in dataclasses.fields(self.recipe)]
        changed = [
            name for name in names if getattr(saved, name, None) != getattr(self.recipe, name)
        ]
        if _digest(start_in(state["recipe"])) != _digest(self.start):
            changed.append("--start")
        if state.get("text", self.text) != self.text:
            changed.append("the text of --corpus or --prepared")
        if changed or type(saved) is not type(self.recipe):
            raise InvalidArgument(
                f"{path} is of another run ({', '.join(changed or ['stage'])} differ): give --out "
                "another folder; there --start with the model of this run goes on from its weights"
            )

    def _stop(self, asked: int) -> int:
        """The signal that asked this worker or another to stop, for all alike; 0 for none."""
        found = self.workers.summed({"asked": float(asked > 0)}, self.options.device)
        return (asked or signal.SIGTERM) if found["asked"] else 0

    def _is_look_due(self) -> bool:
        last = self.step == self.recipe.steps
        return self.step > 0 and (self.step % self.options.look_every == 0 or last)

    def _gradients(self, batch: Any) -> dict[str, float]:
        """Adds up the gradients of this worker's parts; gives their shares of the loss."""
        options, workers = self.options, self.workers
        parts = options.accumulate * workers.size
        sums: dict[str, float] = {}
        for number in range(options.accumulate):
            index = workers.rank * options.accumulate + number
            torch.manual_seed((self.recipe.seed * 1_000_003 + self.step) * parts + index)
            synchronise(self.wrapped, number == options.accumulate - 1)
            with self._autocast():
                losses = self.stage.losses(
                    self.wrapped, self.stage.part(batch, index, parts), self.step
                )
                (losses["total"] * workers.size).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        return sums

    def _autocast(self) -> torch.autocast:
        options = self.options
        dtype = PRECISIONS[options.precision]
        return torch.autocast(options.device.type, torch.bfloat16, dtype != torch.float32)

    def _look(self, log: RunLog) -> None:
        """Validates, and shows what the model does; the first worker for all, where it can."""
        sharded = self.workers.shard
        if self.workers.first or sharded:
            self.module.eval()
            with self._autocast():
                held = self.stage.validate()
            numbers: dict[str, float] = {}
            lines: list[str] = []
            for look in self.looks if not sharded else ():
                found, said = look(self.stage)
                numbers |= found
                lines += said
            log.looked(self.step, held, numbers, lines)
            self.module.train()
        self.workers.wait()


def _digest(start: Start | None) -> str:
    return start.model_digest if start else ""
