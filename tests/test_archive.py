"""Archives: every byte comes back, and a folder that was touched is refused by the file's name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from larimar import archive
from larimar.archive import Archive, ArchiveWriter
from larimar.errors import Conflict, DataLoss, NotFound
from larimar.memory import Payload
from tests.archives import log_of


def written(folder, header, records) -> Archive:
    writer = ArchiveWriter(folder, header)
    for record in records:
        writer.add(record)
    return writer.finish()


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "archive", *log_of(5))
    return tmp_path / "archive"


def test_what_was_written_is_read_byte_for_byte(tmp_path):
    header, records = log_of(7)
    made = written(tmp_path / "deep" / "archive", header, records)
    found = Archive(made.folder)
    assert found.header == header
    assert list(found.records()) == records
    assert list(found.records()) == records, "and once more"
    assert sorted(found.files) == ["events.jsonl", "vectors-00001.safetensors"]
    assert found.bytes == sum(entry.stat().st_size for entry in made.folder.iterdir())
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["archive"]


def test_the_same_log_gives_the_same_files(tmp_path):
    first, second = (written(tmp_path / name, *log_of(4)) for name in "ab")
    for name in ("manifest.json", *first.files):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_it_can_be_read_without_us(folder):
    """JSON lines and safetensors: the payload is the text and the arrays."""
    manifest = json.loads((folder / "manifest.json").read_text())
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]
    assert manifest["format"] == "larimar-archive/1"
    assert [line["version"] for line in lines] == list(range(1, manifest["version"] + 1))
    assert [line["kind"] for line in lines][-3:] == ["FORGET", "WRITE", "ERASE"]
    arrays = load_file(folder / "vectors-00001.safetensors")
    assert all(array.dtype in (np.int16, np.int32) for array in arrays.values())
    assert len(arrays) == 3 * 5, "none of the erased fact"
    payload = Payload.from_bytes(next(Archive(folder).records()).payload)
    assert (arrays["addresses.1"] == payload.addresses).all()
    assert (lines[0]["prompt"], lines[0]["answer"]) == (payload.prompt, payload.answer)
    assert "prompt" not in lines[6] and lines[6]["erased"] is True


def test_vectors_are_split_over_files_of_a_stated_size(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "VECTORS_BYTES", 50_000)
    header, records = log_of(30, width=700)
    made = written(tmp_path / "archive", header, records)
    sizes = [(made.folder / name).stat().st_size for name in made.files if name != "events.jsonl"]
    assert len(sizes) > 2 and max(sizes) < 50_000 + 12_000, "one fact more than the limit"
    assert list(made.records()) == records


def test_an_empty_log_is_an_archive_too(tmp_path):
    header = dataclasses.replace(log_of(1)[0], version=0, chain="")
    assert list(written(tmp_path / "archive", header, []).records()) == []


def flip(path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


FILES = ("manifest.json", "events.jsonl", "vectors-00001.safetensors")


@pytest.mark.parametrize("place", [0, 0.3, 0.6, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_its_file_named(folder, name, place):
    size = (folder / name).stat().st_size
    flip(folder / name, place if place in (0, -1) else int(place * size))
    with pytest.raises(DataLoss, match=name) as caught:
        Archive(folder)
    assert caught.value.reason == "BAD_ARCHIVE"


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataLoss, match=f"{name}.*missing"):
        Archive(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_longer_file_is_named(folder, name):
    raw = (folder / name).read_bytes()
    for changed in (raw[:-1], raw + b"\n", b""):
        (folder / name).write_bytes(changed)
        with pytest.raises(DataLoss, match=name):
            Archive(folder)


def test_a_file_too_many_is_named(folder):
    (folder / "vectors-00002.safetensors").write_bytes(b"")
    with pytest.raises(DataLoss, match=r"vectors-00002.safetensors.*too many"):
        Archive(folder)


def resealed(folder, **changed) -> None:
    """Changes files and makes the manifest agree with them, as a forger would."""
    found = Archive(folder)
    header = dataclasses.replace(found.header, **changed.pop("header", {}))
    for name, change in changed.items():
        path = folder / {"events": "events.jsonl", "vectors": "vectors-00001.safetensors"}[name]
        path.write_bytes(change(path.read_bytes()))
    files = {name: archive._file_sha256(folder / name) for name in found.files}
    (folder / "manifest.json").write_bytes(archive._manifest(header, files))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"events": lambda raw: raw.replace(b"Tarsin", b"Tarsim", 1)}, "not its own"),
        ({"events": lambda raw: raw.replace(b'"fact 1"', b'"fact x"', 1)}, "does not follow"),
        ({"events": lambda raw: raw.split(b"\n", 1)[1]}, "lacks the vectors|does not follow"),
        ({"events": lambda raw: raw.rsplit(b"\n", 2)[0] + b"\n"}, "ends elsewhere"),
        ({"events": lambda raw: b"[]\n" + raw}, "events.jsonl"),
        (
            {"events": lambda raw: raw.replace(b'"rephrasings":[]', b'"rephrasings":["r"]', 1)},
            "row",
        ),
        ({"vectors": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])}, "not its own|at most"),
        ({"vectors": lambda raw: b"\0" * len(raw)}, "vectors-00001.safetensors"),
        ({"header": {"version": 7}}, "ends elsewhere"),
    ],
)
def test_a_forged_manifest_does_not_hide_a_changed_log(folder, changed, message):
    """The chain and the salted SHA-256 of each payload are checked too."""
    resealed(folder, **changed)
    with pytest.raises(DataLoss, match=message):
        list(Archive(folder).records())


def test_vectors_of_no_event_are_refused(tmp_path):
    header, records = log_of(3)
    made = written(tmp_path / "archive", header, records)
    lines = (made.folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    kept = lines[:2]
    chain = json.loads(kept[-1])["chain"]
    resealed(
        made.folder,
        events=lambda raw: b"".join(kept),
        header={"version": 2, "chain": chain},
    )
    with pytest.raises(DataLoss, match="vectors of no event"):
        list(Archive(made.folder).records())


def test_nothing_is_overwritten(folder):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(Conflict, match="exists") as caught:
        ArchiveWriter(folder, log_of(1)[0])
    assert caught.value.reason == "ARCHIVE_EXISTS"
    assert (folder / "manifest.json").read_bytes() == before


def test_a_folder_that_comes_meanwhile_is_left_alone(tmp_path):
    header, records = log_of(2)
    writer = ArchiveWriter(tmp_path / "archive", header)
    for record in records:
        writer.add(record)
    (tmp_path / "archive").mkdir()
    with pytest.raises(Conflict):
        writer.finish()
    writer.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]
    assert not list((tmp_path / "archive").iterdir())


def test_what_is_not_whole_is_not_put_there(tmp_path):
    header, records = log_of(2)
    writer = ArchiveWriter(tmp_path / "archive", header)
    for record in records[:-1]:
        writer.add(record)
    with pytest.raises(DataLoss, match="ended at version 4"):
        writer.finish()
    writer.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("places", [(0, 0), (1,), (0, 2)])
def test_entries_that_do_not_follow_are_refused(tmp_path, places):
    header, records = log_of(3)
    writer = ArchiveWriter(tmp_path / "archive", header)
    with pytest.raises(DataLoss, match="does not follow"):
        for place in places:
            writer.add(records[place])
    writer.discard()


def test_a_payload_of_another_entry_is_refused(tmp_path):
    header, records = log_of(3)
    writer = ArchiveWriter(tmp_path / "archive", header)
    for content, message in [(records[1].payload, "not its own"), (b"", "is missing")]:
        with pytest.raises(DataLoss, match=message):
            writer.add(dataclasses.replace(records[0], payload=content))
    writer.discard()


def test_a_folder_without_an_archive_says_so(tmp_path):
    with pytest.raises(NotFound, match=r"manifest\.json"):
        Archive(tmp_path)


def test_archives_need_no_torch():
    check = "import sys, larimar.archive; print([m for m in ('torch', 'grpc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
