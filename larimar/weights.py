"""Weights on disk: safetensors files of a bounded size, mapped into memory when they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SHARD_BYTES = 2 * 10**9
"""Bytes of tensors in one file: below what stores of files and old file systems take."""
_SCALE = "::scale"
_SMALLEST_INT8 = 4096
"""Entries from which a matrix is worth a scale for each of its rows."""

MODE = 0o644
"""Of a file of weights: whoever serves a model need not be who trained it."""


def shard_names(stem: str, files: Iterable[str]) -> list[str]:
    """Those of `files` that hold the weights of `stem`, in order."""
    pattern = re.compile(re.escape(stem) + r"(-\d{5})?\.safetensors")
    return sorted(name for name in files if pattern.fullmatch(name))


def write_shards(
    tensors: Mapping[str, torch.Tensor],
    folder: Path,
    stem: str,
    dtype: torch.dtype,
    max_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors to `stem`.safetensors, or to numbered files of at most `max_bytes` each.

    Files take their names when all of them are whole; older ones of `stem` are removed. A
    tensor past `max_bytes` has a file of its own. Memory: a copy of one file at a time.

    Args:
        dtype: what floating-point tensors are stored in; int8 stores matrices as whole numbers
            with a scale for each row, and the rest as bfloat16.
    """
    groups = [*_groups(tensors, dtype, max_bytes)]
    written = []
    for number, keys in enumerate(groups, start=1):
        name = f"{stem}.safetensors" if len(groups) == 1 else f"{stem}-{number:05d}.safetensors"
        stored: dict[str, torch.Tensor] = {}
        for key in keys:
            stored |= _stored(key, tensors[key].detach(), dtype)
        save_file(stored, folder / f"{name}.tmp")
        (folder / f"{name}.tmp").chmod(MODE)
        written.append(name)
    for name in shard_names(stem, os.listdir(folder)):
        if name not in written:
            (folder / name).unlink()
    for name in written:
        os.replace(folder / f"{name}.tmp", folder / name)


def read_shards(paths: Iterable[Path], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of `write_shards`, floating-point ones in `dtype`.

    What is stored in `dtype` is not copied: its pages are read when they are used.
    """
    raw: dict[str, torch.Tensor] = {}
    for path in paths:
        raw |= load_file(path)
    return {
        key: _restored(tensor, raw.get(key + _SCALE), dtype)
        for key, tensor in raw.items()
        if not key.endswith(_SCALE)
    }


def _groups(
    tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, max_bytes: int
) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for key, tensor in tensors.items():
        kept = dtype if tensor.is_floating_point() else tensor.dtype
        size = tensor.numel() * kept.itemsize
        if group and held + size > max_bytes:
            yield group
            group, held = [], 0
        group.append(key)
        held += size
    if group:
        yield group


def _stored(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if not tensor.is_floating_point():
        return {key: tensor.contiguous().clone()}
    if dtype != torch.int8:
        return {key: tensor.to(dtype, copy=True).contiguous()}
    if tensor.ndim < 2 or tensor.numel() < _SMALLEST_INT8:
        return {key: tensor.to(torch.bfloat16, copy=True).contiguous()}
    scale = tensor.float().abs().amax(-1, keepdim=True) / 127
    whole = (tensor.float() / scale.clamp(min=1e-30)).round().to(torch.int8)
    return {key: whole.contiguous(), key + _SCALE: scale.contiguous()}


def _restored(tensor: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    if scale is not None:
        return (tensor.float() * scale).to(dtype)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
