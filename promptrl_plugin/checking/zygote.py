"""The process that runs programs: forks a child a job, clocks it, relays what it says, and cleans up.

It is split off from the worker before any expected output is known, so neither it nor any of its children
ever holds one. It looks at nothing that a child sends; it only counts bytes and measures time.

Messages to it: u32 length and a pickled `Job`, or during a job `STOP`, or `NEXT`: its next part has begun.
Messages from it: see `Message`.
"""

from __future__ import annotations

import gc
import json
import pickle
import posix
import random
import resource
import select
import signal
import stat
import sys
import time
from dataclasses import dataclass
from struct import Struct
from typing import Any

from promptrl_plugin.checking import isolation
from promptrl_plugin.checking.guard import ReliabilityGuard, imports_others, preload
from promptrl_plugin.checking.runner import Job, Part, run_job
from promptrl_plugin.checking.syscalls import plain_fork

__all__ = ["LENGTH", "MESSAGE", "NEXT", "STOP", "Message", "ZygoteSettings", "serve"]

LENGTH = Struct("<I")
MESSAGE = Struct("<cdI")  #: kind, seconds since the previous message (or the fork), length of the data
STOP, NEXT = b"", b"n"
_CHUNK = 1 << 18
_TICK, _SLOW_TICK, _QUIET_SECONDS = 4, 20, 0.1  # milliseconds, milliseconds, seconds
_MANY_BYTES = 1 << 15  # in one look: then the child may be waiting for room in the pipe
_FRAME_BYTES = 9000  # that a frame without a value may take
_OUT_FD = 3
_DRAW = ("random", "statistics")  # modules of the standard library that use the one generator that has a seed

# `reliability_guard` takes these out of the modules that programs see; the zygote still needs them.
_kill, _killpg, _chdir, _chmod = posix.kill, posix.killpg, posix.chdir, posix.chmod
_unlink, _rmdir, _monotonic, _usage = posix.unlink, posix.rmdir, time.monotonic, resource.getrusage


class Message:
    """Kinds of messages to the comparer."""

    LAYERS = b"l"  #: the first one: `isolation.Layers.to_json`
    CHUNK = b"c"  #: bytes of frames; its seconds are those of the first result in it
    #: The child is gone; its seconds are those of CPU that it had; data: `EXIT`, `CLOCK` (killed for its time) or
    #: `OUTPUT` (for its size).
    END = b"e"

    EXIT = b"exit"
    CLOCK = b"clock"
    OUTPUT = b"output"


@dataclass(frozen=True, slots=True)
class ZygoteSettings:
    """What the zygote needs to know once.

    Attributes:
        scratch: Empty folder of its own, the only one its children may write to.
        memory_bytes: Address space of a child.
        hidden: Files and folders that children must not see, where mounts can hide them.
        without: Layers to do without, for tests of the others.
    """

    scratch: str
    memory_bytes: int
    hidden: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def serve(fd: int, settings: ZygoteSettings, layers: isolation.Layers) -> None:
    """Run jobs from the socket `fd` until it is closed."""
    preload()
    _detach(fd)
    isolation.enter_zygote(layers, settings.scratch, settings.hidden, settings.without)
    _chdir(settings.scratch)
    _send(fd, Message.LAYERS, 0.0, json.dumps(layers.to_json()).encode())
    guard = ReliabilityGuard()
    sys.setrecursionlimit(1000)
    _limit(settings)
    _warm_up()
    gc.collect()
    gc.freeze()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while (data := _receive(fd)) is not None:
        if data not in (STOP, NEXT):  # else it came too late
            job: Job = pickle.loads(data)
            others = any(imports_others(s) for s in (job.program, *(part.setup for part in job.parts)))
            if others:
                guard.import_numpy()
            _run(fd, job, layers, others or any(name in job.program for name in _DRAW))
            _clean(settings.scratch)


def _limit(settings: ZygoteSettings) -> None:
    """Lower this process's own limits, for its children to inherit; none of them can be raised again."""
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, 256)
    _set_limit(resource.RLIMIT_FSIZE, 1 << 26)
    if settings.memory_bytes > 0:
        # EvalPlus's three; the stack's is what lets a deep recursion end in MemoryError, not in a crash.
        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK):
            _set_limit(which, settings.memory_bytes)


def _set_limit(which: int, limit: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(which, (limit, limit))


def _warm_up() -> None:
    """Run a program of our own here, so that what happens at first use happens once instead of in every child.

    The interpreter specialises code that it runs, fills caches and binds symbols: each a page that a child
    would have to copy.
    """
    null = posix.open("/dev/null", posix.O_WRONLY)
    units = [([1, "a", 0.5, None, (True,)],)] * 20
    part = Part("f", b"", [60.0] * len(units), 60.0, 1 << 16, 1 << 20)
    job = Job("def f(x):\n    return x\n", (part, part))
    for _ in range(3):
        run_job(job, [units, units], null)
    posix.close(null)


def _detach(fd: int) -> None:
    """Keep no file open but the socket and the null device."""
    null = posix.open("/dev/null", posix.O_RDWR)
    for standard in (0, 1, 2):
        posix.dup2(null, standard)
    posix.closerange(3, fd)
    posix.closerange(fd + 1, 1 << 16)


def _run(fd: int, job: Job, layers: isolation.Layers, draws: bool) -> None:
    # What can be made ready before the fork is: while the child lives, every page that either side first writes
    # to has to be copied.
    readable, writable = posix.pipe()
    relay = _Relay(fd, readable, job)
    cpu_limit = 2 * (int(sum(part.total_limit for part in job.parts)) + 2)
    pid = plain_fork()
    if pid == 0:
        try:
            _become_child(writable, cpu_limit, layers)
            if draws:
                random.seed()
            run_job(job, [pickle.loads(part.calls) for part in job.parts], _OUT_FD)
        finally:
            posix._exit(0)
    posix.close(writable)
    try:
        reason = relay.run()
    finally:
        posix.close(readable)
        cpu_seconds = _end(pid, layers)
    _send(fd, Message.END, cpu_seconds, reason)


def _become_child(writable: int, cpu_limit: int, layers: isolation.Layers) -> None:
    layers.enter_child()
    posix.dup2(writable, _OUT_FD)
    posix.closerange(_OUT_FD + 1, 1 << 16)
    posix.setsid()
    _set_limit(resource.RLIMIT_CPU, cpu_limit)


class _Relay:
    """Passes on what a child writes to `readable`; made before the child, since its clock starts with `run`."""

    __slots__ = ("_fd", "_left", "_limits", "_poller", "_readable", "_total")

    def __init__(self, fd: int, readable: int, job: Job) -> None:
        self._fd = fd
        self._readable = readable
        self._left = sum(part.output_limit + _FRAME_BYTES * (len(part.limits) + 4) for part in job.parts)
        self._limits = iter([part.total_limit for part in job.parts])
        self._total = next(self._limits)
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        # Frames are small and many, so do not wake for each: look every few milliseconds, or when the child ends.
        self._poller.register(readable, 0)
        posix.set_blocking(readable, False)

    def run(self) -> bytes:
        """Until the child ends or has to be killed; returns why."""
        last = now = _monotonic()
        end = now + self._total
        while now < end:
            events = self._poller.poll(_SLOW_TICK if now - last > _QUIET_SECONDS else _TICK)
            now = _monotonic()
            if any(fd == self._fd for fd, _ in events):
                if _receive(self._fd) != NEXT:  # to stop; or the worker is gone, and `serve` ends
                    return Message.EXIT
                end = now + next(self._limits)
                continue
            try:
                data = posix.read(self._readable, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return Message.EXIT
            self._left -= len(data)
            if self._left < 0:
                return Message.OUTPUT
            _send(self._fd, Message.CHUNK, now - last, data)
            last = now
            self._poller.modify(self._readable, select.POLLIN if len(data) > _MANY_BYTES else 0)
        return Message.CLOCK


def _end(pid: int, layers: isolation.Layers) -> float:
    """Kill the child and everything that it may have left, and wait for them; the child's seconds of CPU."""
    for kill in (_killpg, _kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:  # already gone, or it left its group
            continue
    before = _usage(resource.RUSAGE_CHILDREN)
    posix.waitpid(pid, 0)
    after = _usage(resource.RUSAGE_CHILDREN)
    _end_others(layers)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _end_others(layers: isolation.Layers) -> None:
    if layers.pid_namespace:  # we are its first process: everything else in it is the program's
        try:
            _kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        while True:
            try:
                posix.waitpid(-1, 0)
            except ChildProcessError:
                return
    while layers.orphans_possible and (orphans := _children()):
        for orphan in orphans:  # they became ours, see `isolation.enter_zygote`
            try:
                _kill(orphan, signal.SIGKILL)
            except ProcessLookupError:
                continue
            posix.waitpid(orphan, 0)


def _children() -> list[int]:
    try:
        fd = posix.open(f"/proc/self/task/{posix.getpid()}/children", posix.O_RDONLY)
    except OSError:
        return []
    try:
        return [int(pid) for pid in posix.read(fd, 1 << 16).split()]
    finally:
        posix.close(fd)


def _clean(scratch: str) -> None:
    for name in posix.listdir(scratch):
        _remove(f"{scratch}/{name}")


def _remove(path: str) -> None:
    try:
        if not stat.S_ISDIR(posix.lstat(path).st_mode):
            _unlink(path)
            return
        _chmod(path, 0o700)
        for name in posix.listdir(path):
            _remove(f"{path}/{name}")
        _rmdir(path)
    except OSError:
        return


def _receive(fd: int) -> bytes | None:
    """The next message; None when the other side is gone."""
    head = _read_exactly(fd, LENGTH.size)
    return None if head is None else _read_exactly(fd, LENGTH.unpack(head)[0])


def _read_exactly(fd: int, count: int) -> bytes | None:
    parts = []
    while count:
        try:
            part = posix.read(fd, min(count, 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(fd: int, kind: bytes, elapsed: float, data: Any) -> None:
    view = memoryview(MESSAGE.pack(kind, elapsed, len(data)) + data)
    try:
        while view:
            view = view[posix.write(fd, view) :]
    except OSError:  # the worker is gone, and its jobs with it
        posix._exit(0)
