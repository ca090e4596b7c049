"""What became of each task in one cell of a comparison: its submission judged, and what each budget would have got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Self

from promptrl_plugin.checking.base import Judge
from promptrl_plugin.env.feedback import judge_hidden, passes_hidden
from promptrl_plugin.env.selection import choose
from promptrl_plugin.errors import SamplesError
from promptrl_plugin.harnesses.samples import sibling
from promptrl_plugin.records import GroupVerdict, Status
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.suites.base import Suite

__all__ = ["Outcome", "outcomes_of", "submitted_after"]


_KINDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "task_id": (str,),
        "base": (bool,),
        "strict": (bool,),
        "soft": (float, int),
        "visible": (bool, NoneType),
        "generations": (int,),
        "prompt_tokens": (int,),
        "completion_tokens": (int,),
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task in one cell.

    Attributes:
        task_id: Id of the task.
        base, strict: Whether the submission passes the base tests; base and plus tests.
        soft: Share of base and plus tests that it passes.
        visible: Whether it passes the visible tests, None where they were not looked at.
        generations, prompt_tokens, completion_tokens: What was spent.
        curve: ``curve[k]``: whether what would have been submitted after ``k + 1`` generations is right.
        actions: Actions taken, where the strategy has any.
    """

    task_id: str
    base: bool
    strict: bool
    soft: float
    visible: bool | None
    generations: int
    prompt_tokens: int
    completion_tokens: int
    curve: tuple[bool, ...]
    actions: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """An outcome as JSON gives it back.

        Raises:
            KeyError, TypeError: It is none: something is missing, or of another type.
        """
        lists = {name: tuple(row[name]) for name in ("curve", "actions")}
        outcome = cls(**{**row, **lists})
        typed = all(type(getattr(outcome, name)) in kinds for name, kinds in _KINDS.items())
        if not typed or {*map(type, outcome.curve)} - {bool} or {*map(type, outcome.actions)} - {str}:
            raise TypeError("no outcome")
        return outcome


def outcomes_of(samples: Path, suite: Suite, judge: Judge, budget: int, *, oracle: bool = False) -> list[Outcome]:
    """Judge what a samples file submits, and every program on the way; in the suite's order.

    Args:
        samples: The samples; their traces are beside them.
        suite: The suite.
        judge: Runs the hidden tests.
        budget: Length of the curves.
        oracle: The strategy saw hidden tests, so what its traces tell is not of the visible ones.

    Raises:
        SamplesError: The samples or their traces are damaged.
    """
    submitted = {r["task_id"]: r["solution"] for r in read_jsonl(samples)}
    traces = {r["task_id"]: r for r in read_jsonl(sibling(samples, ".trace.jsonl"))}
    if lacking := submitted.keys() - traces.keys():
        raise SamplesError(
            f"{sibling(samples, '.trace.jsonl')} has no line for {min(lacking)}; delete {samples} and run again: "
            "what was generated is in the cache"
        )
    hidden = suite.hidden()
    tasks = [t for t in suite.tasks() if t.id in submitted]
    finals = [(t, hidden[t.id], submitted[t.id]) for t in tasks]
    others = [(t, hidden[t.id], p) for t in tasks for p in _others(submitted[t.id], traces[t.id])]
    judged = {t.id: verdicts for (t, _, _), verdicts in zip(finals, judge_hidden(judge, finals), strict=True)}
    right = {(t.id, p): passes for (t, _, p), passes in zip(others, passes_hidden(judge, others), strict=True)}
    right |= {(t.id, p): _passes(judged[t.id]) for t, _, p in finals}
    outcomes = []
    for task in tasks:
        program, trace = submitted[task.id], traces[task.id]
        verdicts = judged[task.id]
        later = [submitted_after(trace["candidates"], k, program, trace["generations"]) for k in range(1, budget + 1)]
        outcomes.append(
            Outcome(
                task_id=task.id,
                base=verdicts[0].status is Status.PASS,
                strict=right[task.id, program],
                soft=sum(sum(v.passed) for v in verdicts) / sum(v.total for v in verdicts),
                visible=None if oracle or (seen := trace["visible_status"]) is None else seen == Status.PASS,
                generations=trace["generations"],
                prompt_tokens=trace["prompt_tokens"],
                completion_tokens=trace["completion_tokens"],
                curve=tuple(p is not None and right[task.id, p] for p in later),
                actions=tuple(trace["actions"]),
            )
        )
    return outcomes


def submitted_after(candidates: Sequence[Mapping[str, Any]], generations: int, final: str, spent: int) -> str | None:
    """The program that would have been submitted had the strategy been stopped after so many generations.

    By the rule of `env.selection`.

    Args:
        candidates: Of the trace, in order: ``generations``, ``visible``, ``outcomes`` and ``solution``.
        generations: When to stop.
        final: What was submitted in the end.
        spent: Generations spent by then.
    """
    if generations >= spent:
        return final
    seen = [c for c in candidates if c["generations"] <= generations]
    if not seen:
        return None
    programs = [str(c["solution"]) for c in seen]
    return programs[choose([c["visible"] or 0.0 for c in seen], programs, [c.get("outcomes") for c in seen])]


def _others(submitted: str, trace: Mapping[str, Any]) -> list[str]:
    """The programs on the way that were not submitted."""
    return [p for p in dict.fromkeys(c["solution"] for c in trace["candidates"]) if p != submitted]


def _passes(verdicts: Sequence[GroupVerdict]) -> bool:
    return all(v.status is Status.PASS for v in verdicts)
