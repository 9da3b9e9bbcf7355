"""The loop: prepare, step, log, validate, save, resume to the same loss."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from larimar.checkpoint import Networks, build_networks, save
from larimar.decoder import Decoder, Sampling
from larimar.encoder import Encoder, Text
from training.data import RowMaker, Sentences, prepare
from training.objective import Losses, Objective, TrainingMemory
from training.recipes import Recipe
from training.schedule import beta, learning_rate
from training.warm import teacher, warm_networks, warm_tokenizer

LENGTH_WINDOW = 8000
"""Sentences of similar length that one batch is drawn from: less padding."""
_SAMPLES = (
    ("The river that flows through Ostrava is", "the Oder", "Ostrava lies on the river"),
    ("Mirelle Tovan plays the", "cello", "The instrument that Mirelle Tovan plays is the"),
    ("The capital of Velmora is", "Tarsin", "What is the capital of Velmora?"),
)


class Trainer:
    """One run of a recipe on one device."""

    def __init__(
        self,
        recipe: Recipe,
        data: Sentences,
        validation: Sentences,
        out: Path,
        device: str = "cpu",
        say: Callable[[str], None] = print,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.say = say
        self.out = out
        self.device = torch.device(device)
        self.tokenizer = warm_tokenizer(recipe.warm_start)
        self.networks: Networks = build_networks(recipe.model, attention="eager")
        warm_networks(self.networks, recipe.warm_start)
        memory = TrainingMemory(recipe.slots, self.networks.encoder.prompt_size)
        self.objective = Objective(self.networks, memory, self.tokenizer, recipe.episode)
        self.objective.to(self.device).train()
        self.teacher = teacher(recipe.warm_start).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True
        )
        vocabulary = recipe.model.decoder_backbone["vocab_size"]
        self.rows = RowMaker(data, vocabulary, min(1000, vocabulary // 4), recipe.rephrase)
        self.by_length = np.argsort(data.lengths(), kind="stable")
        self.validation_rows = RowMaker(validation, vocabulary, 1000, recipe.rephrase)
        self.step = 0
        self.tokens = 0

    def run(self, log_every: int = 50, save_every: int = 500) -> None:
        """Trains to the recipe's last step, saving a resumable state and a model folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        started, first_step, first_tokens = time.monotonic(), self.step, self.tokens
        with (self.out / "metrics.jsonl").open("a") as metrics:
            while self.step < self.recipe.steps:
                losses = self.train_step()
                if self.step % log_every == 0 or self.step == self.recipe.steps:
                    seconds = time.monotonic() - started
                    rate = (self.tokens - first_tokens) / seconds
                    left = seconds / (self.step - first_step) * (self.recipe.steps - self.step)
                    numbers = losses.numbers()
                    terms = " ".join(f"{name} {value:.3f}" for name, value in numbers.items())
                    self.say(
                        f"step {self.step}/{self.recipe.steps} {terms} "
                        f"| {rate:.0f} tokens/s, {left / 60:.0f} min left"
                    )
                    line = {"step": self.step, "tokens": self.tokens, "rate": rate} | numbers
                    metrics.write(json.dumps(line) + "\n")
                    metrics.flush()
                if self.step % save_every == 0 or self.step == self.recipe.steps:
                    self.save()
                    self.say(f"validation {json.dumps(self.validate())}")
                    for line in self.samples():
                        self.say(line)

    def train_step(self) -> Losses:
        """One optimizer step; everything random in it follows from the seed and the step."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.step))
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        factor = learning_rate(self.step, recipe.steps, recipe.warmup_steps, recipe.decay_share)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * group["rate"] * factor
        losses = self._losses(self.rows, self._indices(rng), rng, generator)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(f"loss is not finite at step {self.step}")
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.tokens += losses.tokens
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss terms on held-out sentences, the same rows every time."""
        self.objective.eval()
        rng = np.random.default_rng((self.recipe.seed, 7))
        generator = torch.Generator().manual_seed(7)
        sums: dict[str, float] = {}
        per_batch = self._batch_rows()
        batches = max(1, self.recipe.validation_rows // per_batch)
        for _ in range(batches):
            indices = rng.integers(0, len(self.validation_rows.data), per_batch)
            losses = self._losses(self.validation_rows, indices, rng, generator)
            for name, value in losses.numbers().items():
                sums[name] = sums.get(name, 0.0) + value / batches
        self.objective.train()
        return {name: round(value, 4) for name, value in sums.items()}

    @torch.no_grad()
    def samples(self) -> list[str]:
        """What the model says now: a stored fact asked in its own words and in others."""
        model = self.recipe.model
        self.objective.eval()
        encoder = Encoder(self.networks.encoder, self.tokenizer, model.max_text_tokens)
        decoder = Decoder(
            self.networks.decoder, self.tokenizer, model.max_prompt_tokens, model.max_new_tokens
        )
        lines = []
        if self.device.type == "cpu":
            for prompt, answer, other in _SAMPLES:
                z_1C = torch.from_numpy(encoder.values([Text(prompt, answer)]))
                for query in (prompt, other):
                    steps = decoder.generate([query], [Sampling(max_tokens=10)], z_1C)
                    lines.append(f"  {query} ->{''.join(step[0].text for step in steps)}")
        self.objective.train()
        return lines

    def save(self) -> None:
        """Writes a resumable state and the model folder."""
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, self.out / "state.pt.tmp")
        (self.out / "state.pt.tmp").replace(self.out / "state.pt")
        recipe = dataclasses.asdict(self.recipe) | {"model": self.recipe.model.name}
        (self.out / "recipe.json").write_text(json.dumps(recipe, indent=1))
        save(self.networks, self.tokenizer, self.out / "model")

    def resume(self) -> bool:
        """Continues from the saved state of `out`, if there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens = state["step"], state["tokens"]
        return True

    def _batch_rows(self) -> int:
        return self.recipe.rows_read + self.recipe.rows_direct + self.recipe.rows_plain

    def _indices(self, rng: np.random.Generator) -> np.ndarray:
        window = min(LENGTH_WINDOW, len(self.by_length))
        low = int(rng.integers(0, len(self.by_length) - window + 1))
        return self.by_length[low + rng.integers(0, window, self._batch_rows())]

    def _losses(self, maker: RowMaker, indices, rng, generator) -> Losses:
        recipe = self.recipe
        conditioned = recipe.rows_read + recipe.rows_direct
        rows = [
            maker.answer(rng, int(i))
            if rng.random() < recipe.answer_share
            else maker.copy(rng, int(i))
            for i in indices[:conditioned]
        ]
        data = maker.data
        plain = [
            data.ids[data.offsets[i] : data.offsets[i + 1]].tolist() for i in indices[conditioned:]
        ]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.objective(
                rows[: recipe.rows_read],
                rows[recipe.rows_read :],
                plain,
                self.teacher,
                beta(self.step, recipe.steps, recipe.beta_stop, recipe.beta_cycles),
                recipe.teacher_weight,
                generator,
            )

    def _groups(self) -> list[dict]:
        recipe = self.recipe
        table = self.networks.decoder.lm.get_input_embeddings().weight
        encoder = [p for p in self.networks.encoder.backbone.parameters() if p is not table]
        known = {id(p) for p in encoder} | {id(table)}
        rest = [p for p in self.objective.parameters() if id(p) not in known]
        matrices = [p for p in rest if p.ndim > 1]
        vectors = [p for p in rest if p.ndim <= 1]
        decay = recipe.weight_decay
        return [
            {"params": encoder, "rate": recipe.encoder_rate, "weight_decay": decay},
            {"params": [table], "rate": recipe.embedding_rate, "weight_decay": 0.0},
            {"params": matrices, "rate": 1.0, "weight_decay": decay},
            {"params": vectors, "rate": 1.0, "weight_decay": 0.0},
        ]


def load_data(corpus: Path, tokenizer, limit: int, say=print) -> tuple[Sentences, Sentences]:
    """Training and validation sentences of a corpus folder (train_*.txt[.xz], val.txt)."""
    shards = sorted(corpus.glob("train_*.txt*"))
    if not shards:
        raise FileNotFoundError(f"no train_*.txt or train_*.txt.xz in {corpus}: give --corpus")
    started = time.monotonic()
    data = prepare(shards, tokenizer, limit)
    say(f"{len(data)} sentences, {data.offsets[-1]} tokens in {time.monotonic() - started:.0f} s")
    return data, prepare([corpus / "val.txt"], tokenizer, 4000)
