"""From a finished comparison to entries: its samples judged, one entry a row."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from promptrl_plugin.agent.bundle import MANIFEST, TENSORS, PolicyBundle
from promptrl_plugin.checking.base import Judge
from promptrl_plugin.checking.results import evalplus_results
from promptrl_plugin.config import LEARNED
from promptrl_plugin.errors import ConfigError, EntryError
from promptrl_plugin.evaluation.compare import Cell, Outcome
from promptrl_plugin.evaluation.judging import data_hash, judge_samples, read_samples
from promptrl_plugin.evaluation.results import bundle_of
from promptrl_plugin.harnesses.options import BackboneOptions
from promptrl_plugin.leaderboard.comparison import Comparison, open_comparison
from promptrl_plugin.leaderboard.entry import (
    SCHEMA_VERSION,
    Run,
    Spent,
    entry_id,
    figures,
    protocol_of,
    read_entry,
    schema_problems,
)
from promptrl_plugin.leaderboard.submission import (
    hashes,
    policy_folder,
    results_name,
    samples_name,
    spending_name,
    submission_path,
    write_submission,
)
from promptrl_plugin.storage.runs import write_json
from promptrl_plugin.suites.base import Suite

__all__ = ["Comparison", "ModelNotes", "make_entry", "open_comparison", "write_entry"]

_INSTRUCTED = re.compile(r"(?i)\b(instruct|chat|it)\b")
_BILLIONS = re.compile(r"(?i)(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class ModelNotes:
    """What a comparison does not tell of its model; None: as its name says, like ``coder-0.5b-instruct``.

    Attributes:
        prompted: Whether it was given chat prompts.
        size: Parameters in billions.
        link: Page of the model.
    """

    prompted: bool | None = None
    size: float | None = None
    link: str = ""


def make_entry(
    comparison: Comparison,
    row: str,
    judge: Judge,
    notes: ModelNotes,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The entry of one row, and the files of its submission.

    Args:
        comparison: The comparison.
        row: One of its rows.
        judge: Judges the samples.
        notes: On the model.
        on_progress: Gets the position of each sample of a seed that is judged.

    Raises:
        UserError: Samples or policy bundle are missing or damaged, or the policy was trained on a task of the suite.
        ConfigError: The verdicts are not those of the comparison.
        EntryError: `notes` do not fit the schema.
    """
    seeds, suite = comparison.rows[row], comparison.suite
    options = comparison.options(row)
    files: dict[str, bytes] = {}
    runs = []
    for seed, outcomes in seeds.items():
        cell = Cell(row, seed).name
        run = _run(comparison.samples[cell], outcomes, suite, judge, on_progress)
        if unlike := [o.task_id for o, s in zip(outcomes, run.judged, strict=True) if o.strict is not s.solved]:
            raise ConfigError(
                f"{cell}: {unlike[0]} is judged otherwise than in the results of {comparison.folder}; "
                "delete its results.json and run the same `promptrl compare` command again"
            )
        runs.append(run)
        files |= _run_files(seed, run, suite)
    bundles = {seed: b for seed in seeds if (b := _bundle(comparison, row, seed)) is not None}
    for seed, bundle in bundles.items():
        bundle.check_no_leak(suite.tasks())
        assert bundle.path is not None
        files |= {f"{policy_folder(seed)}/{name}": (bundle.path / name).read_bytes() for name in (MANIFEST, TENSORS)}
    entry: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "id": "",
        "created": datetime.now(UTC).date().isoformat(),
        "model": _model(comparison.matrix.backbone, notes),
        "strategy": row,
        "suite": {"name": suite.name, "version": suite.version, "tasks": len(suite.tasks())},
        "protocol": protocol_of(row),
        "feedback": str(options.feedback),
        "selector": str(options.selector),
        "budget": options.budget,
        "seeds": list(seeds),
        **figures(runs),
        "policies": [_policy(seed, bundle) for seed, bundle in bundles.items()],
        "hashes": hashes(files),
        "commands": _commands(comparison, row, list(bundles.values())),
        "versions": comparison.versions,
    }
    entry["id"] = entry_id(entry)
    if problems := schema_problems(entry):  # a --link or --size that cannot be
        raise EntryError(f"{row} makes no entry: {problems[0]}; correct the option of that name")
    return entry, files


def write_entry(board: Path, entry: Mapping[str, Any], files: Mapping[str, bytes], *, replace: bool = False) -> Path:
    """Write an entry and its submission into the leaderboard's folder; returns the entry's file.

    Raises:
        EntryError: There is an entry of the same configuration with other samples (unless `replace`).
    """
    path = board / "entries" / f"{entry['id']}.json"
    if (
        path.exists()
        and not replace
        and read_entry(path).get("hashes", {}).get("samples") != entry["hashes"]["samples"]
    ):
        raise EntryError(
            f"{path} is of the same configuration with other samples; put this in its place with --replace"
        )
    write_submission(submission_path(path), entry["id"], files)
    write_json(path, entry)
    return path


# --- samples -------------------------------------------------------------------------------------------


def _run(
    samples: Path, outcomes: Sequence[Outcome], suite: Suite, judge: Judge, on_progress: Callable[[int], None] | None
) -> Run:
    submitted = {s.task_id: s for s in read_samples(samples, suite)}
    judged = judge_samples([submitted[o.task_id] for o in outcomes], suite.hidden(), judge, on_progress=on_progress)
    spent = [Spent(o.task_id, o.generations, o.prompt_tokens, o.completion_tokens) for o in outcomes]
    return Run(tuple(judged), tuple(spent))


def _run_files(seed: int, run: Run, suite: Suite) -> dict[str, bytes]:
    results = evalplus_results(run.judged, suite.hidden(), data_hash(suite))
    return {
        samples_name(seed): _jsonl({"task_id": s.task_id, "solution": s.solution} for s in run.judged),
        results_name(seed): (json.dumps(results) + "\n").encode(),
        spending_name(seed): _jsonl(asdict(row) for row in run.spent),
    }


def _jsonl(rows: Iterator[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# --- policies ------------------------------------------------------------------------------------------


def _bundle(comparison: Comparison, row: str, seed: int) -> PolicyBundle | None:
    """The policy bundle of a cell, None of a strategy that is not trained."""
    strategy = Cell(row, seed).strategy
    named = bundle_of(comparison.folder, row, seed)
    if strategy not in LEARNED:
        if named:
            raise ConfigError(
                f"{row} chose among the operators of {named[0]}, which no entry tells; name the other rows with --row"
            )
        return None
    present = [path for path in named if (path / MANIFEST).is_file()]
    if named and not present:
        raise ConfigError(
            f"the policy bundle of {row}, seed {seed}, is not at {named[0]}; put it back there, or run this where "
            "`promptrl compare` ran"
        )
    bundle = PolicyBundle.load(present[0]) if present else _shipped(strategy, comparison.matrix.backbone.model)
    bundle.check_strategy(strategy)
    return bundle


def _shipped(strategy: str, model: str) -> PolicyBundle:
    """The bundle in the package that the strategy took, having been given none."""
    from promptrl_plugin.strategies.registry import shipped_policies

    for path in shipped_policies():
        bundle = PolicyBundle.load(path)
        if bundle.learner == LEARNED[strategy] and bundle.backbone.lower() == model.lower():
            return bundle
    raise ConfigError(
        f"the comparison names no policy of {strategy}, and none ships for model {model} under that name; "
        f"run it again in another folder with --policy {strategy}=FOLDER (its generations come from the cache)"
    )


def _policy(seed: int, bundle: PolicyBundle) -> dict[str, Any]:
    return {
        "seed": seed,
        "hash": bundle.content_hash,
        "train_suite": bundle.train_suite,
        "train_suite_version": bundle.train_suite_version,
        "train_tasks": len(bundle.train_hashes),
    }


# --- model and commands --------------------------------------------------------------------------------


def _model(backbone: BackboneOptions, notes: ModelNotes) -> dict[str, Any]:
    name = _name(backbone.model)
    prompted = notes.prompted
    if prompted is None:
        prompted = not backbone.force_base_prompt and _INSTRUCTED.search(name) is not None
    size = notes.size
    if size is None and (found := _BILLIONS.search(name)):
        size = float(found[1]) / (1000 if found[2] in "mM" else 1)
    return {
        "name": name,
        "backend": backbone.backend,
        "dtype": backbone.dtype,
        "prompted": prompted,
        "size": size,
        "link": notes.link,
    }


def _name(model: str) -> str:
    """A model as others know it: of a path on this machine its last part."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def _commands(comparison: Comparison, row: str, bundles: Sequence[PolicyBundle]) -> list[str]:
    """Training, the comparison of this row, and the score of its first samples; to be run in the submission."""
    matrix, backbone = comparison.matrix, comparison.matrix.backbone
    flags = {
        "--suite": matrix.suite,
        "--model": _name(backbone.model),
        "--backend": backbone.backend,
        "--dtype": backbone.dtype,
        **({"--base-url": "URL"} if backbone.base_url else {}),
        "--strategies": row,
        "--seeds": ",".join(map(str, comparison.rows[row])),
        "--budget": str(matrix.budget),
        "--feedback": matrix.feedback,
        "--selector": matrix.selector,
        **({"--policy": f"{row}={policy_folder('{seed}')}"} if bundles else {}),
        "--out": comparison.folder.absolute().name,
    }
    compared = ["promptrl", "compare", *(word for flag in flags.items() for word in flag)]
    samples = samples_name(next(iter(comparison.rows[row])))
    if comparison.suite.name == comparison.suite.evalplus_dataset:
        scored = ["evalplus.evaluate", "--dataset", comparison.suite.name, "--samples", samples]
    else:
        scored = ["promptrl", "judge", "--suite", comparison.suite.name, "--samples", samples]
    trained = dict.fromkeys(bundle.command for bundle in bundles if bundle.command)
    return [*trained, shlex.join(compared), shlex.join(scored)]
