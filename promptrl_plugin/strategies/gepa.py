"""`gepa`: the instruction that GEPA evolved on the train tasks, in the place of EvalPlus's (arXiv 2507.19457)."""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.records import Task
from promptrl_plugin.strategies.attempts import greedy_then_samples
from promptrl_plugin.strategies.base import Solve, StrategyContext
from promptrl_plugin.strategies.episodes import check_use

__all__ = ["Gepa"]


class Gepa:
    """One greedy program, then hot samples until the selector is satisfied; all under the learned instruction.

    At ``feedback=none`` nothing tells samples apart, so the greedy program is submitted.

    Args:
        bundle: Holds the instruction; it refuses tasks that trained it.

    Attributes:
        policy_hash: Content hash of the bundle, part of a samples file's identity.
    """

    name = "gepa"
    rewriter = None

    def __init__(self, bundle: PolicyBundle) -> None:
        self._bundle = bundle
        self._instruction: str = bundle.network["instruction"]
        self.policy_hash = bundle.content_hash

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Refuse train tasks.

        Raises:
            LeakageError: One of `tasks` is, or is a near-duplicate of, a train task of the instruction.
        """
        check_use(self._bundle, tasks, context)

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        return (yield from greedy_then_samples(task, context, self._instruction))
