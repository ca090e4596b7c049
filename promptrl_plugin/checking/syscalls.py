"""The few Linux system calls that Python has no function for, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

__all__ = [
    "LINUX",
    "MACHINE",
    "call",
    "forbid_privileges",
    "mount",
    "plain_fork",
    "prctl",
    "prepared",
    "reason",
    "syscall",
]

LINUX = sys.platform == "linux"
MACHINE = platform.machine()

_libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
# Calls that keep the interpreter's lock: they are short, and a fork's child needs it.
_locked: Any = ctypes.PyDLL(None, use_errno=True) if os.name == "posix" else None
_PR_SET_NO_NEW_PRIVS = 38


def call(name: str, *args: Any) -> int:
    """Call a function of the C library.

    Raises:
        OSError: It returned a negative number, or there is no such function.
    """
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result = int(function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *args: Any) -> int:
    """Make system call `number`; raises OSError."""
    return call("syscall", number, *args)


def prepared(name: str, *args: Any) -> Callable[[], int]:
    """`call` with fixed arguments, made ready so that it touches little memory: each new page costs in a child."""
    function = _locked[name]  # one of its own: attributes are shared by all users of the name
    function.restype = ctypes.c_long
    given = tuple(ctypes.c_long(a) if isinstance(a, int) else a for a in args)

    def make() -> int:
        result: int = function(*given)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    return make


def forbid_privileges() -> None:
    """No new privileges for this process and its children, which Landlock and seccomp ask for; raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def prctl(option: int, *args: int) -> int:
    """`prctl(2)`; raises OSError."""
    return call("prctl", option, *(args + (0,) * (4 - len(args))))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """`mount(2)`; raises OSError."""
    call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def reason(error: OSError) -> str:
    """Short text of an error, for the report."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


#: `fork(2)` without Python's handlers, for a process with one thread; as `os.fork`, also in its errors.
#:
#: The handlers (of `threading`, `random`, `logging`, …) touch some hundred kilobytes, which the child would have to
#: copy. With one thread there is no lock to be reset; random numbers have to be seeded by the caller.
plain_fork: Callable[[], int] = prepared("fork") if LINUX else os.fork
