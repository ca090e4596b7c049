"""A judge that remembers: a (tests, program) pair is judged once for each version of the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from promptrl_plugin.checking.base import Judge, JudgeRequest, ProbeRequest, TestGroup, ends_with
from promptrl_plugin.checking.outcomes import OUTCOMES_VERSION
from promptrl_plugin.records import GroupVerdict, content_hash
from promptrl_plugin.storage.cache import Cache, verdict_key

__all__ = ["CachingJudge"]

_CHUNK = 256  # requests judged between two writes: what a killed run may lose


@dataclass(slots=True)
class _Asked:
    """One request: its keys, and which of its verdicts are known."""

    request: JudgeRequest
    keys: list[str]
    known: dict[int, GroupVerdict] = field(default_factory=dict)

    def missing(self) -> list[int]:
        """Positions of the groups that have to be judged, given what ends the request."""
        positions = []
        for i in range(len(self.keys)):
            if i not in self.known:
                positions.append(i)
            elif self._ends_with(self.known[i]):
                break
        return positions

    def verdicts(self) -> tuple[GroupVerdict | None, ...]:
        """All verdicts in order, None after one that stopped the request."""
        answer: list[GroupVerdict | None] = []
        for i in range(len(self.keys)):
            before = answer[-1] if answer else None
            stopped = answer and (before is None or self._ends_with(before))
            answer.append(None if stopped else self.known.get(i))
        return tuple(answer)

    def _ends_with(self, verdict: GroupVerdict) -> bool:
        return ends_with(verdict, self.request.stop_early, self.request.stop_hung)


class CachingJudge:
    """`Judge` over another one and a `Cache`. Verdicts of status ``ERROR`` are never stored.

    Args:
        inner: The judge that runs programs. It is closed with this one.
        cache: Where verdicts are kept. It is not closed with the judge.

    Attributes:
        hits / misses: Groups of tests answered from the cache, and by the inner judge.
    """

    def __init__(self, inner: Judge, cache: Cache) -> None:
        self.inner = inner
        self.cache = cache
        self.version = inner.version
        self.hits = 0
        self.misses = 0
        self._keys: dict[int, tuple[TestGroup, str]] = {}

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        """Judge every request, identical ones once; see `Judge.check`.

        Raises:
            CacheError: The cache file failed.
        """
        asked = [_Asked(r, self._request_keys(r)) for r in requests]
        stored = self.cache.get_verdicts(k for a in asked for k in a.keys)
        for a in asked:
            a.known = {i: stored[k] for i, k in enumerate(a.keys) if k in stored}
        owed = [i for i, a in enumerate(asked) if a.missing()]
        if on_progress is not None:
            for i in sorted(set(range(len(asked))) - set(owed)):
                on_progress(i)
        for start in range(0, len(owed), _CHUNK):
            self._judge([asked[i] for i in owed[start : start + _CHUNK]], owed[start : start + _CHUNK], on_progress)
        answers = [a.verdicts() for a in asked]
        self.hits += sum(v is not None for verdicts in answers for v in verdicts)
        return answers

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        """Run every program on its generated inputs, identical ones once; see `Judge.execute`.

        Raises:
            CacheError: The cache file failed.
        """
        keys = [content_hash("outcomes", OUTCOMES_VERSION, r.group.key, r.program, self.version) for r in requests]
        known: dict[str, tuple[str, ...] | None] = dict(self.cache.get_outcomes(keys))
        owed = {k: r for k, r in zip(keys, requests, strict=True) if k not in known}
        new = dict(zip(owed, self.inner.execute(list(owed.values())) if owed else (), strict=True))
        self.cache.put_outcomes({k: v for k, v in new.items() if v is not None})
        known |= new
        return [known[k] for k in keys]

    def close(self) -> None:
        """Close the inner judge."""
        self.inner.close()

    def _judge(self, asked: list[_Asked], numbers: list[int], on_progress: Callable[[int], None] | None) -> None:
        """Judge the missing groups of these requests, once where several ask for the same."""
        positions: dict[tuple[object, ...], list[int]] = {}
        for n, a in enumerate(asked):
            same = (*(a.keys[i] for i in a.missing()), a.request.stop_early, a.request.stop_hung)
            positions.setdefault(same, []).append(n)
        firsts = [ns[0] for ns in positions.values()]

        def report(at: int) -> None:
            if on_progress is not None:
                for n in positions[list(positions)[at]]:
                    on_progress(numbers[n])

        requests = [_narrowed(asked[n]) for n in firsts]
        new: dict[str, GroupVerdict] = {}
        for (_, ns), verdicts in zip(positions.items(), self.inner.check(requests, report), strict=True):
            missing = asked[ns[0]].missing()
            judged = {i: v for i, v in zip(missing, verdicts, strict=True) if v is not None}
            self.misses += len(judged)
            self.hits -= len(judged)  # `check` counts every verdict as a hit
            new |= {asked[ns[0]].keys[i]: v for i, v in judged.items()}
            for n in ns:
                asked[n].known |= judged
        self.cache.put_verdicts(new)

    def _request_keys(self, request: JudgeRequest) -> list[str]:
        settings: dict[str, bool | int] = {"fail_fast": request.fail_fast}
        if request.give_up_after and not request.fail_fast:
            settings["give_up_after"] = request.give_up_after
        return [verdict_key(self._group_key(g), request.program, self.version, settings) for g in request.groups]

    def _group_key(self, group: TestGroup) -> str:
        known = self._keys.get(id(group))
        if known is None or known[0] is not group:
            known = self._keys[id(group)] = (group, group.key)
        return known[1]


def _narrowed(asked: _Asked) -> JudgeRequest:
    """The request without the groups whose verdict is known."""
    return replace(asked.request, groups=tuple(asked.request.groups[i] for i in asked.missing()))
