"""Namespaces, mounts and capabilities of the zygote; what an unprivileged user cannot have is reported."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct

from promptrl_plugin.checking.syscalls import MACHINE, call, forbid_privileges, mount, prctl, reason, syscall

__all__ = ["drop_capabilities", "make_read_only", "mount_scratch", "unshare"]

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
NAMESPACES = {"PID": _NEWPID, "network": _NEWNET, "mount": _NEWNS, "IPC": _NEWIPC, "UTS": _NEWUTS}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
_MS_BIND = 4096
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_MOUNT_ATTR = Struct("<QQQQ")  # set, clear, propagation, user namespace
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAP_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _CLEAR_ALL = 24, 47, 4
_SCRATCH_BYTES = 256 << 20


def unshare() -> dict[str, str]:
    """Leave as many namespaces as the machine allows; the PID one takes effect for the next child.

    Returns:
        By name of the namespace, why it could not be left ("" where it was).
    """
    missing = {name: _unshare(flag) for name, flag in NAMESPACES.items()}
    if any(missing.values()):
        uid, gid = os.getuid(), os.getgid()
        why = _unshare(_NEWUSER)
        if why:
            return {name: m and f"{m}; user namespace: {why}" for name, m in missing.items()}
        with suppress(OSError):
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
        missing = {name: m and _unshare(NAMESPACES[name]) for name, m in missing.items()}
    return missing


def _unshare(flag: int) -> str:
    try:
        call("unshare", flag)
    except OSError as e:
        return reason(e)
    return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def make_read_only(hidden: Iterable[str]) -> str:
    """In a new mount namespace: all mounts read-only, `hidden` files, folders and other processes out of sight.

    Returns:
        Why not; "" on success.
    """
    try:
        mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        attr = _MOUNT_ATTR.pack(_ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
        syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.c_char_p(attr), len(attr))
    except OSError as e:
        return reason(e)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    try:
        mount("proc", "/proc", "proc", flags | _MS_RDONLY)
    except OSError:  # where parts of it are masked (containers), a fresh one is refused: rather none then
        with suppress(OSError):
            mount("none", "/proc", "tmpfs", flags | _MS_RDONLY, "size=4k")
    for path in hidden:
        with suppress(OSError):
            if os.path.isdir(path):
                mount("none", path, "tmpfs", flags | _MS_RDONLY, "size=4k")
            elif os.path.isfile(path):
                mount("/dev/null", path, "", _MS_BIND)
    return ""


def mount_scratch(scratch: str) -> str:
    """Put a file system of bounded size, gone with the namespace, on the scratch folder; why not, or ""."""
    try:
        mount("none", scratch, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, f"size={_SCRATCH_BYTES},mode=700")
    except OSError as e:
        return reason(e)
    return ""


def drop_capabilities() -> str:
    """Give up every capability for good, and the means to regain one; why not, or ""."""
    try:
        forbid_privileges()
        with suppress(OSError):  # without CAP_SETPCAP, which is then nothing that could be dropped
            for capability in range(64):
                prctl(_PR_CAPBSET_DROP, capability)
        with suppress(OSError):
            prctl(_PR_CAP_AMBIENT, _CLEAR_ALL)
        header = ctypes.create_string_buffer(_CAP_VERSION_3.to_bytes(4, "little") + bytes(4), 8)
        syscall(_CAPSET[MACHINE], header, ctypes.create_string_buffer(24))
    except (OSError, KeyError) as e:
        return reason(e) if isinstance(e, OSError) else f"no system-call numbers for {MACHINE}"
    return ""
