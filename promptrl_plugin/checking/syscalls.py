"""The few Linux system calls that Python has no function for, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from typing import Any

__all__ = ["LINUX", "MACHINE", "call", "mount", "prctl", "reason", "syscall"]

LINUX = sys.platform == "linux"
MACHINE = platform.machine()

_libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


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


def prctl(option: int, *args: int) -> int:
    """`prctl(2)`; raises OSError."""
    return call("prctl", option, *(args + (0,) * (4 - len(args))))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """`mount(2)`; raises OSError."""
    call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def reason(error: OSError) -> str:
    """Short text of an error, for the report."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
