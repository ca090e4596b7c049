"""The figures of a comparison: computed here once, for every table and page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptrl_plugin.config import SEEDLESS
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation.compare import Outcome
from promptrl_plugin.evaluation.statistics import (
    Comparison,
    Interval,
    bootstrap_interval,
    compare_pairs,
    holm,
    paired_bootstrap,
    won_and_lost,
)

__all__ = [
    "Contest",
    "CurvePoint",
    "Spending",
    "Summary",
    "by_strategy",
    "contests",
    "reference_of",
    "spending",
    "summarise",
]

Seeds = dict[int, list[Outcome]]
"""Outcomes of one strategy by seed."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Where a strategy is once every task may have spent so many generations.

    Attributes:
        allowed: Generations allowed per task.
        spent: Generations spent per task by then, on average.
        strict: Share of tasks whose submission at that point is right.
    """

    allowed: int
    spent: float
    strict: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What a strategy spent on average; None per solved task where it solved none."""

    per_task: float
    per_solved: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One strategy over its tasks and seeds; shares are in [0, 1].

    Attributes:
        strategy: Its label.
        seeds: Seeds that were run.
        tasks: Number of tasks.
        base: Share of submissions that pass the base tests.
        strict, soft: pass@1 with its interval.
        visible: Share of submissions that pass the visible tests, None where the strategy does not look at them.
        gap: Share of submissions that pass the visible tests and fail the hidden ones, None likewise.
        false_visible: The same as a share of those that pass the visible tests.
        generations, tokens: What was spent; tokens are those read and written.
        curve: From one generation allowed to the whole budget.
    """

    strategy: str
    seeds: tuple[int, ...]
    tasks: int
    base: float
    strict: Interval
    soft: Interval
    visible: float | None
    gap: float | None
    false_visible: float | None
    generations: Spending
    tokens: Spending
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """The reference strategy against one other, on the tasks and seeds that both have.

    Attributes:
        strict: Of strict pass@1, with exact test and paired bootstrap.
        soft: Difference of soft pass@1.
        soft_p, soft_holm: Its two-sided bootstrap p, alone and corrected over all contests.
        won, lost: Ids of the tasks that the reference, that the other solves in a larger share of the seeds.
        reach: The first point of the reference's curve that has the other's final strict pass@1, None if none has.
        theirs: Generations that the other spends per task.
    """

    strict: Comparison
    soft: Interval
    soft_p: float
    soft_holm: float
    won: tuple[str, ...]
    lost: tuple[str, ...]
    reach: CurvePoint | None
    theirs: float


def by_strategy(results: Mapping[str, list[Outcome]]) -> dict[str, Seeds]:
    """Outcomes by strategy and seed, from outcomes by cell name (`Cell.name`).

    Raises:
        ConfigError: There are none, or cells are of different tasks.
    """
    found: dict[str, Seeds] = {}
    for cell, outcomes in results.items():
        strategy, _, seed = cell.rpartition("-s")
        found.setdefault(strategy, {})[int(seed)] = outcomes
    tasks = {cell: [o.task_id for o in outcomes] for cell, outcomes in results.items()}
    whole = max(tasks.values(), key=len, default=[])
    if not whole:
        raise ConfigError("there is no outcome to report; run `promptrl compare` first")
    if short := [cell for cell, ids in tasks.items() if ids != whole]:
        raise ConfigError(f"{short[0]} is of other tasks than the rest; run `promptrl compare` again to complete it")
    return found


def reference_of(strategies: Sequence[str]) -> str:
    """The strategy that the others are held against: promptrl, or the last one."""
    return "promptrl" if "promptrl" in strategies else strategies[-1]


def summarise(strategy: str, seeds: Seeds) -> Summary:
    """The figures of one strategy."""
    cells = list(seeds.values())
    every = [o for cell in cells for o in cell]
    n, solved = len(every), sum(o.strict for o in every)
    looked = [o for o in every if o.visible is not None]
    shown = [o for o in looked if o.visible]
    wrong = sum(not o.strict for o in shown)
    return Summary(
        strategy=strategy,
        seeds=tuple(seeds),
        tasks=len(cells[0]),
        base=sum(o.base for o in every) / n,
        strict=bootstrap_interval([[o.strict for o in cell] for cell in cells]),
        soft=bootstrap_interval([[o.soft for o in cell] for cell in cells]),
        visible=len(shown) / len(looked) if looked else None,
        gap=wrong / len(looked) if looked else None,
        false_visible=wrong / len(shown) if shown else None,
        generations=spending([o.generations for o in every], solved),
        tokens=spending([o.prompt_tokens + o.completion_tokens for o in every], solved),
        curve=_curve(every),
    )


def contests(strategies: Mapping[str, Seeds], reference: str) -> list[Contest]:
    """`reference` against every other strategy with which it shares a seed."""
    ours = strategies[reference]
    pairs = {
        n: pair
        for n, theirs in strategies.items()
        if n != reference and (pair := _paired(ours, theirs, broadcast=bool(SEEDLESS & {reference, n})))
    }
    if not pairs:
        return []
    strict = compare_pairs({n: (_scores(a, "strict"), _scores(b, "strict")) for n, (a, b) in pairs.items()})
    soft = [paired_bootstrap(_scores(a, "soft"), _scores(b, "soft")) for a, b in pairs.values()]
    corrected = holm([p for _, p in soft])
    curve = _curve([o for cell in ours.values() for o in cell])
    found = []
    for comparison, (difference, p_soft), p_holm in zip(strict, soft, corrected, strict=True):
        a, b = pairs[comparison.name]
        theirs = [o for cell in strategies[comparison.name].values() for o in cell]
        goal = sum(o.strict for o in theirs) / len(theirs)
        found.append(
            Contest(
                comparison,
                difference,
                p_soft,
                p_holm,
                *_won_and_lost(a, b),
                reach=next((point for point in curve if point.strict >= goal), None),
                theirs=sum(o.generations for o in theirs) / len(theirs),
            )
        )
    return found


def _paired(ours: Seeds, theirs: Seeds, *, broadcast: bool) -> tuple[list[list[Outcome]], list[list[Outcome]]] | None:
    """Cells of the shared seeds; with `broadcast`, one side draws nothing and stands for every seed of the other."""
    if broadcast and 1 in (len(ours), len(theirs)):
        return list(ours.values()), list(theirs.values())
    shared = [seed for seed in ours if seed in theirs]
    return ([ours[s] for s in shared], [theirs[s] for s in shared]) if shared else None


def _scores(cells: Sequence[Sequence[Outcome]], figure: str) -> list[list[float]]:
    return [[float(getattr(o, figure)) for o in cell] for cell in cells]


def _won_and_lost(
    ours: Sequence[Sequence[Outcome]], theirs: Sequence[Sequence[Outcome]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    decided = won_and_lost(_scores(ours, "strict"), _scores(theirs, "strict"))
    won, lost = (tuple(o.task_id for o, is_so in zip(ours[0], tasks, strict=True) if is_so) for tasks in decided)
    return won, lost


def _curve(every: Sequence[Outcome]) -> tuple[CurvePoint, ...]:
    n = len(every)
    return tuple(
        CurvePoint(k, sum(min(k, o.generations) for o in every) / n, sum(o.curve[k - 1] for o in every) / n)
        for k in range(1, len(every[0].curve) + 1)
    )


def spending(amounts: Sequence[int], solved: int) -> Spending:
    """What was spent on average over tasks (and seeds), and by solved ones."""
    return Spending(sum(amounts) / len(amounts), sum(amounts) / solved if solved else None)
