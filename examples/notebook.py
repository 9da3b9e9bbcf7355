"""Runs an example of cells and writes it as a notebook with its outputs.

    python examples/notebook.py examples/tour.py

A cell begins with ``# %%`` or, for text, ``# %% [markdown]``. What a cell prints and the figures
that it shows become its outputs. Nothing but the example's own imports is needed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "# %%"
TEXT_MARK = "# %% [markdown]"


@dataclass(frozen=True)
class Cell:
    """A part of an example."""

    source: str
    is_text: bool


def cells_of(script: str) -> list[Cell]:
    """The cells of a script; text cells without their comment signs."""
    cells = []
    for part in ("\n" + script).split(f"\n{MARK}")[1:]:
        head, _, source = part.partition("\n")
        is_text = (MARK + head).strip() == TEXT_MARK
        lines = source.strip("\n").split("\n")
        if is_text:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        cells.append(Cell("\n".join(lines), is_text))
    return cells


def executed(cells: list[Cell]) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, run one after another in one namespace."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    outputs: list[list[dict[str, Any]]] = []
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        outputs.append([])
        if cell.is_text:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, f"cell {number}", "exec"), namespace)
        if printed.getvalue():
            text = printed.getvalue().splitlines(keepends=True)
            outputs[-1].append({"output_type": "stream", "name": "stdout", "text": text})
        outputs[-1] += [_picture(pyplot.figure(figure)) for figure in pyplot.get_fignums()]
        pyplot.close("all")
    return outputs


def notebook(cells: list[Cell], outputs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """A notebook of format 4.5."""
    made = []
    for number, (cell, found) in enumerate(zip(cells, outputs, strict=True)):
        fields: dict[str, Any] = {
            "id": f"cell-{number}",
            "metadata": {},
            "source": cell.source.splitlines(keepends=True),
        }
        if cell.is_text:
            made.append({"cell_type": "markdown", **fields})
        else:
            code = {"cell_type": "code", "execution_count": None, "outputs": found}
            made.append({**code, **fields})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _picture(figure: Any) -> dict[str, Any]:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    picture = base64.b64encode(data.getvalue()).decode()
    return {"output_type": "display_data", "data": {"image/png": picture}, "metadata": {}}


def main(path: Path) -> None:
    """Writes the notebook beside the script."""
    cells = cells_of(path.read_text(encoding="utf-8"))
    made = notebook(cells, executed(cells))
    out = path.with_suffix(".ipynb")
    out.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
