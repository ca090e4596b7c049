"""Which of several programs is submitted: one rule for every strategy."""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.prompts.operators.base import Attempt

__all__ = ["select"]


def select(attempts: Sequence[Attempt]) -> Attempt | None:
    """The first attempt with the highest fraction of shown tests passed, None without attempts.

    So the first that passes the visible tests wins; where nothing was shown (``feedback=none``) or
    nothing passed, the first attempt that is not empty, else the first.
    """
    best: Attempt | None = None
    best_rank = (-1.0, -1)
    for attempt in attempts:
        fraction = attempt.verdict.fraction if attempt.verdict is not None else 0.0
        rank = (fraction, int(bool(attempt.program.strip())))
        if rank > best_rank:
            best, best_rank = attempt, rank
    return best
