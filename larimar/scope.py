"""Scope: does this query concern something that was written?

The written prompt nearest by cosine of sentence embeddings is found first (the index is part of
the folded state). Then a detector decides: `esd` by the cosine alone, `isd` by the words too
(larimar/isd.py). Neither sees anything but the query and the written prompts.
Source: Das et al., arXiv 2403.11901, section 4.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from larimar import isd
from larimar.config import DETECTORS, ScopeLayout
from larimar.encoder import BUCKET_TOKENS, bucketed, padded_rows, row_counts
from larimar.errors import InvalidArgument, NotFound
from larimar.sentences import sentences

if TYPE_CHECKING:
    from larimar.checkpoint import ModelFolder


def embedder_folder(package: str) -> Path:
    """The folder of a sentence-embedding model: a path, or a Python package's `model` folder.

    Raises:
        NotFound: neither exists.
    """
    if Path(package).is_dir():
        return Path(package)
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise NotFound(
            f"no sentence-embedding model {package!r}: install that package or give a folder",
            "MODEL_NOT_FOUND",
        )
    return Path(spec.origin).parent / "model"


def embedder_digest(package: str) -> str:
    """Hex SHA-256 of the embedding model's weights and tokenizer."""
    folder = embedder_folder(package)
    digest = hashlib.sha256()
    for name in ("model.safetensors", "tokenizer.json"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class SentenceEmbedder:
    """Unit sentence embeddings, in fixed shapes so that a text's bits depend on it alone."""

    def __init__(
        self, package: str, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        from sentence_transformers import SentenceTransformer

        self.digest = embedder_digest(package)
        self.device = device
        self.model = SentenceTransformer(
            str(embedder_folder(package)),
            device=device,
            local_files_only=True,
            model_kwargs={"dtype": dtype},
        ).eval()
        self.tokenizer = self.model.tokenizer
        self.tokenizer.model_max_length = 10**9
        size = self.model.get_embedding_dimension()
        if size is None:
            raise InvalidArgument(f"{package} does not say its embedding size", "BAD_MODEL")
        self.size = int(size)
        self.max_text_tokens = BUCKET_TOKENS[-1]
        self._row_counts: dict[int, tuple[int, ...]] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings, float32 (N, S).

        Raises:
            InvalidArgument: an empty text, or one past `max_text_tokens`.
        """
        rows = [self.tokenize(text) for text in texts]
        out = np.empty((len(rows), self.size), np.float32)
        for length, members in bucketed([len(row) for row in rows]):
            if length not in self._row_counts:
                self._row_counts[length] = row_counts(
                    lambda found, length=length: self._pass(found, length),
                    length,
                    len(self.tokenizer),
                    self.device,
                )
            taken = padded_rows([rows[i] for i in members], self._row_counts[length])
            out[members] = self._pass(taken, length).cpu().numpy()[: len(members)]
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    @torch.inference_mode()
    def _pass(self, rows: Sequence[list[int]], length: int) -> torch.Tensor:
        ids_BT = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        mask_BT = torch.zeros((len(rows), length), dtype=torch.long)
        for place, ids in enumerate(rows):
            ids_BT[place, : len(ids)] = torch.tensor(ids)
            mask_BT[place, : len(ids)] = 1
        features = self.model(
            {"input_ids": ids_BT.to(self.device), "attention_mask": mask_BT.to(self.device)}
        )
        return features["sentence_embedding"].float()

    def tokenize(self, text: str) -> list[int]:
        """Ids with special tokens. Raises: InvalidArgument, as `embed`."""
        if not text.strip():
            raise InvalidArgument("the prompt is empty: give it a text", "EMPTY_TEXT")
        ids = self.tokenizer(text)["input_ids"]
        if len(ids) > self.max_text_tokens:
            raise InvalidArgument(
                f"the text has {len(ids) - 2} tokens, the limit is {self.max_text_tokens - 2}: "
                "shorten it",
                "TEXT_TOO_LONG",
            )
        return ids


def query_sentences(query: str, limit: int = 8) -> list[str]:
    """The query, and each of its sentences where it has several; scope takes the maximum."""
    parts = [query[low:high].strip() for low, high in sentences(query)]
    return [query] if len(parts) < 2 else [query, *parts[-limit:]]


@dataclass(frozen=True)
class Decision:
    """Whether a query is in scope, by what score, and its nearest fact ("" in an empty bank)."""

    in_scope: bool
    score: float
    fact_id: str


class ScopeDetector:
    """Decides from the nearest written fact of each sentence of a query.

    Attributes:
        name: esd or isd.
        threshold: the score from which a query is in scope.
        reads_prompts: whether `decide` must be given the written prompts of the nearest facts.
    """

    def __init__(
        self, cosine_threshold: float, internal: isd.Isd | None = None, isd_threshold: float = 0.0
    ) -> None:
        """Args: esd's threshold; isd and its threshold where isd decides."""
        self._cosine_threshold = cosine_threshold
        self._internal = internal
        self.name = "esd" if internal is None else "isd"
        self.threshold = cosine_threshold if internal is None else isd_threshold
        self.reads_prompts = internal is not None

    @classmethod
    def open(
        cls, folder: ModelFolder, embedder: SentenceEmbedder, detector: str = ""
    ) -> ScopeDetector:
        """The detector of a model folder.

        Args:
            detector: esd or isd; empty takes the model's own.

        Raises:
            NotFound: the folder has no trained isd.
            InvalidArgument: no such detector, or the trained one is damaged or of another embedder.
        """
        layout: ScopeLayout = folder.config.scope
        detector = detector or layout.detector
        if detector not in DETECTORS:
            raise InvalidArgument(
                f"detector {detector!r}: choose one of {', '.join(DETECTORS)}", "BAD_DETECTOR"
            )
        if detector == "esd":
            return cls(layout.threshold)
        data = folder.file(isd.FILE).read_bytes()
        internal = isd.Isd.from_bytes(data, embedder.tokenizer, embedder.digest)
        return cls(layout.threshold, internal, layout.isd_threshold)

    def by_cosine(self) -> ScopeDetector:
        """The esd of the same model: for when written prompts cannot be read."""
        return ScopeDetector(self._cosine_threshold)

    def decide(
        self,
        parts: Sequence[str],
        nearest: Sequence[tuple[float, str]],
        prompts: Mapping[str, Sequence[str]],
    ) -> Decision:
        """The decision for one query: that of its best sentence.

        Args:
            parts: `query_sentences` of the query.
            nearest: cosine and fact id of the written prompt nearest to each part.
            prompts: by fact id, the prompt and rephrasings of these facts; empty is enough
                where not `reads_prompts`.

        Returns:
            with the cosine as score, or the probability of isd; -1 in an empty bank. A cosine that
            is not above 0 is out of scope for either: passages of documents are written so.
        """
        score, fact_id = -1.0, ""
        for part, (cosine, nearest_id) in zip(parts, nearest, strict=True):
            found = cosine
            if self._internal is not None and nearest_id and cosine > 0:
                found = self._internal.score(part, cosine, prompts[nearest_id])
            if nearest_id and (found > score or not fact_id):
                score, fact_id = found, nearest_id
        return Decision(bool(fact_id) and score >= self.threshold, score, fact_id)
