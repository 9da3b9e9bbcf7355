"""Scope: does this query concern something that was written?

ESD of the paper: sentence embeddings, nearest neighbour by cosine over the prompts
of written facts. The embedder only; the index is part of the folded state.
Source: Das et al., arXiv 2403.11901, section 4.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from larimar.encoder import BUCKET_ROWS, BUCKET_TOKENS, bucketed, padded_rows
from larimar.errors import InvalidArgument, NotFound

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


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

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings, float32 (N, S).

        Raises:
            InvalidArgument: an empty text, or one past `max_text_tokens`.
        """
        rows = [self.tokenize(text) for text in texts]
        out = np.empty((len(rows), self.size), np.float32)
        for length, members in bucketed([len(row) for row in rows]):
            ids_BT = torch.full((BUCKET_ROWS, length), self.tokenizer.pad_token_id)
            mask_BT = torch.zeros((BUCKET_ROWS, length), dtype=torch.long)
            for place, ids in enumerate(padded_rows([rows[i] for i in members])):
                ids_BT[place, : len(ids)] = torch.tensor(ids)
                mask_BT[place, : len(ids)] = 1
            with torch.inference_mode():
                features = self.model(
                    {"input_ids": ids_BT.to(self.device), "attention_mask": mask_BT.to(self.device)}
                )
                embeddings_BS = features["sentence_embedding"].float().cpu().numpy()
            out[members] = embeddings_BS[: len(members)]
        return out / np.linalg.norm(out, axis=1, keepdims=True)

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
    parts = [part for part in _SENTENCE_END.split(query.strip()) if part]
    return [query] if len(parts) < 2 else [query, *parts[-limit:]]
