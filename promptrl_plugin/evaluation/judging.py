"""Judges a file of samples: samples → verdicts → scores, as `evalplus.evaluate` does, in our own judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptrl_plugin.checking.base import GIVE_UP_AFTER, Judge, JudgeRequest
from promptrl_plugin.checking.results import JudgedSample
from promptrl_plugin.errors import JudgeError, SamplesError
from promptrl_plugin.records import Task
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["Submission", "data_hash", "judge_samples", "read_samples"]


@dataclass(frozen=True, slots=True)
class Submission:
    """One line of a samples file, as a complete program."""

    task_id: str
    program: str


def read_samples(path: Path, suite: Suite, *, partial: bool = False) -> list[Submission]:
    """Read EvalPlus samples: ``{"task_id", "solution"}``, or ``"completion"`` to be put behind the prompt (of
    APPS a program in itself).

    Args:
        path: The samples file.
        suite: The suite that they are of.
        partial: Accept a file that lacks tasks of the suite.

    Raises:
        SamplesError: The file is missing or empty, a line is torn, lacks a program, or is of a task that
            the suite does not have; or a task of the suite has no sample (unless `partial`).
    """
    tasks = {t.id: t for t in suite.tasks()}
    submissions = [_submission(path, n, row, tasks, suite.name) for n, row in enumerate(read_jsonl(path), start=1)]
    if not submissions:
        raise SamplesError(f"{path} holds no sample; make some with `promptrl solve` or `evalplus.codegen`")
    missing = tasks.keys() - {s.task_id for s in submissions}
    if missing and not partial:
        raise SamplesError(
            f"{path} has no sample for {len(missing)} of {len(tasks)} tasks of suite {suite.name} "
            f"({min(missing)}, …); go on with the same `promptrl solve`, or pass --partial"
        )
    return submissions


def judge_samples(
    submissions: Sequence[Submission],
    hidden: Mapping[str, HiddenTests],
    judge: Judge,
    *,
    fail_fast: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[JudgedSample]:
    """Run the hidden tests of every submission.

    Args:
        submissions: The programs.
        hidden: Hidden tests by task id.
        judge: Runs them.
        fail_fast: Stop a group at its first failing test; faster, but soft scores need every outcome.
        on_progress: Gets the position of each that is finished.

    Raises:
        JudgeError: A program could not be judged (it must not count as a failure).
    """
    requests = [
        JudgeRequest(s.program, hidden[s.task_id].groups, fail_fast=fail_fast, give_up_after=GIVE_UP_AFTER)
        for s in submissions
    ]
    judged = []
    for submission, verdicts in zip(submissions, judge.check(requests, on_progress), strict=True):
        base, plus = verdicts[0], verdicts[1] if len(verdicts) > 1 else None
        if base is None:
            raise JudgeError(f"{submission.task_id} was not judged; run it again")
        judged.append(JudgedSample(submission.task_id, submission.program, base, plus))
    return judged


def data_hash(suite: Suite) -> str:
    """EvalPlus's hash of its data file, so that the results can be told from those of other versions."""
    if suite.name == "mbpp":
        from evalplus.data import get_mbpp_plus_hash

        return str(get_mbpp_plus_hash())
    if suite.name == "humaneval":
        from evalplus.data import get_human_eval_plus_hash

        return str(get_human_eval_plus_hash())
    return str(suite.version)


def _submission(
    path: Path, number: int, row: Mapping[str, object], tasks: Mapping[str, Task], suite: str
) -> Submission:
    task_id, solution, completion = row.get("task_id"), row.get("solution"), row.get("completion")
    if not isinstance(task_id, str):
        raise SamplesError(f"{path}, sample {number} has no task_id; delete the line, or make the file again")
    if task_id not in tasks:
        raise SamplesError(f"{path}, sample {number} is of {task_id}, which suite {suite} does not have; check --suite")
    if isinstance(solution, str):
        return Submission(task_id, solution)
    if isinstance(completion, str):
        before = "" if tasks[task_id].dialect == "apps" else tasks[task_id].prompt  # APPS's prompt is no program
        return Submission(task_id, before + completion)
    raise SamplesError(f"{path}, sample {number} ({task_id}) has neither solution nor completion; delete the line")
