"""What train tasks reward: their hidden tests, and more tests made from their reference where the suite has few.

The original MBPP has three asserts a task, of which the prompt shows one. Two more tests hardly tell a right
program from one that only does the visible example, which is what MBPP+'s plus tests tell. So, as EvalPlus did
for its suites, inputs are generated from the visible ones (`checking.probes`) and the reference says what is
right; inputs on which it raises, or takes too long, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.checking.base import Judge
from promptrl_plugin.env.feedback import JudgeExecutor, judge_hidden
from promptrl_plugin.records import FailureKind, GroupVerdict, Status
from promptrl_plugin.suites.hidden import TrainTask

__all__ = ["TrainGrader"]

_VALUE = "="  #: what an outcome begins with that is a returned value (`checking.outcomes`)


class TrainGrader:
    """Grades programs of train tasks.

    Args:
        judge: Runs the programs (wrap it in a cache).
        generated: Also test against the reference on generated inputs, where a task has no plus tests.
    """

    def __init__(self, judge: Judge, generated: bool = False) -> None:
        self._judge, self._generated = judge, generated
        self._executor = JudgeExecutor(judge)
        self._references: dict[str, tuple[str, ...]] = {}

    def grade(self, programs: Sequence[tuple[TrainTask, str]]) -> list[tuple[GroupVerdict, ...]]:
        """Verdicts on the groups of tests of each program: base, then plus or generated ones where there are any.

        A program that fails a base test is not run on generated ones: they count as failed.

        Raises:
            JudgeError: A program could not be judged.
        """
        hidden = judge_hidden(self._judge, [(t.task, t.hidden, p) for t, p in programs])
        if not self._generated:
            return hidden
        asked = [i for i, (t, _) in enumerate(programs) if t.hidden.plus is None]
        self._run_references([programs[i][0] for i in asked])
        run = [i for i in asked if all(v.status is Status.PASS for v in hidden[i])]
        ran = dict(zip(run, self._executor.execute([(programs[i][0].task, programs[i][1]) for i in run]), strict=True))
        graded = list(hidden)
        for i in asked:
            right = self._references[programs[i][0].task.content_hash]
            if any(o.startswith(_VALUE) for o in right):
                graded[i] = (*hidden[i], _verdict(right, ran.get(i)))
        return graded

    def _run_references(self, tasks: Sequence[TrainTask]) -> None:
        owed = {t.task.content_hash: t for t in tasks if t.task.content_hash not in self._references}
        outcomes = self._executor.execute([(t.task, t.hidden.reference) for t in owed.values()])
        self._references |= dict(zip(owed, outcomes, strict=True))


def _verdict(right: Sequence[str], outcomes: Sequence[str] | None) -> GroupVerdict:
    """How many of the reference's values a program returned; None: it was not run."""
    total = sum(o.startswith(_VALUE) for o in right)
    if outcomes is None:
        return GroupVerdict(Status.FAIL, (), total, FailureKind.WRONG_VALUE, "not run after a failed test")
    passed = tuple(mine == o for mine, o in zip(outcomes, right, strict=True) if o.startswith(_VALUE))
    if all(passed):
        return GroupVerdict(Status.PASS, passed, total)
    detail = f"{total - sum(passed)} of {total} generated inputs give another output than the reference's"
    return GroupVerdict(Status.FAIL, passed, total, FailureKind.WRONG_VALUE, detail)
