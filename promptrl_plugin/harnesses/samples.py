"""EvalPlus sample files: their names, and writing them so that a killed run can go on.

A name holds all that changes its content: EvalPlus's own file names hold model, backend and temperature
only, and both EvalPlus and we go on with a file that exists. The readable parts are followed by a digest
of everything (policy, data, model fingerprint, versions), so no two configurations share a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from promptrl_plugin.env.selection import Selector
from promptrl_plugin.errors import SamplesError
from promptrl_plugin.harnesses.options import SolveOptions
from promptrl_plugin.records import Candidate, Sample, content_hash
from promptrl_plugin.storage.jsonl import JsonlAppender, read_jsonl
from promptrl_plugin.storage.runs import write_atomic

__all__ = ["SampleFiles", "samples_path", "sibling"]


def samples_path(options: SolveOptions, dataset: str, identity: Mapping[str, Any]) -> Path:
    """Where the samples of a configuration go.

    ``<root>/<dataset>/<model with / → -->_<backend>_temp_0.0_<strategy>_b<budget>_<feedback>_s<seed>_<digest>.jsonl``;
    the first three parts are EvalPlus's (``evalplus.codegen.run_codegen``). A selector other than ``first`` is named
    after the feedback.

    Args:
        options: What was asked for.
        dataset: Folder under the root, ``"mbpp"`` or ``"humaneval"``.
        identity: Plain data: whatever else changes the samples.
    """
    if options.out is not None:
        return options.out
    strategy = options.strategy
    model = options.backbone.model.strip("./").replace("/", "--")
    selector = [str(strategy.selector).replace(":", "")] if strategy.selector != Selector() else []
    settings = (strategy.strategy, strategy.budget, strategy.feedback, str(strategy.split), strategy.seed, *selector)
    parts = [
        f"{model}_{options.backbone.backend}_temp_0.0",
        strategy.strategy,
        f"b{strategy.budget}",
        strategy.feedback.value,
        *selector,
        *([str(strategy.split)] if strategy.split else []),
        f"s{strategy.seed}",
        content_hash(*settings, dict(identity))[:8],
    ]
    return options.root / dataset / f"{'_'.join(parts)}.jsonl"


class SampleFiles:
    """The two files of EvalPlus's code generation, sanitized ``.jsonl`` and ``.raw.jsonl``, and a trace.

    Samples are appended as tasks finish, each line whole. The sanitized line is written last, and a task is
    done when it has one; what a killed run left of others is cut off. ``.trace.jsonl`` tells how each sample
    came about: generations and tokens spent, outcome of the visible tests, the prompt and its operators, every
    program that was looked at, the actions taken, and the prompt after each (`records.Step`).

    Args:
        path: The sanitized file.
        task_ids: Ids of the suite.
        resume: False sets existing files aside (``.bak``).

    Attributes:
        done: Ids that have a sample already.

    Raises:
        SamplesError: An existing line is no sample, or of a task that the suite does not have.
        UserError: From every method: a file cannot be written.
    """

    def __init__(self, path: Path, task_ids: Iterable[str], *, resume: bool = True) -> None:
        if path.suffix != ".jsonl":
            raise SamplesError(f"a samples file must end in .jsonl, as evalplus.evaluate demands, not {path.name!r}")
        self.path = path
        files = [sibling(path, end) for end in (".raw.jsonl", ".trace.jsonl", ".jsonl")]
        if not resume:
            for old in files:
                _set_aside(old)
        self._changed = False
        with ExitStack() as opened:
            self._sanitized = opened.enter_context(JsonlAppender(path))  # first: it keeps other runs out
            self.done = _done(path, frozenset(task_ids))
            for unfinished in files[:2]:
                _keep(unfinished, self.done)
            self._raw, self._trace = (opened.enter_context(JsonlAppender(p)) for p in files[:2])
            opened.pop_all()

    def append(self, sample: Sample) -> None:
        """Write one submission; verdicts on the file as it was before are set aside."""
        if not self._changed:
            _set_aside(sibling(self.path, "_eval_results.json"))
            self._changed = True
        self._raw.append({"task_id": sample.task_id, "solution": sample.raw_solution})
        self._trace.append(_trace(sample))
        self._sanitized.append({"task_id": sample.task_id, "solution": sample.solution})

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for file in (self._raw, self._trace, self._sanitized):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def sibling(path: Path, end: str) -> Path:
    """The file next to ``x.jsonl`` that is named ``x<end>``."""
    return path.with_name(path.name.removesuffix(".jsonl") + end)


def _done(path: Path, known: frozenset[str]) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    done: set[str] = set()
    for number, record in enumerate(read_jsonl(path, allow_torn_tail=True), start=1):
        task_id = record.get("task_id")
        if not isinstance(task_id, str) or not isinstance(record.get("solution"), str):
            raise SamplesError(f"{path}, sample {number} has no task_id or no solution; delete the line")
        if task_id not in known:
            raise SamplesError(
                f"{path} holds {task_id}, which is not in the suite; move it away, or use --resume False"
            )
        done.add(task_id)
    return frozenset(done)


def _keep(path: Path, done: frozenset[str]) -> None:
    """Drop the lines of a killed run's last sample, which has no sanitized line and will be written again."""
    if not path.exists():
        return
    records = read_jsonl(path, allow_torn_tail=True)
    kept = [r for r in records if r.get("task_id") in done]
    if len(kept) < len(records):
        write_atomic(path, "".join(json.dumps(r) + "\n" for r in kept))


def _set_aside(path: Path) -> None:
    """Rename to the first free ``.bak`` name, as EvalPlus does with its results."""
    if not path.exists():
        return
    backup = path.with_name(path.name + ".bak")
    while backup.exists():
        backup = backup.with_name(backup.name + ".bak")
    path.rename(backup)


def _trace(sample: Sample) -> dict[str, Any]:
    return {
        "task_id": sample.task_id,
        "generations": sample.generations,
        "prompt_tokens": sample.prompt_tokens,
        "completion_tokens": sample.completion_tokens,
        "visible_status": sample.visible_status,
        "operators": list(sample.prompt.operators),
        "prompt": sample.prompt.text,
        "actions": list(sample.actions),
        "candidates": [_traced(c) for c in sample.candidates],
        "steps": [asdict(s) for s in sample.steps],
    }


def _traced(candidate: Candidate) -> dict[str, Any]:
    ran = {"outcomes": candidate.outcomes} if candidate.outcomes is not None else {}
    return {
        "generations": candidate.generations,
        "visible": candidate.visible,
        "failure": candidate.failure,
        **ran,
        "solution": candidate.program,
    }
