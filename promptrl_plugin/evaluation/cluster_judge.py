"""Judging on a Ray cluster: programs go in batches to a judge on every node; a batch whose judge dies to another."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from promptrl_plugin.checking.base import JudgeRequest, ProbeRequest, TestGroup
from promptrl_plugin.config import JudgeConfig, from_dict, to_dict
from promptrl_plugin.errors import JudgeError
from promptrl_plugin.evaluation.cluster import Cluster
from promptrl_plugin.records import GroupVerdict

__all__ = ["ClusterJudge"]

_RETRIES = 5  # of a batch of programs whose judge died
_BATCH = 32  # programs that a judge is sent at once


class _NodeJudge:
    """The judge of one node; an actor."""

    def __init__(self, config: dict[str, Any], workers: int) -> None:
        from promptrl_plugin.checking.judge import IsolatedJudge

        settings: JudgeConfig = from_dict(JudgeConfig, config)
        self._judge = IsolatedJudge(replace(settings, workers=workers))
        self._groups = dict[str, TestGroup]()

    def version(self) -> str:
        return self._judge.version

    def check(self, requests: Sequence[JudgeRequest]) -> list[tuple[GroupVerdict | None, ...]]:
        # Every batch brings its groups again; the judge keeps those that it has seen.
        return self._judge.check(
            [replace(r, groups=tuple(self._groups.setdefault(g.key, g) for g in r.groups)) for r in requests]
        )

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        return self._judge.execute(requests)

    def close(self) -> None:
        self._judge.close()


class ClusterJudge:
    """`Judge` on all nodes of a cluster, with as many workers on each as it has CPUs.

    A judge that dies is replaced as long as its node lives; its batch of programs goes to whichever is idle.

    Raises:
        JudgeError: A node's judge is another version than this machine's, or none could be started; from every
            method: no node is left, or a batch ended the judges that had it.
    """

    def __init__(self, cluster: Cluster, config: JudgeConfig) -> None:
        from promptrl_plugin.checking.judge import judge_version

        self._cluster, self._ray, self._config = cluster, cluster.ray, to_dict(config)
        self.version = judge_version(config)
        started = [(node, self._start(node, cpus)) for node, cpus, _ in cluster.nodes()]
        self._actors = dict[Any, str]()  # each with its node
        for node, actor in started:
            with suppress(*self._deaths()):
                theirs = self._ray.get(actor.version.remote())
                if theirs != self.version:
                    raise JudgeError(
                        f"node {node[:8]} judges by {theirs}, this machine by {self.version}; install one promptrl, "
                        "EvalPlus, numpy and Python on all"
                    )
                self._actors[actor] = node
        if not self._actors:
            raise JudgeError("no node of the Ray cluster could start a judge; try `promptrl judge` on one of them")

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        """See `Judge.check`."""
        return self._spread("check", requests, on_progress)

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        """See `Judge.execute`."""
        return self._spread("execute", requests, None)

    def close(self) -> None:
        """End the judges on the nodes; calling it twice is harmless."""
        for actor in self._actors:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.close.remote(), timeout=10)
            self._ray.kill(actor)
        self._actors = {}

    def _start(self, node: str, cpus: int) -> Any:
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        judge = self._ray.remote(_NodeJudge).options(num_cpus=0, scheduling_strategy=strategy)
        return judge.remote(self._config, cpus)

    def _deaths(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.RayActorError, errors.NodeDiedError, errors.ActorUnschedulableError

    def _replacement(self, dead: Any) -> list[Any]:
        """Another judge on the node of one that died; none if the node is gone."""
        lost = self._actors.pop(dead)
        fresh = [self._start(node, cpus) for node, cpus, _ in self._cluster.nodes() if node == lost]
        self._actors |= dict.fromkeys(fresh, lost)
        return fresh

    def _spread(self, method: str, requests: Sequence[Any], on_progress: Callable[[int], None] | None) -> list[Any]:
        """Batches to whichever judge is idle; one whose judge died goes to another."""
        answers: list[Any] = [None] * len(requests)
        size = max(1, min(_BATCH, math.ceil(len(requests) / max(1, 4 * len(self._actors)))))
        owed, deaths = deque(range(0, len(requests), size)), Counter[int]()
        idle, running = list(self._actors), dict[Any, tuple[Any, int]]()
        while owed or running:
            while owed and idle:
                actor, start = idle.pop(), owed.popleft()
                running[getattr(actor, method).remote(list(requests[start : start + size]))] = actor, start
            if not running:
                raise JudgeError("every node of the Ray cluster that judged is gone; run the command again")
            (ready, *_), _ = self._ray.wait(list(running), num_returns=1)
            actor, start = running.pop(ready)
            try:
                judged = self._ray.get(ready)
            except self._deaths() as e:
                deaths[start] += 1
                if deaths[start] > _RETRIES:
                    why = " ".join(str(e).split())[:200]
                    raise JudgeError(
                        f"programs {start} to {min(start + size, len(requests)) - 1} ended {deaths[start]} judges "
                        f"({why}); judge them without --ray to see why"
                    ) from None
                idle += self._replacement(actor)
                owed.appendleft(start)
                continue
            idle.append(actor)
            answers[start : start + size] = judged
            if on_progress is not None:
                for i in range(start, start + len(judged)):
                    on_progress(i)
        return answers
