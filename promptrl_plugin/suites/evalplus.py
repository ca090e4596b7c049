"""MBPP+ and HumanEval+, read through EvalPlus's own loaders and override variables."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import DataError, UnknownNameError
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests
from promptrl_plugin.suites.visible import visible_tests

__all__ = ["EvalPlusSuite", "convert", "tasks_hash"]

#: Seconds without a byte from the network after which EvalPlus's download counts as failed.
_NETWORK_TIMEOUT = 10.0


def convert(raw: Mapping[str, Any], suite: str, dataset: str) -> tuple[Task, HiddenTests]:
    """Turn one task of EvalPlus's schema into what a solver may see and what grades it.

    Args:
        raw: A task as `evalplus.data.get_mbpp_plus` or `get_human_eval_plus` returns it, that is with
            deserialised inputs. Fields used: ``task_id``, ``prompt``, ``entry_point``,
            ``canonical_solution``, ``base_input``, ``plus_input``, ``atol``.
        suite: Name of the suite that the task goes under.
        dataset: ``"mbpp"`` or ``"humaneval"``: which of EvalPlus's oracles and dialects applies.

    Returns:
        The task and its hidden tests. The reference is prompt + canonical solution, which is the
        program that `evalplus.evaluate.get_groundtruth` computes the expected outputs with.

    Raises:
        DataError: A field is missing.
    """
    try:
        task_id, prompt, entry_point = raw["task_id"], raw["prompt"], raw["entry_point"]
        reference = prompt + raw["canonical_solution"]
        inputs = {"base": tuple(raw["base_input"]), "plus": tuple(raw["plus_input"])}
        atol = float(raw["atol"])
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(
            f"task {raw.get('task_id', '?')} of suite {suite!r} is not in EvalPlus's schema ({e!r}); "
            "download the data again"
        ) from None
    task = Task(
        id=task_id,
        suite=suite,
        dialect=dataset,
        prompt=prompt,
        entry_point=entry_point,
        visible=visible_tests(prompt, entry_point, dataset),
    )
    base, plus = (
        CallGroup(
            dataset=dataset,
            task_id=task_id,
            entry_point=entry_point,
            reference=reference,
            inputs=inputs[kind],
            atol=atol,
            kind=kind,
        )
        for kind in ("base", "plus")
    )
    return task, HiddenTests(base=base, plus=plus, reference=reference)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where EvalPlus keeps a data set: its module, its loader and its names in that module."""

    module: str
    loader: str
    override: str  #: environment variable and module attribute at once
    release: str  #: module attribute with the version tag
    ready_path: str  #: function that returns the file, downloading it if need be
    asset: str  #: name of the release file


_SOURCES = {
    "mbpp": _Source(
        module="evalplus.data.mbpp",
        loader="get_mbpp_plus",
        override="MBPP_OVERRIDE_PATH",
        release="MBPP_PLUS_VERSION",
        ready_path="_ready_mbpp_plus_path",
        asset="MbppPlus",
    ),
    "humaneval": _Source(
        module="evalplus.data.humaneval",
        loader="get_human_eval_plus",
        override="HUMANEVAL_OVERRIDE_PATH",
        release="HUMANEVAL_PLUS_VERSION",
        ready_path="_ready_human_eval_plus_path",
        asset="HumanEvalPlus",
    ),
}


class EvalPlusSuite:
    """MBPP+ (``"mbpp"``) or HumanEval+ (``"humaneval"``) as the installed EvalPlus loads it.

    Args:
        name: ``"mbpp"`` or ``"humaneval"``.

    Attributes:
        version: EvalPlus's release tag and a hash of the tasks, e.g. ``"v0.2.0+3f9a0c…"``.
        evalplus_dataset: The same as `name`.
        data_path: The file that EvalPlus read: the override, or its own cache.

    Raises:
        UnknownNameError: `name` is neither.
        DataError: The data is missing and cannot be downloaded, or is malformed.
    """

    def __init__(self, name: str) -> None:
        if name not in _SOURCES:
            raise UnknownNameError("EvalPlus suite", name, _SOURCES)
        raw, tag, self.data_path = _load(_SOURCES[name])
        pairs = [convert(task, name, name) for task in raw.values()]
        self.name = name
        self.evalplus_dataset: str | None = name
        self.version = f"{tag}+{tasks_hash(pairs)}"
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}

    def tasks(self) -> Sequence[Task]:
        """Every task, in the file's order."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden


def tasks_hash(pairs: Iterable[tuple[Task, HiddenTests]]) -> str:
    """Short hash of all that tasks and their hidden tests contain."""
    return content_hash(*([task.id, task.prompt, *(g.key for g in hidden.groups)] for task, hidden in pairs))[:12]


def _load(source: _Source) -> tuple[dict[str, dict[str, Any]], str, Path]:
    """Run EvalPlus's loader; returns its tasks, its release tag and the file that it read."""
    with _without_datasets():
        module = importlib.import_module(source.module)
    tag: str = getattr(module, source.release)
    remedy = (
        f"point {source.override} at a copy of {source.asset}.jsonl.gz ({tag}) from "
        f"https://github.com/evalplus/{source.asset.lower()}_release/releases"
    )
    with _override(module, source.override) as override:
        try:
            with _patient_network(), contextlib.redirect_stdout(sys.stderr):
                path = Path(getattr(module, source.ready_path)())
        except Exception as e:  # whatever wget raises: no network, no such release, folder not writable
            raise DataError(f"cannot download {source.asset} ({_short(e)}); {remedy}") from None
        try:
            raw: dict[str, dict[str, Any]] = getattr(module, source.loader)()
        except (OSError, EOFError) as e:
            raise DataError(f"cannot read {path} ({_short(e)}); {remedy}") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as e:
            mend = f"correct {source.override}" if override else "delete it to download it again"
            raise DataError(f"{path} is not EvalPlus's {source.asset} data ({_short(e)}); {mend}") from None
    if not raw:
        raise DataError(f"{path} holds no tasks; {remedy}")
    return raw, tag, path


@contextlib.contextmanager
def _without_datasets() -> Iterator[None]:
    """`evalplus.data` imports `datasets` (a second) for EvalPerf alone; have it do so when that is asked for."""
    name = "datasets"
    if name in sys.modules or "evalplus.data" in sys.modules:
        yield
        return
    later = types.ModuleType(name)
    later.load_dataset = lambda *args, **kwargs: importlib.import_module(name).load_dataset(*args, **kwargs)  # type: ignore[attr-defined]
    sys.modules[name] = later
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _override(module: Any, variable: str) -> Iterator[str | None]:
    """Let EvalPlus see the override variable of now; it reads it once, when first imported."""
    before = getattr(module, variable)
    override = os.environ.get(variable) or before
    setattr(module, variable, override)
    try:
        yield override
    finally:
        setattr(module, variable, before)


@contextlib.contextmanager
def _patient_network() -> Iterator[None]:
    """Give sockets a time limit; EvalPlus downloads through urllib, which by default waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _short(error: BaseException) -> str:
    """First line of an error, bounded, with its type."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}".rstrip(": ")
