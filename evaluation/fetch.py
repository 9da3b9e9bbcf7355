"""``python -m evaluation.fetch NAME``: the public files that the evaluations read, downloaded.

A file comes over HTTPS into NAME.part, which a later call goes on with, and gets its name when it
is whole and, where its SHA-256 is pinned, the file that was pinned.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from larimar.cli.console import console, emit, emit_error, say
from larimar.errors import DataLoss, InvalidArgument, LarimarError, Unavailable

TIMEOUT_S = 30.0
"""Without a byte: then there is no network, or no such server."""
CHUNK_BYTES = 1 << 18
_KNOWLEDGE_SPREAD = (
    "https://raw.githubusercontent.com/Jometeorie/KnowledgeSpread/"
    "51d7402617c2e52bde0dc11b76e400c3725a181a/data/"
)


@dataclass(frozen=True, slots=True)
class Original:
    """A public file."""

    name: str
    """That `fetch` is given."""
    url: str
    file: str
    """What it is called here, as `all` looks for it."""
    what: str
    sha256: str = ""
    """Empty where it is not pinned."""
    members: tuple[str, ...] = ()
    """Of an archive, what is unpacked beside it."""


ORIGINALS = (
    Original(
        "counterfact",
        "https://rome.baulab.info/data/dsets/counterfact.json",
        "counterfact.json",
        "CounterFact in its original form, 21,919 records",
    ),
    Original(
        "counterfact-easyedit",
        _KNOWLEDGE_SPREAD + "counterfact/counterfact-train.json",
        "counterfact-train.json",
        "CounterFact in EasyEdit's form, 10,000 records",
        "f7d443ffb0c5da6cbe816cdac45281ccb3f204b8a840f00d07a4aafa949bcd76",
    ),
    Original(
        "zsre",
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
        "zsre_mend_eval.json",
        "ZsRE in MEND's form, evaluation part",
    ),
    Original(
        "zsre-train-1k",
        _KNOWLEDGE_SPREAD + "zsre/zsre_mend_train-1k.json",
        "zsre_mend_train-1k.json",
        "ZsRE in MEND's and EasyEdit's form, 1,000 records of the training part",
        "e62596101d8ed551889c26c0d2a5277f92eaef3b14416d8eaee39b04a244ab60",
    ),
    Original(
        "wikitext103",
        "https://wikitext.smerity.com/wikitext-103-v1.zip",
        "wikitext-103-v1.zip",
        "WikiText-103; its test and validation parts are unpacked",
        members=("wikitext-103/wiki.test.tokens", "wikitext-103/wiki.valid.tokens"),
    ),
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there."""

    name: str
    path: str
    bytes: int
    sha256: str
    pinned: bool
    """Whether the sum was compared with a known one."""
    downloaded: bool
    """False: it was there already."""


Progressed = Callable[[int, int | None], None]
"""Told how many bytes are there, and how many there will be where the server says."""


def fetch(
    original: Original, out: Path, progressed: Progressed = lambda done, total: None
) -> Fetched:
    """A public file in a folder, downloaded unless it is there.

    Raises:
        Unavailable: the server cannot be reached, or breaks off; what came is kept, and the same
            call goes on with it.
        DataLoss: the file is not the one that was pinned. It is removed where it was downloaded.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / original.file
    part = path.with_name(path.name + ".part")
    downloaded = not path.is_file()
    if downloaded:
        _download(original.url, part, progressed)
    sha256 = _sha256(part if downloaded else path)
    if original.sha256 and sha256 != original.sha256:
        if downloaded:
            part.unlink()
        raise DataLoss(
            f"{path.name} has SHA-256 {sha256}, not {original.sha256}: "
            + ("it was removed; fetch it again" if downloaded else "remove it and fetch it again")
        )
    if downloaded:
        part.replace(path)
    _unpack(path, original.members)
    size = path.stat().st_size
    return Fetched(original.name, str(path), size, sha256, bool(original.sha256), downloaded)


def named(names: Sequence[str]) -> list[Original]:
    """The files of these names; all of them for no name.

    Raises:
        InvalidArgument: an unknown name.
    """
    known = {one.name: one for one in ORIGINALS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidArgument(f"no data {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(ORIGINALS)


def _download(url: str, part: Path, progressed: Progressed) -> None:
    """Brings what `part` lacks of a file."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                done = 0  # the server sends the whole file
            length = response.headers.get("Content-Length")
            total = done + int(length) if length else None
            with part.open("ab" if done else "wb") as file:
                while block := response.read(CHUNK_BYTES):
                    file.write(block)
                    done += len(block)
                    progressed(done, total)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # all of it is there
        raise Unavailable(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(
            f"{url} cannot be reached ({reason}): there is no network here, or the server is "
            "down; download the file elsewhere and put it into the folder"
        ) from error
    if total is not None and done < total:
        raise Unavailable(f"{url} broke off after {done} of {total} bytes: fetch it again")


def _unpack(archive: Path, members: Sequence[str]) -> None:
    """Puts an archive's members beside it, without their folders, where they are not yet."""
    for member in members:
        target = archive.parent / Path(member).name
        if target.is_file():
            continue
        try:
            with zipfile.ZipFile(archive) as files, files.open(member) as source:
                part = target.with_name(target.name + ".part")
                with part.open("wb") as file:
                    shutil.copyfileobj(source, file)
                part.replace(target)
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataLoss(
                f"{archive} holds no {member} ({error}): remove it and fetch it again"
            ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


app = typer.Typer(add_completion=False)


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Of {', '.join(one.name for one in ORIGINALS)}. [default: all]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder that they go into.")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Downloads the public files of the evaluations, and checks them where a sum is known.

    Example: larimar data fetch zsre-train-1k --out data
    """
    found, failed = [], False
    try:
        wanted = named(names or [])
    except LarimarError as error:
        emit_error(error.reason, error.message, as_json)
        raise typer.Exit(1) from error
    for original in wanted:
        try:
            found.append(_fetch_shown(original, out, as_json))
        except LarimarError as error:
            failed = True
            emit_error(error.reason, error.message, as_json)
    if as_json:
        emit([asdict(one) for one in found])
    if failed:
        raise typer.Exit(1)


def _fetch_shown(original: Original, out: Path, as_json: bool) -> Fetched:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console(stderr=True), disable=as_json, transient=True
    ) as progress:
        task = progress.add_task(original.name, total=None)
        one = fetch(
            original,
            out,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not as_json:
        kind = "as pinned" if one.pinned else "no sum is pinned for it; compare it yourself"
        say(f"{one.path}: {one.bytes:,} bytes, SHA-256 {one.sha256}, {kind}")
    return one


if __name__ == "__main__":
    app(prog_name="larimar data fetch")
