"""Start of a worker process: forks the zygote while the interpreter is small, then becomes the comparer.

The zygote is split off before numpy and EvalPlus are imported, let alone any expected output: each of its
forks costs with what is in it.
"""

from __future__ import annotations

import os
import pickle
import select
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from promptrl_plugin.checking import isolation
from promptrl_plugin.checking.zygote import ZygoteSettings, serve

__all__ = ["WorkerSettings", "main"]

_LEAVE_SECONDS = 0.3  # that the zygote may take to end by itself


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at its start; all times in seconds."""

    scratch: str
    expected_folder: str
    memory_bytes: int
    min_time_limit: float
    gt_time_limit_factor: float
    verdicts: str
    hidden: tuple[str, ...]
    without: tuple[str, ...] = ()


def main(fd: int) -> None:
    """Run a worker on the socket `fd`, until the judge closes it; entry point of the process."""
    sys.setrecursionlimit(10_000)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(fd)
    settings: WorkerSettings = pickle.loads(connection.recv_bytes())
    zygote, parent = _split_off(settings, fd)
    # A thread, since the main one may be in the middle of a long comparison or reference.
    watch = (fd, zygote, parent, settings.scratch)
    watcher = threading.Thread(target=_leave_with_the_judge, args=watch, daemon=True)
    watcher.start()
    isolation.forbid_inspection()
    from promptrl_plugin.checking.worker import Worker
    from promptrl_plugin.checking.zygote_client import ZygoteDiedError

    try:
        Worker(settings, zygote).serve(connection)
    except ZygoteDiedError:
        if not _hung_up(fd, 0):
            os._exit(3)  # the judge starts another worker
    watcher.join()  # it ends the process


def _split_off(settings: WorkerSettings, judge_fd: int) -> tuple[socket.socket, int]:
    """Fork the zygote; the socket to it, and the id of its parent, which lives as long as it does."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.close(judge_fd)
            _start_zygote(theirs.fileno(), settings)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


def _start_zygote(fd: int, settings: WorkerSettings) -> None:
    """Fork the zygote into its namespaces and wait for its end: only a child is in a new PID namespace."""
    layers = isolation.Layers()
    isolation.enter_namespaces(layers, settings.without)
    pid = os.fork()
    if pid == 0:
        try:
            serve(fd, _zygote_settings(settings), layers)
        finally:
            os._exit(0)
    os.close(fd)
    os.waitpid(pid, 0)


def _zygote_settings(s: WorkerSettings) -> ZygoteSettings:
    return ZygoteSettings(s.scratch, s.memory_bytes, s.hidden, s.without)


def _leave_with_the_judge(judge_fd: int, zygote: socket.socket, parent: int, scratch: str) -> None:
    """Wait until the judge is gone, closed or killed; then end and remove all that was for it."""
    _hung_up(judge_fd, None)
    # The zygote ends by itself, so that its parent reaps it: what is left to the machine's init may stay for
    # seconds, or in a container for ever.
    with suppress(OSError):
        zygote.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + _LEAVE_SECONDS
    while not os.waitpid(parent, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(parent, signal.SIGKILL)  # whatever it has started goes with it, see `isolation`
        time.sleep(0.002)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _hung_up(fd: int, milliseconds: int | None) -> bool:
    """Whether the other side is gone; waits for it (None: for ever)."""
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(milliseconds))
