"""System-call filter of the children (seccomp-BPF), written as raw instructions.

Denied: new processes and programs, network, other processes (signals, ptrace, their memory, limits and
scheduling), kernel objects that outlive a process (System V IPC, message queues, keys), changes of a file's
mode, owner, times and attributes (which Landlock does not cover), and everything that administers the
machine. Threads, files and a pair of connected stream sockets (asyncio needs it) remain. System calls newer
than this list do not exist for the program.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from struct import Struct

from promptrl_plugin.checking.syscalls import MACHINE, prepared

__all__ = ["SeccompFilter", "supported"]

# Name: (number on x86_64, number on aarch64; None where it does not exist). From the kernel's unistd headers.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242),
    "bind": (49, 200), "listen": (50, 201),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "swapon": (167, 224), "swapoff": (168, 225),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89), "quotactl": (179, 60),
    "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None),
    "personality": (135, 92), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "uselib": (134, None),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
#: Decided by an argument, see `_conditions`.
_KILL, _TGKILL, _PRLIMIT, _AFFINITY = (62, 129), (234, 131), (302, 261), (203, 122)
_CLONE, _SOCKETPAIR, _SENDTO, _PRCTL, _IOCTL = (56, 220), (53, 199), (44, 206), (157, 167), (16, 29)
_LAST_OLD = (334, 294)  # the numbers up to here belong to one machine, from 424 on to all
_NEW_ALLOWED = (436, 439, 441, 449)  # close_range, faccessat2, epoll_pwait2, futex_waitv
_ARCH = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}  # AUDIT_ARCH, column, seccomp(2)

_LD, _JEQ, _JGT, _JGE, _JSET, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_NR, _ARCH_AT, _ARGS = 0, 4, 16
_X32 = 0x3FFFFFFF  # x32 system calls have a bit above this
_CLONE_THREAD, _AF_UNIX, _SOCK_STREAM = 0x10000, 1, 1
_PR_SET_PDEATHSIG, _TIOCSTI, _TIOCLINUX = 1, 0x5412, 0x541C
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_LEAF = 3  # numbers that are compared one after another
_SELF = -1  # stands for the child's own process id until it is known

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


_FILTER, _OPERAND = Struct("=HBBI"), Struct("=I")  # struct sock_filter, and its last field


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def supported() -> bool:
    """Whether the filter's numbers are known for this machine."""
    return MACHINE in _ARCH


class SeccompFilter:
    """The filter, built once; `install` puts it on the calling process.

    That happens in every child, where each new page costs: so the call is made ready here, and only the process's
    id is written into it. No new privileges (`syscalls.forbid_privileges`) must be in force.

    Raises:
        OSError: This machine's architecture is not known here.
    """

    def __init__(self) -> None:
        if not supported():
            raise OSError(errno.ENOSYS, f"no system-call numbers for {MACHINE}")
        arch, column, seccomp = _ARCH[MACHINE]
        program = _program(arch, column)
        last_field = _FILTER.size - _OPERAND.size
        self._own = [i * _FILTER.size + last_field for i, x in enumerate(program) if x[3] == _SELF]
        self._code = bytearray(b"".join(_FILTER.pack(c, t, f, k & 0xFFFFFFFF) for c, t, f, k in program))
        buffer = (ctypes.c_char * len(self._code)).from_buffer(self._code)
        self._program = _SockFprog(len(program), ctypes.cast(buffer, ctypes.c_void_p))
        given = ctypes.byref(self._program)
        # Without SPEC_ALLOW older kernels slow the whole process down (speculative store bypass).
        self._install = prepared("syscall", seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, given)
        self._install_plainly = prepared("syscall", seccomp, _SET_MODE_FILTER, 0, given)

    def install(self, pid: int) -> None:
        """Filter the calling process, whose id is `pid`, from now on and for good.

        Raises:
            OSError: The kernel refuses.
        """
        for at in self._own:
            _OPERAND.pack_into(self._code, at, pid)
        try:
            self._install()
        except OSError:
            self._install_plainly()


def _program(arch: int, column: int) -> list[_Instruction]:
    program: list[_Instruction] = [
        (_LD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, arch),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD, 0, 0, _NR),
    ]
    if column == 0:
        program += [(_JGT, 0, 1, _X32), (_RET, 0, 0, _ENOSYS)]
    program += [(_JGT, 0, 2 + len(_NEW_ALLOWED), _LAST_OLD[column])]
    program += [(_JEQ, len(_NEW_ALLOWED) - i, 0, n) for i, n in enumerate(_NEW_ALLOWED)]
    program += [(_RET, 0, 0, _ENOSYS), (_RET, 0, 0, _ALLOW)]
    bodies = {n: [(_RET, 0, 0, _EPERM)] for pair in _DENIED.values() if (n := pair[column]) is not None}
    return program + _search(sorted((bodies | _conditions(column)).items()))


def _search(bodies: Sequence[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    """Binary search of the loaded number, since the kernel tries every number when a filter is installed.

    Args:
        bodies: By number, in order, what decides on it; each ends in a return. Others are allowed.
    """
    if len(bodies) > _LEAF:
        middle = len(bodies) // 2
        below, rest = _search(bodies[:middle]), _search(bodies[middle:])
        return [(_JGE, len(below), 0, bodies[middle][0]), *below, *rest]
    tests = [x for number, body in bodies for x in ((_JEQ, 0, len(body), number), *body)]
    return [*tests, (_RET, 0, 0, _ALLOW)]


def _conditions(column: int) -> dict[int, list[_Instruction]]:
    """What decides by an argument, by number."""

    def arg(index: int, high: bool = False) -> _Instruction:
        return (_LD, 0, 0, _ARGS + 8 * index + 4 * high)

    allow, deny = (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _EPERM)

    own = [arg(0), (_JEQ, 0, 1, _SELF), allow, deny]
    own_or_zero = [arg(0), (_JEQ, 1, 0, 0), (_JEQ, 0, 1, _SELF), allow, deny]
    return {
        _KILL[column]: own,
        _TGKILL[column]: own,
        _PRLIMIT[column]: own_or_zero,
        _AFFINITY[column]: own_or_zero,
        # clone makes threads only; clone3 hides its flags, and libc falls back when it does not exist.
        _CLONE[column]: [arg(0), (_JSET, 0, 1, _CLONE_THREAD), allow, deny],
        _SOCKETPAIR[column]: [
            arg(0), (_JEQ, 0, 5, _AF_UNIX), arg(1), (0x54, 0, 0, 0xF), (_JEQ, 0, 2, _SOCK_STREAM), allow, deny, deny,
        ],
        # send is sendto without an address; with one it would reach sockets of others.
        _SENDTO[column]: [arg(4), (_JEQ, 0, 3, 0), arg(4, True), (_JEQ, 0, 1, 0), allow, deny],
        _PRCTL[column]: [arg(0), (_JEQ, 0, 1, _PR_SET_PDEATHSIG), deny, allow],
        _IOCTL[column]: [arg(1), (_JEQ, 1, 0, _TIOCSTI), (_JEQ, 0, 1, _TIOCLINUX), deny, allow],
    }  # fmt: skip
