"""Scalars for TensorBoard, written at once and by the calling thread.

The writers of torch and TensorBoard write in a thread of their own, where a full disk ends in a traceback.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from promptrl_plugin.errors import UserError

__all__ = ["ScalarLog"]


class ScalarLog:
    """One event file in a folder (format: TensorBoard's TFRecords of ``Event`` messages).

    Args:
        folder: Made on demand; each process adds a file to it.
        start: What earlier files hold from that step on no longer counts: the run went on before it.

    Raises:
        UserError: From every method: the file cannot be written.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names.
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._file: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb", buffering=0)
        except OSError as e:
            raise self._explain(e) from None
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=start, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, event: Any) -> None:
        try:
            self._records.write(event.SerializeToString())
        except OSError as e:
            raise self._explain(e) from None

    def _explain(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path}: {error.strerror}; free some space or choose another place")
