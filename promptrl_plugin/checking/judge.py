"""The judge: programs in, verdicts out, with EvalPlus's rules and none of its trust."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Self, TypeVar

from promptrl_plugin.checking.base import JudgeRequest, ProbeRequest, TestGroup
from promptrl_plugin.checking.pool import CheckQuestion, ProbeQuestion, Question, Round, WorkerProcess
from promptrl_plugin.checking.probes import ProbeGroup
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import GroupVerdict, content_hash

__all__ = ["RULES_VERSION", "IsolatedJudge", "judge_version"]

RULES_VERSION = 4  #: raised whenever a verdict may change
_VERDICTS = ("strict", "evalplus")

A = TypeVar("A")


class IsolatedJudge:
    """`Judge` over worker processes; see docs/judge.md for the rules and the differences from EvalPlus.

    Each worker is two small processes: one runs programs, isolated as far as the machine allows, the other
    alone knows the expected outputs and compares. They start with the first `check` and stay.

    Args:
        config: Workers, limits and the kind of verdicts.
        without_layers: Isolation layers to do without (see `isolation.enter_namespaces`); for tests of the
            others.

    Attributes:
        version: Changes when verdicts may: rules, EvalPlus, numpy and Python versions, limits.

    Raises:
        ConfigError: `config.verdicts` is unknown, or a limit is not positive.
    """

    def __init__(self, config: JudgeConfig | None = None, *, without_layers: tuple[str, ...] = ()) -> None:
        self.config = config or JudgeConfig()
        self._without = without_layers
        if self.config.verdicts not in _VERDICTS:
            raise ConfigError(f"verdicts must be one of {', '.join(_VERDICTS)}, not {self.config.verdicts!r}")
        if self.config.min_time_limit <= 0 or self.config.gt_time_limit_factor <= 0:
            raise ConfigError("the judge's time limits must be above 0")
        self.version = judge_version(self.config)
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []
        weakref.finalize(self, _stop, self._workers).atexit = False  # then the workers end by themselves
        self._keys: dict[int, tuple[TestGroup | ProbeGroup, str]] = {}

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        """Judge every request; see `Judge.check`. Safe to call from several threads (they take turns)."""
        return self._ask([CheckQuestion(r) for r in requests], on_progress)

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        """Run every program on its generated inputs; see `Judge.execute`. Safe to call from several threads."""
        return self._ask([ProbeQuestion(r) for r in requests])

    def start(self) -> None:
        """Start all workers now, while the caller does something else."""
        with self._lock:
            for _ in range(len(self._workers), self._size()):
                self._workers.append(self._new_worker())

    def warm_up(self) -> None:
        """Start all workers, and wait until the first `check` need not wait for them."""
        self.start()
        with self._lock:
            for worker in self._workers:
                worker.wait_ready()

    def layers(self) -> list[tuple[str, bool, str]]:
        """Isolation layers as the first worker reports them: name, whether it is in force, why not."""
        self.warm_up()
        return [(name, active, why_not) for name, active, why_not in self._workers[0].layers]

    def close(self) -> None:
        """End the worker processes; calling it twice is harmless, and `check` starts new ones."""
        with self._lock:
            _stop(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, questions: Sequence[Question[A]], on_progress: Callable[[int], None] | None = None) -> list[A]:
        with self._lock:
            for _ in range(len(self._workers), min(self._size(), len(questions))):
                self._workers.append(self._new_worker())
            try:
                return Round(self._workers, questions, self._key, self._new_worker, on_progress).run()
            except BaseException:  # interrupted: what the workers would still send belongs to no one
                _stop(self._workers)
                raise

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self.config, self._without)

    def _size(self) -> int:
        return self.config.workers or _cores()

    def _key(self, group: TestGroup | ProbeGroup) -> str:
        """`group.key`, which hashes all inputs, computed once an object."""
        known = self._keys.get(id(group))
        if known is None or known[0] is not group:
            known = self._keys[id(group)] = (group, group.key)
        return known[1]


def _stop(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.connection.close()  # all leave at the same time
    for worker in workers:
        worker.stop()
    workers.clear()


def _cores() -> int:
    # What this process may use, where the system knows that.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def judge_version(config: JudgeConfig) -> str:
    """`IsolatedJudge.version` of a judge with these settings."""
    parts = (
        RULES_VERSION,
        version("evalplus"),
        version("numpy"),
        sys.version_info[:3],
        config.verdicts,
        config.min_time_limit,
        config.gt_time_limit_factor,
        config.memory_bytes,
    )
    return f"promptrl-judge-{RULES_VERSION}-{content_hash(*parts)[:12]}"
