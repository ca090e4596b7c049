"""The best fixed sequence of operators on the train tasks, found greedily, position by position.

At each position every operator that generates is tried after the sequence so far, on train tasks that the
sequence leaves unfinished: on the prompt as the sequence left it and, where that was edited and the table has
*reset*, from the task's own. The one after which most submissions are right joins it, of equals the one after which
more pass what is shown. (*Stop* is what the end of the sequence does; *revert* depends on what was seen.) It goes on
until no task has budget left for anything; an operator that applies to few tasks takes little of it. The train
generations left are shared equally between the positions left, and within a position by sequential halving (Karnin,
Koren and Somekh 2013, "Almost optimal exploration in multi-armed bandits"): all are tried on a few tasks, the better
half on more, and so on, always on the same tasks and with what was seen before kept, until one is left. Only distinct
generations are paid for, as by every learner: what a round did not need the next one has, and where the tasks run out
they come again with other draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.parts import TrainingParts
from promptrl_plugin.agent.progress import Act, MetricsLog, Quota, TrainListener, TrainResult, evaluate_policy, finish
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.env.selection import passed
from promptrl_plugin.prompts.action_space import Action, ActionTable
from promptrl_plugin.storage.runs import RunFolder, write_json

__all__ = ["TRIALS", "Arm", "Search", "follow", "train_best_fixed"]

Arm = tuple[Action, ...]
"""What may come next in a sequence: an operator that generates, or *reset* and then one."""

_VARIANTS = 16
"""Draws with which the tasks come at most."""

TRIALS = "trials.json"  #: of a run folder: how every operator did at every position, see `Search.trials`


def follow(table: ActionTable, sequence: Sequence[str]) -> Act:
    """Act by a fixed sequence of operators in one episode; what cannot be applied at its turn is left out.

    After its end the best attempt is submitted; where nothing could be applied, there is none yet, and the
    first operator that can generate makes one.
    """
    ahead = iter([table.names.index(name) for name in sequence])
    stop = table.names.index("stop")

    def act(_observation: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> int:
        for action in ahead:
            if mask[action]:
                return action
        return stop if mask[stop] else int(np.flatnonzero(mask)[0])

    return act


@dataclass(slots=True)
class Search:
    """The search at one moment.

    Attributes:
        rollout: Steps the episodes.
        order: Positions of the train tasks, in the order in which they are used; first with one draw of what is
            sampled, then with the next.
        over: Whether the train generations are spent: then no further task is looked for.
        sequence: The operators found so far.
        steps: Operators applied so far, in all episodes.
        trials: Of each position, by arm (``"reset+generate"``), the one that joined and then the longest tried
            first: on how many unfinished tasks it was tried, on how many of them there was a program after it that
            passes what it may see, and on how many what would be submitted was right.
    """

    rollout: Rollout
    order: Sequence[int]
    over: Callable[[], bool] = lambda: False
    sequence: list[Action] = field(default_factory=list)
    steps: int = 0
    trials: list[dict[str, dict[str, int]]] = field(default_factory=list)
    _episodes: list[RewardedEpisode] = field(default_factory=list)  # on the first tasks, after the sequence

    def candidates(self) -> list[Arm]:
        """What may come next: it generates, and some unfinished episode can take it.

        Where no episode is unfinished, the sequence is first applied to further tasks, which may generate.
        """
        actions = self.rollout.context.table.actions
        self._unfinished(1)
        masks = [e.episode.mask() for e in self._episodes if not e.episode.done]
        resets = [a for a in actions if a.name == "reset" and any(mask[a.index] for mask in masks)]
        generating = [a for a in actions if a.operator.generates]
        singles = [(a,) for a in generating if any(mask[a.index] for mask in masks)]
        return [*singles, *((reset, a) for reset in resets for a in generating)]

    def positions(self) -> int:
        """Generations that an unfinished episode may still spend: how often the sequence may yet be extended, about."""
        budget = self.rollout.context.env.budget
        return max((budget - e.episode.spent for e in self._episodes if not e.episode.done), default=budget)

    def extend(self, generations: int, used: Callable[[], int], spent: Callable[[], bool]) -> Arm | None:
        """Find what comes next with about so many train generations; None where there is nothing.

        Args:
            generations: Distinct ones, to be shared by all trials.
            used: How many were made so far.
            spent: Called after each round; True ends the trials.
        """
        arms, end = self.candidates(), used() + generations
        trials: dict[Arm, list[RewardedEpisode]] = {arm: [] for arm in arms}
        rounds, n = max(1, math.ceil(math.log2(max(1, len(arms))))), 0
        while arms:
            share, before = max(0, end - used()) // rounds, used()
            n += max(1, share // sum(map(_generations, arms)))
            unfinished = self._unfinished(n)
            if not unfinished:
                return None
            self._try(arms, trials, unfinished)
            over = spent() or len(unfinished) < n
            arms = [arm for arm in arms if _spent(trials[arm]) > _spent(unfinished)]  # the others applied to none
            arms = sorted(arms, key=lambda arm: _score(trials[arm]), reverse=True)
            if rounds == 1 and not over and len(arms) > 1 and before < used() < end:
                continue  # the last two go on with what the tasks shared
            arms = arms[: math.ceil(len(arms) / 2)]
            rounds = max(1, rounds - 1)
            if over or len(arms) == 1:
                break
        if not arms:
            return None
        tried = sorted(trials, key=lambda arm: (arm == arms[0], len(trials[arm]), _score(trials[arm])), reverse=True)
        self.trials.append({"+".join(a.name for a in arm): _figures(trials[arm]) for arm in tried})
        self._join(arms[0], trials[arms[0]])
        return arms[0]

    def solved(self) -> float:
        """Share of the tasks used so far whose submission is right after the sequence."""
        return sum(map(_right, self._episodes)) / len(self._episodes)

    def _try(
        self, arms: Sequence[Arm], trials: dict[Arm, list[RewardedEpisode]], unfinished: Sequence[RewardedEpisode]
    ) -> None:
        """Bring the trials of each arm to all of `unfinished`, in one batch for each of its actions."""
        fresh = {arm: [_fork(e) for e in unfinished[len(trials[arm]) :]] for arm in arms}
        for arm in arms:
            trials[arm] += fresh[arm]
        for step in range(max(map(len, arms))):
            self._step([(e, arm[step].index) for arm in arms if step < len(arm) for e in fresh[arm]])

    def _unfinished(self, n: int) -> list[RewardedEpisode]:
        """The first `n` episodes that the sequence leaves unfinished; fewer where tasks or generations run out."""
        while len(found := [e for e in self._episodes if not e.episode.done]) < n and not self.over():
            start, tasks = len(self._episodes), len(self.order)
            wanted = range(start, min(start + n - len(found), _VARIANTS * tasks))
            more = [self.rollout.start(self.order[i % tasks], i // tasks) for i in wanted]
            if not more:
                break
            for action in self.sequence:
                self._step([(e, action.index) for e in more])
            self._episodes += more
        return found[:n]

    def _join(self, arm: Arm, tried: Sequence[RewardedEpisode]) -> None:
        """Make `arm` the end of the sequence; the episodes that tried it go on from there."""
        after = {_key(e): e for e in tried}
        for action in arm:
            self._step([(e, action.index) for e in self._episodes if _key(e) not in after])
        self._episodes = [after.get(_key(e), e) for e in self._episodes]
        self.sequence += arm

    def _step(self, moves: Sequence[tuple[RewardedEpisode, int]]) -> None:
        """Apply each operator where it can be applied."""
        allowed = [(e, a) for e, a in moves if not e.episode.done and e.episode.mask()[a]]
        self.steps += len(allowed)
        if allowed:
            self.rollout.step(allowed)


def train_best_fixed(parts: TrainingParts, run: RunFolder, listener: TrainListener) -> TrainResult:
    """Search the sequence on the tasks that train PPO; the validation tasks only tell what it is worth."""
    config, table = parts.config, parts.setup.table
    order = np.random.default_rng(config.seed).permutation(len(parts.rollout.tasks)).tolist()
    quota = Quota(parts, listener)
    search = Search(parts.rollout, order, over=lambda: not quota.left)
    listener.stage("search", quota.limit)
    with MetricsLog(run, 0) as log:
        while quota.left:
            share = quota.left // search.positions()
            if search.extend(share, lambda: parts.generations, quota.spent) is None:
                break
            row = {"steps": float(search.steps), "rollout/solved": search.solved()} | parts.counters()
            log.write(row)
            write_json(run.path / TRIALS, search.trials)
            listener.metrics(row)
        names = [a.name for a in search.sequence]
        listener.stage("validate")
        figures = evaluate_policy(parts.validation, parts.setup.layout, lambda: follow(table, names))
        row = {"steps": float(search.steps), "rollout/solved": search.solved()} | parts.counters()
        row |= {f"validation/{k}": v for k, v in figures.items()}
        log.write(row)
        listener.metrics(row)
    return finish(parts, run, {"sequence": names}, {}, figures["solved"], "sequence: " + ", ".join(names))


def _key(e: RewardedEpisode) -> tuple[int, int]:
    return e.index, e.episode.variant


def _generations(arm: Arm) -> int:
    return sum(a.operator.generations for a in arm)


def _score(trials: Sequence[RewardedEpisode]) -> tuple[int, int, float]:
    """Right submissions, then those that pass what is shown, then rewards (which know of costs)."""
    return sum(map(_right, trials)), sum(map(_passes, trials)), sum(e.total for e in trials)


def _spent(episodes: Sequence[RewardedEpisode]) -> int:
    return sum(e.episode.spent for e in episodes)


def _figures(trials: Sequence[RewardedEpisode]) -> dict[str, int]:
    """See `Search.trials`."""
    return {"tasks": len(trials), "passed": sum(map(_passes, trials)), "right": sum(map(_right, trials))}


def _passes(e: RewardedEpisode) -> bool:
    """Whether what would be submitted now passes what is shown."""
    best = e.episode.best
    return best is not None and passed(best)


def _right(e: RewardedEpisode) -> bool:
    """Whether what would be submitted now passes every test."""
    best = e.episode.best
    return best is not None and e.right[best.program]


def _fork(e: RewardedEpisode) -> RewardedEpisode:
    return replace(e, episode=e.episode.fork(), right=dict(e.right))
