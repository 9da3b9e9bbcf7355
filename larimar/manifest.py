"""What a model folder says of itself: configuration and digests, read without loading a weight."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

from larimar.config import ModelConfig
from larimar.errors import InvalidArgument, NotFound

FORMAT = "larimar-model/1"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The config.json of a model folder."""

    path: Path
    config: ModelConfig
    sha256: dict[str, str]
    recorded: dict[str, Any]
    """The configuration as its file has it, which digests are made of."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Reads the configuration; other files are checked when they are loaded.

        Raises:
            NotFound: there is no model folder at `path`.
            InvalidArgument: it is not a model folder of this version.
        """
        folder = Path(path)
        try:
            document = json.loads((folder / "config.json").read_text())
        except FileNotFoundError as error:
            raise NotFound(
                f"no model folder at {folder}: give --model a folder with a config.json, "
                "or train one with `larimar train`",
                "MODEL_NOT_FOUND",
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"{folder}/config.json is not JSON: {error}", "BAD_MODEL"
            ) from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidArgument(_no_model(folder, document), "BAD_MODEL")
        try:
            config = ModelConfig.from_json(json.dumps(document["model"]))
        except ValueError as error:
            raise InvalidArgument(f"{folder}/config.json: {error}", "BAD_MODEL") from error
        return cls(folder, config, document["sha256"], document["model"])

    @property
    def model_digest(self) -> str:
        """Digest of the whole folder: configuration and every file."""
        model = json.dumps(self.recorded, sort_keys=True, indent=1)
        files = json.dumps(self.sha256, sort_keys=True)
        return hashlib.sha256((model + files).encode()).hexdigest()

    def damaged(self) -> list[str]:
        """Files that are missing, or are not those that the digests were made of."""
        return [
            name
            for name, digest in self.sha256.items()
            if not (self.path / name).is_file() or file_sha256(self.path / name) != digest
        ]


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_model(folder: Path, document: Any) -> str:
    if isinstance(document, dict) and "model_type" in document:
        return (
            f"{folder} is a Hugging Face model of kind {document['model_type']}, which has no "
            "encoder and no connector yet: train them for it with "
            f"`larimar train any --decoder {folder}`"
        )
    return f"{folder}/config.json is not a {FORMAT} configuration"
