"""Records of an evaluation that survive a stop, and never what is not theirs."""

from __future__ import annotations

import pytest

from evaluation.records import FILE, Records
from larimar.errors import FailedPrecondition, InvalidArgument

RUN = {"name": "x", "sizes": (1, 2)}


def test_records_come_back_and_the_run_goes_on(tmp_path):
    first = Records(tmp_path, RUN)
    first.add("1", {"a": 0.5})
    first.add("é", [None, 1])
    again = Records(tmp_path, RUN)
    assert dict(again) == {"1": {"a": 0.5}, "é": [None, 1]}
    again.add("3", {})
    assert list(Records(tmp_path, RUN)) == ["1", "é", "3"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_line_is_dropped(tmp_path, cut):
    records = Records(tmp_path, RUN)
    records.add("1", 1)
    records.add("2", "a longer measurement")
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-cut])
    again = Records(tmp_path, RUN)
    assert list(again) == ["1"]
    again.add("2", 2)
    assert dict(Records(tmp_path, RUN)) == {"1": 1, "2": 2}


def test_nothing_but_a_cut_off_first_line_is_refused(tmp_path):
    Records(tmp_path, RUN)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidArgument, match="no file of an evaluation"):
        Records(tmp_path, RUN)
    path.write_bytes(b"")
    assert len(Records(tmp_path, RUN)) == 0


def test_records_of_another_run_are_refused_until_they_are_dropped(tmp_path):
    Records(tmp_path, RUN).add("1", 1)
    with pytest.raises(FailedPrecondition, match=r"\(name, new differ\).*--fresh"):
        Records(tmp_path, RUN | {"name": "y", "new": 1})
    assert dict(Records(tmp_path, RUN | {"name": "y"}, fresh=True)) == {}
    assert dict(Records(tmp_path, RUN | {"name": "y"})) == {}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("content", [b'{"case_id": 1}\n', b"[]\n", b"text\n", b"no line end"])
def test_a_file_of_something_else_is_left_alone(tmp_path, content, fresh):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(InvalidArgument, match="--out"):
        Records(tmp_path, RUN, fresh)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    Records(tmp_path, RUN).add("1", 1)
    with (tmp_path / FILE).open("a") as file:
        file.write("{]\n")
    with pytest.raises(InvalidArgument, match=":3: not JSON"):
        Records(tmp_path, RUN)
