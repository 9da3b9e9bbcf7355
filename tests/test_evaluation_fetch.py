"""Public files downloaded from a server of our own: whole, resumed, broken off, and wrong ones."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from command_line import command, free_port
from typer.testing import CliRunner

import evaluation.fetch
from evaluation.fetch import ORIGINALS, Original, fetch, named
from larimar.errors import DataLoss, InvalidArgument, Unavailable

CONTENT = bytes(range(256)) * 4096
SUM = hashlib.sha256(CONTENT).hexdigest()


class Files(BaseHTTPRequestHandler):
    """Serves CONTENT; /broken ends after half of it, /whole knows no ranges."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self):
        start = 0
        given = self.headers.get("Range", "")
        self.asked.append((self.path, given))
        if self.path == "/gone":
            self.send_error(404)
            return
        if given and self.path != "/whole":
            start = int(given.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        broken = self.path == "/broken" and not start
        self.wfile.write(body[: len(body) // 2] if broken else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Files.asked.clear()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def original(url, sha256=SUM, **more):
    return Original("made", url, "made.bin", "made here", sha256, **more)


def test_a_file_comes_whole_and_is_checked(server, tmp_path):
    told = []
    one = fetch(original(f"{server}/a"), tmp_path, lambda *done: told.append(done))
    assert (tmp_path / "made.bin").read_bytes() == CONTENT
    assert (one.sha256, one.pinned, one.downloaded, one.bytes) == (SUM, True, True, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["made.bin"]
    again = fetch(original(f"{server}/a"), tmp_path)
    assert not again.downloaded and len(Files.asked) == 1


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    with pytest.raises(Unavailable, match=r"fetch it again|cannot be reached"):
        fetch(original(f"{server}/broken"), tmp_path)
    kept = (tmp_path / "made.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT) and not (tmp_path / "made.bin").exists()
    fetch(original(f"{server}/broken"), tmp_path)
    assert Files.asked[-1] == ("/broken", f"bytes={kept}-")
    assert (tmp_path / "made.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [100, len(CONTENT)])
def test_what_is_there_is_gone_on_with_or_replaced(server, tmp_path, kept):
    for path in ("/a", "/whole"):
        (tmp_path / "made.bin.part").write_bytes(CONTENT[:kept])
        fetch(original(server + path), tmp_path)
        assert (tmp_path / "made.bin").read_bytes() == CONTENT
        (tmp_path / "made.bin").unlink()


def test_a_wrong_file_is_an_error_and_is_not_kept(server, tmp_path):
    with pytest.raises(DataLoss, match="removed"):
        fetch(original(f"{server}/a", "0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "made.bin").write_bytes(b"mine")
    with pytest.raises(DataLoss, match="remove it"):
        fetch(original(f"{server}/a"), tmp_path)
    assert (tmp_path / "made.bin").read_bytes() == b"mine"


def test_a_file_without_a_pinned_sum_says_its_sum(server, tmp_path):
    one = fetch(original(f"{server}/a", ""), tmp_path)
    assert (one.sha256, one.pinned) == (SUM, False)


def test_no_network_and_no_such_file_are_plain_errors(server, tmp_path):
    with pytest.raises(Unavailable, match="no network"):
        fetch(original(f"http://127.0.0.1:{free_port()}/a"), tmp_path)
    with pytest.raises(Unavailable, match="404"):
        fetch(original(f"{server}/gone"), tmp_path)


def test_an_archive_is_unpacked(server, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as files:
        files.writestr("inner/words.txt", "rain")
    (tmp_path / "made.bin").write_bytes(packed.getvalue())
    here = original(f"{server}/a", "", members=("inner/words.txt",))
    assert not fetch(here, tmp_path).downloaded
    assert (tmp_path / "words.txt").read_text() == "rain"
    with pytest.raises(DataLoss, match="holds no inner/other"):
        fetch(original(f"{server}/a", "", members=("inner/other.txt",)), tmp_path)


def test_the_originals_have_names_of_their_own_and_come_by_https():
    assert len({one.name for one in ORIGINALS}) == len({one.file for one in ORIGINALS}) == 5
    assert all(one.url.startswith("https://") for one in ORIGINALS)
    assert all(not one.sha256 or len(bytes.fromhex(one.sha256)) == 32 for one in ORIGINALS)
    assert named(["zsre"]) == [one for one in ORIGINALS if one.name == "zsre"]
    with pytest.raises(InvalidArgument, match="there are counterfact"):
        named(["counterfict"])


def test_the_command_prints_what_it_fetched_and_fails_with_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.fetch, "ORIGINALS", (original(f"{server}/a", ""),))

    def run(*args):
        return CliRunner().invoke(evaluation.fetch.app, ["--out", str(tmp_path), *args])

    said = run("made")
    assert said.exit_code == 0 and SUM in said.stdout and "no sum is pinned" in said.stdout
    assert json.loads(run("--json").stdout)[0]["downloaded"] is False
    (tmp_path / "made.bin").unlink()
    monkeypatch.setattr(evaluation.fetch, "ORIGINALS", (original(f"{server}/gone"),))
    failed = run("--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stderr)["error"]["code"] == "UNAVAILABLE"
    assert run("nothing").exit_code == 1


def test_larimar_hands_over_to_it():
    done = command("data", "fetch", "nothing", "--json")
    assert done.returncode == 1
    assert "there are counterfact" in json.loads(done.stderr)["error"]["message"]
