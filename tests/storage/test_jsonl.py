from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptrl_plugin.errors import SamplesError, UserError
from promptrl_plugin.storage.jsonl import JsonlAppender, read_jsonl

RECORDS = [{"task_id": "Mbpp/2", "solution": "a\nb"}, {"task_id": "Mbpp/3", "solution": 'é"\ud800'}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "samples.jsonl"
    with JsonlAppender(path) as out:
        for record in RECORDS:
            out.append(record)
    return path


def test_what_is_appended_is_read(path: Path) -> None:
    assert read_jsonl(path) == RECORDS
    with JsonlAppender(path) as out:
        out.append({"x": 1})
    assert read_jsonl(path) == [*RECORDS, {"x": 1}]


def test_each_line_is_on_file_at_once(path: Path) -> None:
    out = JsonlAppender(path)
    out.append({"x": 1})
    assert len(read_jsonl(path)) == 3
    out.close()
    out.close()
    with pytest.raises(ValueError, match="closed"):
        out.append({"x": 2})


@given(cut=st.integers(min_value=1))
def test_a_kill_at_any_byte_costs_at_most_the_last_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "s.jsonl"
    with JsonlAppender(path) as out:
        for record in RECORDS:
            out.append(record)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    kept = read_jsonl(path, allow_torn_tail=True)
    assert kept == RECORDS[: len(kept)]
    assert len(kept) >= path.read_bytes().count(b"\n")
    with JsonlAppender(path) as out:
        for record in RECORDS[len(kept) :]:
            out.append(record)
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_one_read(path: Path) -> None:
    with path.open("ab") as f:
        f.write(b'{"x": "' + b"y" * 200_000)
    with JsonlAppender(path) as out:
        out.append({"x": 1})
    assert read_jsonl(path) == [*RECORDS, {"x": 1}]


def test_a_last_line_without_newline_that_is_whole_is_kept(path: Path) -> None:
    path.write_bytes(b'{"x": 1}')
    assert read_jsonl(path) == [{"x": 1}]
    with JsonlAppender(path) as out:
        out.append({"x": 2})
    assert read_jsonl(path) == [{"x": 1}, {"x": 2}]


def test_strict_reading_names_the_torn_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"x": ')
    with pytest.raises(SamplesError, match=r"samples\.jsonl, line 3 is torn"):
        read_jsonl(path)


@pytest.mark.parametrize("bad", [b"nonsense", b"[1]", b"\xff{}", b"3"])
@pytest.mark.parametrize("tolerant", [True, False])
def test_a_foreign_line_is_an_error_in_either_mode(path: Path, bad: bytes, tolerant: bool) -> None:
    path.write_bytes(bad + b"\n\n" + path.read_bytes())
    with pytest.raises(SamplesError, match="line 1 is not a JSON object"):
        read_jsonl(path, allow_torn_tail=tolerant)


def test_blank_lines_and_crlf_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'\n{"x": 1}\r\n\r\n{"x": 2}\n\n')
    assert read_jsonl(path) == [{"x": 1}, {"x": 2}]


def test_missing_file_and_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="No such file"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        JsonlAppender(tmp_path / "file" / "s.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk() -> None:
    with JsonlAppender("/dev/full") as out, pytest.raises(UserError, match=r"No space left.*free some space"):
        out.append({"x": 1})
