"""File and network rules of the children (Landlock, Linux 5.13 and later); needs no privilege.

A child may read the Python installation and the system's libraries, and write in its scratch folder and to
the null device. Nothing else exists for it: not the caches, not the expected outputs, not ``/proc`` of others.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from struct import Struct

from promptrl_plugin.checking.syscalls import prepared, syscall

__all__ = ["LandlockRules", "abi"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every machine
_ACCESS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # number of file access rights (bits)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_NET_TCP, _SCOPE_ALL = 0b11, 0b11
_ATTR, _PATH_RULE = Struct("<QQQ"), Struct("<Qi")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def abi() -> int:
    """Version of Landlock that the kernel offers; 0 where it has none."""
    try:
        return syscall(_CREATE, None, 0, 1)
    except OSError:
        return 0


class LandlockRules:
    """The rules, built once; `enter` puts them on the calling process.

    Args:
        scratch: Folder that may be written to.
        readable: Files and folders that may be read, with all that is below.
        listable: Folders of which only names may be read, with those below.

    Raises:
        OSError: The kernel has no Landlock.
    """

    def __init__(self, scratch: str, readable: Iterable[str], listable: Iterable[str]) -> None:
        version = abi()
        if version < 1:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self.abi = version
        self._all = (1 << _ACCESS_BY_ABI.get(version, 16)) - 1
        attr = _ATTR.pack(self._all, _NET_TCP if version >= 4 else 0, _SCOPE_ALL if version >= 6 else 0)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        self._fd = syscall(_CREATE, ctypes.c_char_p(attr), size, 0)
        self._allow(scratch, self._all & ~_EXECUTE)
        for path in readable:
            self._allow(path, _READ_FILE | _READ_DIR)
        for path in listable:
            self._allow(path, _READ_DIR)
        for path in _DEVICES:
            self._allow(path, _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL)
        self._restrict = prepared("syscall", _RESTRICT, self._fd, 0)

    def enter(self) -> None:
        """Restrict the calling process from now on and for good; needs `syscalls.forbid_privileges`.

        Raises:
            OSError: The kernel refuses.
        """
        self._restrict()

    def _allow(self, path: str, access: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not there
            return
        try:
            if not os.path.isdir(path):
                access &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
            rule = _PATH_RULE.pack(access & self._all, fd)
            syscall(_ADD, self._fd, 1, ctypes.c_char_p(rule), 0)
        finally:
            os.close(fd)
