"""JSON Lines files that survive a kill: one object a line, appended whole, a torn last line mended.

A process killed in mid-write leaves at most a last line without its newline. Reading may leave that line
out, and appending first cuts it off, so a second run finds exactly what is still owed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from promptrl_plugin.errors import SamplesError, UserError

__all__ = ["JsonlAppender", "read_jsonl"]


def read_jsonl(path: str | Path, *, allow_torn_tail: bool = False) -> list[dict[str, Any]]:
    """Read every object of a JSON Lines file; blank lines are skipped.

    Args:
        path: The file.
        allow_torn_tail: Leave out a last line that is incomplete and has no newline (the mark of a killed
            writer) instead of raising.

    Raises:
        SamplesError: The file cannot be read, or a line is not a JSON object; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as e:
        raise SamplesError(f"cannot read {path}: {e.strerror}; check the path") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            torn = number == len(lines)  # nothing comes after it, not even a newline
            if torn and allow_torn_tail:
                break
            what = "is torn (the writer was killed)" if torn else "is not a JSON object"
            raise SamplesError(f"{path}, line {number} {what}; delete the line, or make the file again")
        records.append(record)
    return records


class JsonlAppender:
    """Appends objects to a JSON Lines file, each with one write; cuts off a torn last line first.

    One process at a time may have it open, where the file system has locks.

    Args:
        path: The file, made on demand with its folder.

    Raises:
        UserError: From every method: the file cannot be written (no permission, disk full, another writer).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fd: int | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            _lock(self._fd)
            _mend(self._fd)
        except OSError as e:
            self.close()
            raise self._explain(e) from None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one object as one line; it survives a kill of the process once this returns."""
        line = json.dumps(dict(record)).encode("ascii") + b"\n"
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as e:
            raise self._explain(e) from None

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _explain(self, error: OSError) -> UserError:
        if isinstance(error, BlockingIOError):
            return UserError(f"another process is writing {self.path}; wait for its end, or choose another place")
        return UserError(f"cannot write {self.path}: {error.strerror}; free some space or choose another place")


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # no locks here
        return


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # also covers bytes that are not UTF-8
        return None
    return record if isinstance(record, dict) else None


def _mend(fd: int) -> None:
    """Make the file end with a newline: finish a last line that is complete, cut off one that is not."""
    size = os.fstat(fd).st_size
    tail = b""
    start = size
    while start > 0 and b"\n" not in tail:
        step = min(65536, start)
        start -= step
        tail = os.pread(fd, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return
    if _parse(last) is not None:
        os.write(fd, b"\n")
    else:
        os.ftruncate(fd, size - len(last))
