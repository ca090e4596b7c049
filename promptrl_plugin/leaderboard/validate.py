"""Verifies an entry against its submission: everything that can be recomputed is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.checking.base import Judge
from promptrl_plugin.checking.results import JudgedSample
from promptrl_plugin.config import LEARNED, SEEDLESS
from promptrl_plugin.errors import ConfigError, EntryError, SamplesError, UnknownNameError, UserError
from promptrl_plugin.evaluation.judging import Submission, judge_samples, read_samples
from promptrl_plugin.harnesses.options import StrategyOptions
from promptrl_plugin.leaderboard.entry import (
    Problem,
    Run,
    Spent,
    differences,
    entry_id,
    figures,
    protocol_of,
    read_entry,
    schema_problems,
)
from promptrl_plugin.leaderboard.submission import (
    hashes,
    manifest_problems,
    policy_folder,
    read_submission,
    results_name,
    samples_name,
    spending_name,
    submission_path,
)
from promptrl_plugin.records import Status
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.storage.runs import write_atomic
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.registry import load_suite, train_suite_of

__all__ = ["programs_of", "validate_entry"]

Entry = Mapping[str, Any]
Statuses = tuple[str, str | None]  # of base and plus tests
Notice = Callable[[str], None]

_ATTEMPTS = 3
"""How often a program is judged whose verdicts are not the claimed ones; near its time limit, it may exceed it once."""

_SLOWER = 0.01
"""Share of a seed's tasks whose claims may be worse than our verdicts, as of a machine that was slower."""


def validate_entry(
    path: Path, judge: Judge, on_progress: Callable[[int], None] | None = None, on_notice: Notice | None = None
) -> list[Problem]:
    """What is wrong with the entry in a file; nothing if it is as its submission says.

    The steps are: schema, settings, hashes, policies, and then the samples, which are judged anew. A step runs
    only if the earlier ones found nothing.

    A program whose verdicts are not the claimed ones is judged again, alone, and one judging of three must agree.
    Where a claim is worse than all of them, it stands for up to 1 % of a seed's tasks: the program may have run out
    of time where the entry was made.

    Args:
        path: The entry; its submission is ``../submissions/<id>.zip``.
        judge: Judges the samples; not one that remembers verdicts.
        on_progress: Gets the position of each sample of a seed that is judged.
        on_notice: Gets a line for each claimed verdict that was accepted though the first judging did not agree.

    Raises:
        EntryError: The entry cannot be read.
        DataError: The suite is not at hand.
    """
    entry = read_entry(path)
    if problems := schema_problems(entry):
        return problems
    try:
        suite = load_suite(entry["suite"]["name"])
    except UnknownNameError as e:
        return [Problem("suite.name", str(e))]
    if problems := _settings(entry, path.stem, suite):
        return problems
    try:
        index, files = read_submission(submission_path(path))
    except EntryError as e:
        return [Problem("submission", str(e))]
    problems = manifest_problems(entry["id"], index, files) + _hashes(entry, files)
    if problems := problems or _missing(entry, files):
        return problems
    with TemporaryDirectory(prefix="promptrl-submission-") as name:
        folder = Path(name)
        for file, content in files.items():
            write_atomic(folder / file, content)
        return _policies(entry, folder, suite) or _samples(
            entry, folder, suite, judge, on_progress, on_notice or _ignore
        )


def programs_of(path: Path) -> int:
    """How many programs `validate_entry` will judge, for a progress bar."""
    entry = read_entry(path)
    return 0 if schema_problems(entry) else len(entry["seeds"]) * int(entry["suite"]["tasks"])


# --- the steps -----------------------------------------------------------------------------------------


def _settings(entry: Entry, stem: str, suite: Suite) -> list[Problem]:
    """Fields that contradict each other, the suite, or what a strategy can be asked for."""
    from promptrl_plugin.strategies.registry import strategy_names

    if train_suite_of(suite) is None:
        return [Problem("suite.name", f"{suite.name} trains; an entry is of a suite that is evaluated")]
    strategy = entry["strategy"].partition(":")[0]
    if strategy not in strategy_names():
        return [Problem("strategy", str(UnknownNameError("strategy", strategy, strategy_names())))]
    given = {name: entry[name] for name in ("budget", "feedback", "selector")}
    try:
        asked = StrategyOptions.parse(given | {"strategy": strategy})
    except ConfigError as e:
        return [Problem("selector", str(e))]
    expected = {
        "suite.version": (entry["suite"]["version"], suite.version),
        "suite.tasks": (entry["suite"]["tasks"], len(suite.tasks())),
        "protocol": (entry["protocol"], protocol_of(strategy)),
        "budget": (entry["budget"], asked.budget),
        "feedback": (entry["feedback"], str(asked.feedback)),
        "selector": (entry["selector"], str(asked.selector)),
        "seeds": (entry["seeds"], [0] if strategy in SEEDLESS else sorted(entry["seeds"])),
        "policies": ([p["seed"] for p in entry["policies"]], entry["seeds"] if strategy in LEARNED else []),
        "id": (entry["id"], entry_id(entry)),
        "id (name of the file)": (stem, entry["id"]),
    }
    return [
        Problem(field, f"{is_!r}, should be {should!r}") for field, (is_, should) in expected.items() if is_ != should
    ]


def _hashes(entry: Entry, files: Mapping[str, bytes]) -> list[Problem]:
    return [
        Problem(f"hashes.{name}", f"{entry['hashes'][name]} claimed, {digest} recomputed")
        for name, digest in hashes(files).items()
        if entry["hashes"][name] != digest
    ]


def _missing(entry: Entry, files: Mapping[str, bytes]) -> list[Problem]:
    """Files of the entry's seeds that are not in the submission, and others that are."""
    wanted = {name(seed) for seed in entry["seeds"] for name in (samples_name, results_name, spending_name)}
    found = {name for name in files if not name.startswith("policy/")}
    return [
        Problem("seeds", f"{name} {'is not in the submission' if name in wanted else 'is of no seed of the entry'}")
        for name in sorted(wanted ^ found)
    ]


def _policies(entry: Entry, folder: Path, suite: Suite) -> list[Problem]:
    """Policy bundles that are not what is claimed, or were trained on a task of the suite."""
    problems = []
    for i, claimed in enumerate(entry["policies"]):
        field = f"policies.{i}"
        try:
            bundle = PolicyBundle.load(folder / policy_folder(claimed["seed"]))
            bundle.check_strategy(entry["strategy"].partition(":")[0])
            bundle.check_no_leak(suite.tasks())
        except UserError as e:
            problems.append(Problem(field, _plain(e, folder)))
            continue
        made = {
            "hash": bundle.content_hash,
            "train_suite": bundle.train_suite,
            "train_suite_version": bundle.train_suite_version,
            "train_tasks": len(bundle.train_hashes),
        }
        problems += [
            Problem(f"{field}.{key}", f"{claimed[key]!r} claimed, {value!r} in the bundle")
            for key, value in made.items()
            if claimed[key] != value
        ]
    return problems


def _samples(
    entry: Entry,
    folder: Path,
    suite: Suite,
    judge: Judge,
    on_progress: Callable[[int], None] | None,
    on_notice: Notice,
) -> list[Problem]:
    """Verdicts and figures that are not those of the samples."""
    problems, runs = [], []
    for seed in entry["seeds"]:
        try:
            run = _judged(folder, seed, suite, judge, on_progress)
            claimed = _claimed(folder, seed)
        except (SamplesError, EntryError) as e:
            problems.append(Problem(f"seeds (seed {seed})", _plain(e, folder)))
            continue
        run, unlike, notices = _reconciled(run, claimed, suite, judge)
        runs.append(run)
        for notice in notices:
            on_notice(f"seed {seed}: {notice}")
        problems += _verdicts(seed, run, claimed, unlike) + _spent(entry, seed, run)
    return problems if len(runs) < len(entry["seeds"]) else problems + differences(entry, figures(runs))


# --- samples -------------------------------------------------------------------------------------------


def _judged(folder: Path, seed: int, suite: Suite, judge: Judge, on_progress: Callable[[int], None] | None) -> Run:
    """One seed, its samples judged.

    Raises:
        SamplesError, EntryError: Samples or spending are not one line a task of the suite.
    """
    ids = [t.id for t in suite.tasks()]
    submissions = read_samples(folder / samples_name(seed), suite)
    if [s.task_id for s in submissions] != ids:
        raise EntryError(f"{samples_name(seed)} is not one sample a task, in the suite's order")
    try:
        spent = [Spent(**row) for row in read_jsonl(folder / spending_name(seed))]
        amounts = [n for s in spent for n in (s.generations, s.prompt_tokens, s.completion_tokens)]
    except TypeError:
        raise EntryError(f"{spending_name(seed)} is malformed") from None
    if [s.task_id for s in spent] != ids or not all(type(n) is int and n >= 0 for n in amounts):
        raise EntryError(f"{spending_name(seed)} is not one line of whole numbers a task, in the suite's order")
    judged = judge_samples(submissions, suite.hidden(), judge, on_progress=on_progress)
    return Run(tuple(judged), tuple(spent))


def _claimed(folder: Path, seed: int) -> dict[str, Statuses]:
    """The verdicts in the results of a seed, by task.

    Raises:
        EntryError: They are not in EvalPlus's format.
    """
    name = results_name(seed)
    try:
        rows = json.loads((folder / name).read_text(encoding="utf-8"))["eval"]
        return {task_id: (row[0]["base_status"], row[0]["plus_status"]) for task_id, row in rows.items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise EntryError(f"{name} is not in EvalPlus's format of results") from None


def _reconciled(
    run: Run, claimed: Mapping[str, Statuses], suite: Suite, judge: Judge
) -> tuple[Run, list[str], list[str]]:
    """The run with verdicts as claimed where that is acceptable, the tasks where it is not, and what was accepted."""
    judged, unlike, notices, slower = list(run.judged), [], [], 0
    for i, sample in enumerate(run.judged):
        claim, first = claimed.get(sample.task_id), _statuses(sample)
        if claim == first:
            continue
        agreeing = claim and _judged_again(sample, claim, suite, judge)
        if agreeing:
            judged[i] = agreeing
            notices.append(f"{sample.task_id} is {first} at first, then as claimed {claim} (base, plus)")
        elif claim and _worse(claim, first) and slower + 1 <= _SLOWER * len(run.judged):
            slower += 1
            judged[i] = _with_statuses(sample, claim)
            notices.append(f"{sample.task_id} is claimed to be {claim} and is {first} here (base, plus)")
        else:
            unlike.append(sample.task_id)
    return Run(tuple(judged), run.spent), unlike, notices


def _judged_again(sample: JudgedSample, claim: Statuses, suite: Suite, judge: Judge) -> JudgedSample | None:
    """The sample with the claimed verdicts, if one of the judgings that are left, with nothing beside it, has them."""
    for _ in range(_ATTEMPTS - 1):
        (again,) = judge_samples([Submission(sample.task_id, sample.solution)], suite.hidden(), judge)
        if _statuses(again) == claim:
            return again
    return None


def _statuses(sample: JudgedSample) -> Statuses:
    return str(sample.base.status), None if sample.plus is None else str(sample.plus.status)


def _worse(claim: Statuses, found: Statuses) -> bool:
    """Whether a claim has no test group pass that does not, in statuses that a verdict can have."""
    known = {str(s) for s in (Status.PASS, Status.FAIL, Status.TIMEOUT)}
    return all(
        (c is None and f is None) or (c in known and (c == f or f == Status.PASS))
        for c, f in zip(claim, found, strict=True)
    )


def _with_statuses(sample: JudgedSample, claim: Statuses) -> JudgedSample:
    base, plus = claim
    return replace(
        sample,
        base=replace(sample.base, status=Status(base)),
        plus=replace(sample.plus, status=Status(plus)) if sample.plus and plus else None,
    )


def _verdicts(seed: int, run: Run, claimed: Mapping[str, Statuses], unlike: list[str]) -> list[Problem]:
    """The first task whose verdicts in the results are not those of the judge, or that is no task of the suite."""
    found = {s.task_id: _statuses(s) for s in run.judged}
    unlike = sorted([*unlike, *(claimed.keys() - found.keys())])
    if not unlike:
        return []
    first, more = unlike[0], f" (and {len(unlike) - 1} more)" if len(unlike) > 1 else ""
    message = f"{first}: {claimed.get(first)} claimed, {found.get(first)} judged (base, plus){more}"
    return [Problem(results_name(seed), message)]


def _ignore(_: str) -> None:
    pass


def _spent(entry: Entry, seed: int, run: Run) -> list[Problem]:
    over = [row for row in run.spent if row.generations > entry["budget"]]
    if not over:
        return []
    return [Problem("budget", f"{over[0].task_id} took {over[0].generations} generations with seed {seed}")]


def _plain(error: Exception, folder: Path) -> str:
    """The message without the folder that the submission was unpacked to."""
    return str(error).replace(f"{folder}/", "")
