"""The layers that keep a program from the rest of the machine, each used where the machine allows it.

Order of events in a worker: `enter_namespaces` in a process between comparer and zygote, `enter_zygote` in
the zygote, `Layers.enter_child` in every child before it touches the program. What the first two do is paid
once a worker.
"""

from __future__ import annotations

import json
import os
import posix
import signal
import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from promptrl_plugin.checking import namespaces
from promptrl_plugin.checking.landlock import LandlockRules
from promptrl_plugin.checking.seccomp import SeccompFilter
from promptrl_plugin.checking.syscalls import LINUX, forbid_privileges, prctl, prepared, reason

__all__ = [
    "Layer",
    "Layers",
    "die_with_parent",
    "enter_namespaces",
    "enter_zygote",
    "forbid_inspection",
    "probe",
    "readable_paths",
]

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_getpid = posix.getpid
#: Have the kernel kill the calling process as soon as its parent ends; raises OSError.
_die_with_parent = prepared("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) if LINUX else int
_OFF = "switched off"
#: What Python and its libraries read outside their own folders.
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/usr/share/locale",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/mime.types",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip
#: Packages that hold tasks, solutions or expected outputs.
_PRIVATE_PACKAGES = ("promptrl_plugin", "evalplus")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: whether it is in force, and if not, why."""

    name: str
    active: bool
    why_not: str = ""


@dataclass(slots=True)
class Layers:
    """The layers of one zygote.

    Attributes:
        layers: All of them, also those that the machine refuses.
        pid_namespace: The zygote is the first process of its own PID namespace.
    """

    layers: list[Layer] = field(default_factory=list)
    pid_namespace: bool = False
    _landlock: LandlockRules | None = None
    _seccomp: SeccompFilter | None = None

    def add(self, name: str, why_not: str = "") -> None:
        self.layers.append(Layer(name, not why_not, why_not))

    @property
    def orphans_possible(self) -> bool:
        """Whether a program may leave processes that neither its namespace nor the filter takes care of."""
        return LINUX and not self.pid_namespace and self._seccomp is None

    def enter_child(self) -> None:
        """Restrict the calling process, which is about to run a program.

        Raises:
            OSError: A layer that was there at the start is refused now.
        """
        _die_with_parent()
        if self._landlock is not None:
            self._landlock.enter()
        if self._seccomp is not None:
            self._seccomp.install(_getpid())

    def prepare(self, scratch: str, without: Collection[str]) -> None:
        """Build what every child enters."""
        with suppress(OSError):  # then neither works, which `try_out` finds
            forbid_privileges()
        try:
            if "landlock" in without:
                raise OSError(_OFF)
            self._landlock = LandlockRules(scratch, *readable_paths())
            self.add("Landlock")
        except OSError as e:
            self.add("Landlock", reason(e))
        try:
            if "seccomp" in without:
                raise OSError(_OFF)
            self._seccomp = SeccompFilter()
            self.add("seccomp")
        except OSError as e:
            self.add("seccomp", reason(e))

    def to_json(self) -> list[list[object]]:
        return [[layer.name, layer.active, layer.why_not] for layer in self.layers]

    def try_out(self) -> None:
        """Find out in a process of its own whether `enter_child` works, and drop what does not."""
        for name, part in (("Landlock", "_landlock"), ("seccomp", "_seccomp")):
            if getattr(self, part) is None:
                continue
            alone = Layers(_landlock=self._landlock if part == "_landlock" else None,
                           _seccomp=self._seccomp if part == "_seccomp" else None)  # fmt: skip
            why_not = _in_child(alone.enter_child)
            if why_not:
                setattr(self, part, None)
                self.layers = [Layer(name, False, why_not) if x.name == name else x for x in self.layers]


def _in_child(function: Callable[[], None]) -> str:
    """Run `function` in a fork; its OSError as text, "" when it worked."""
    readable, writable = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        text = "refused"
        try:
            function()
            text = ""
        except OSError as e:
            text = reason(e)
        finally:
            posix.write(writable, b"!" + text.encode())
            posix._exit(0)
    posix.close(writable)
    data = posix.read(readable, 200)
    posix.close(readable)
    posix.waitpid(pid, 0)
    return data[1:].decode() if data else "its process died"


def die_with_parent() -> None:
    """Have the kernel kill the calling process as soon as its parent ends."""
    _die_with_parent()


def forbid_inspection() -> None:
    """Keep other processes of the same user from reading this one's memory (`/proc`, ptrace)."""
    if LINUX:
        prctl(_PR_SET_DUMPABLE, 0)


def enter_namespaces(layers: Layers, without: Collection[str] = ()) -> None:
    """Leave the host's namespaces; the next child of the calling process is in the new ones.

    Args:
        layers: Where to note what is in force.
        without: Layers to do without (``"namespaces"``, ``"landlock"``, ``"seccomp"``), for tests of the rest.
    """
    layers.add("own session, process group and scratch folder, empty environment, no open files")
    layers.add("resource limits")
    if not LINUX:
        for name in (*namespaces.NAMESPACES, "user"):
            layers.add(f"{name} namespace", "Linux only")
        return
    die_with_parent()
    missing = dict.fromkeys(namespaces.NAMESPACES, _OFF) if "namespaces" in without else namespaces.unshare()
    for name, why_not in missing.items():
        layers.add(f"{name} namespace", why_not)
    layers.pid_namespace = any(x.name == "PID namespace" and x.active for x in layers.layers)


def enter_zygote(layers: Layers, scratch: str, hidden: Collection[str], without: Collection[str] = ()) -> None:
    """Restrict the calling process, the zygote, and prepare what its children will enter."""
    if not LINUX:
        for name in ("read-only file system", "bounded scratch", "no capabilities", "Landlock", "seccomp"):
            layers.add(name, "Linux only")
        return
    die_with_parent()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what a program leaves behind becomes our child, to be killed
    if any(x.name == "mount namespace" and x.active for x in layers.layers):
        layers.add("read-only file system", namespaces.make_read_only(hidden))
        layers.add("bounded scratch", namespaces.mount_scratch(scratch))
    else:
        layers.add("read-only file system", "needs the mount namespace")
        layers.add("bounded scratch", "needs the mount namespace")
    layers.add("no capabilities", namespaces.drop_capabilities())
    layers.prepare(scratch, without)
    layers.try_out()
    forbid_inspection()


def readable_paths() -> tuple[list[str], list[str]]:
    """What programs may read: Python, its packages and the system's libraries.

    Returns:
        Files and folders that may be read whole, and folders of which only names may be.
    """
    readable, listable = list(_SYSTEM), []
    packages = {str(Path(p).resolve()) for p in (*site.getsitepackages(), *map(str, sys.path)) if p}
    standard = {str(Path(sysconfig.get_paths()[k]).resolve()) for k in ("stdlib", "platstdlib")}
    for folder in sorted(packages | standard):
        path = Path(folder)
        if not path.is_dir():
            if path.is_file():  # a zipped standard library
                readable.append(folder)
        elif "site-packages" in path.parts or "dist-packages" in path.parts:
            listable.append(folder)
            readable += [str(p) for p in path.iterdir() if not p.name.startswith(_PRIVATE_PACKAGES)]
        elif folder in standard or any(path.is_relative_to(s) for s in standard):
            readable += [str(p) for p in path.iterdir() if p.name not in ("site-packages", "dist-packages")]
            listable.append(folder)
        # Any other entry of sys.path is somebody's working folder: programs have no business there.
    return readable, listable


def probe() -> list[tuple[str, bool, str]]:
    """Which layers this machine allows to this user: (name, in force, why not)."""
    with tempfile.TemporaryDirectory(prefix="promptrl-probe-") as scratch:
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _probe(scratch, writable)
            finally:
                os._exit(0)
        os.close(writable)
        with open(readable, "rb") as pipe:
            data = pipe.read()
        os.waitpid(pid, 0)
    if not data:
        return [("every layer", False, "the process that tried them died")]
    return [(str(n), bool(a), str(w)) for n, a, w in json.loads(data)]


def _probe(scratch: str, writable: int) -> None:
    layers = Layers()
    enter_namespaces(layers)
    pid = os.fork()
    if pid == 0:
        try:
            enter_zygote(layers, scratch, ())
            os.write(writable, json.dumps(layers.to_json()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
