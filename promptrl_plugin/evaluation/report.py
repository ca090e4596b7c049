"""What a report of a comparison says: its folder read, its figures computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.agent.curves import Panel, latest_rows, panels
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.evaluation.results import bundle_of, load_results, read_results, refuse_training
from promptrl_plugin.evaluation.summary import (
    Contest,
    Seeds,
    Summary,
    by_strategy,
    contests,
    reference_of,
    summarise,
)
from promptrl_plugin.evaluation.traces import Episode, OperatorUse, episode, load_traces, operator_uses
from promptrl_plugin.harnesses.crossfit import FOLDS
from promptrl_plugin.harnesses.samples import sibling
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["Report", "TrainingRun", "build_report", "settings_line"]

_NEEDED = ("suite", "backbone", "budget", "feedback")  # settings that every comparison has
_NAMED = ("protocol", "split", "config")  # settings that a folder has where they are not the usual ones


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The learning curve of one training run."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the files show.

    Attributes:
        config: Settings that all cells share (`compare.Matrix`).
        environment: What it ran on.
        suite_version: Of the suite.
        models: `Backbone.fingerprint` of what wrote the cells, as far as it is known; more than one where cells
            were added on a machine on which ``--dtype auto`` is another type, or with other weights.
        reference: The strategy that the others are held against.
        outcomes: By strategy and seed.
        summaries: In the order of the comparison.
        contests: `reference` against each other.
        runs: Training runs of the policies.
        operators: What was done, by strategy; only those with actions.
        episodes: By strategy; only those whose traces have steps.
        prompts: The task's own prompt by id, as far as traces have it.
        untraced: Cells without a trace.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    suite_version: str
    models: tuple[str, ...]
    reference: str
    outcomes: dict[str, Seeds]
    summaries: tuple[Summary, ...]
    contests: tuple[Contest, ...]
    runs: tuple[TrainingRun, ...]
    operators: dict[str, tuple[OperatorUse, ...]]
    episodes: dict[str, tuple[Episode, ...]]
    prompts: dict[str, str]
    untraced: tuple[str, ...]

    @property
    def oracle(self) -> bool:
        """Whether hidden tests guided the search, which every file has to say."""
        return bool(self.config.get("feedback") == "oracle")


def build_report(folder: Path, runs: Sequence[Path] = (), against: str | None = None) -> Report:
    """Read a folder of `promptrl compare`.

    Args:
        folder: The folder; one that was broken off is reported as far as it was judged.
        runs: Run folders of `promptrl train`; without any, those of the policies' bundles are looked for.
        against: The strategy to hold the others against; None for promptrl, or the last one.

    Raises:
        ConfigError: `folder` holds no results or no settings of a comparison, or one of `runs` no metrics.
        UnknownNameError: `against` is not in the comparison.
        SamplesError: A trace file is damaged.
    """
    run = RunFolder.open(folder)
    refuse_training(folder)
    config = _settings(run)
    results, raw = load_results(folder), read_results(folder)
    strategies = by_strategy(results)
    if against is not None and against not in strategies:
        raise UnknownNameError("strategy of this comparison", against, strategies)
    reference = against or reference_of(list(strategies))
    traces = load_traces(folder, raw["samples"], results)
    prompts = _prompts(traces.values())
    episodes = {name: tuple(_episodes(name, seeds, traces, prompts)) for name, seeds in strategies.items()}
    return Report(
        config=config,
        environment=run.environment(),
        suite_version=str(raw["suite_version"]),
        models=tuple(sorted({raw["models"][cell] for cell in results if cell in raw["models"]})),
        reference=reference,
        outcomes=strategies,
        summaries=tuple(summarise(name, seeds) for name, seeds in strategies.items()),
        contests=tuple(contests(strategies, reference)),
        runs=tuple(_training_run(path) for path in runs or _runs_of(folder, strategies)),
        operators={name: tuple(used) for name, seeds in strategies.items() if (used := _uses(seeds, episodes[name]))},
        episodes={name: found for name, found in episodes.items() if found},
        prompts=prompts,
        untraced=tuple(cell for cell in results if cell not in traces),
    )


def settings_line(report: Report) -> str:
    """What was compared, in one line; says so where hidden tests guided the search, or where models differ."""
    c = report.config
    backbone = c.get("backbone", {})
    mark = " (oracle: hidden tests guided the search; not eligible for a leaderboard)" if report.oracle else ""
    return (
        f"suite {c.get('suite')} ({report.suite_version}), model {backbone.get('model')} "
        f"({backbone.get('backend')}, {backbone.get('dtype')}{_written_by(report.models)}), budget {c.get('budget')}, "
        f"feedback {c.get('feedback')}{mark}" + "".join(f", {name} {c[name]}" for name in _NAMED if name in c)
    )


def _written_by(models: Sequence[str]) -> str:
    if len(models) > 1:
        return f"; cells of DIFFERENT models, not comparable: {', '.join(models)}"
    return "".join(f": {model}" for model in models)


def _settings(run: RunFolder) -> dict[str, Any]:
    config = run.config()
    if not all(name in config for name in _NEEDED) or not isinstance(config["backbone"], dict):
        raise ConfigError(f"{run.config_path} is no comparison's; name a folder of `promptrl compare --out`")
    return config


def _episodes(
    strategy: str, seeds: Seeds, traces: Mapping[str, Mapping[str, Any]], prompts: Mapping[str, str]
) -> Iterator[Episode]:
    for seed, outcomes in seeds.items():
        rows = traces.get(f"{strategy}-s{seed}", {})
        for o in outcomes:
            if o.task_id in rows and (found := episode(seed, o, rows[o.task_id], prompts.get(o.task_id, ""))):
                yield found


def _uses(seeds: Seeds, episodes: Sequence[Episode]) -> list[OperatorUse]:
    return operator_uses([o.actions for outcomes in seeds.values() for o in outcomes], episodes)


def _prompts(traces: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Prompts that no operator has touched, by task id."""
    return {task_id: row["prompt"].strip() for rows in traces for task_id, row in rows.items()
            if row["prompt"].strip() and not row["operators"]}  # fmt: skip


def _runs_of(folder: Path, strategies: Mapping[str, Seeds]) -> list[Path]:
    """Run folders beside the policy bundles of the rows, and those of folds beside the samples."""
    found = [b.parent for row, seeds in strategies.items() for seed in seeds for b in bundle_of(folder, row, seed)]
    for samples in read_results(folder)["samples"].values():
        found += sorted(sibling(folder / samples, FOLDS).glob("*"))
    with_metrics = [path.resolve() for path in found if (path / "metrics.jsonl").is_file()]
    return list(dict.fromkeys(with_metrics))


def _training_run(path: Path) -> TrainingRun:
    rows = latest_rows(RunFolder.open(path).metrics())
    if not rows:
        raise ConfigError(f"{path} has no metrics; name the folder of a `promptrl train` run that has logged some")
    folder = path.resolve()
    name = folder.name
    if folder.parent.suffix == FOLDS:
        configuration, _, _digest = folder.parent.stem.rpartition("_temp_0.0_")[2].rpartition("_")
        name = f"{configuration}, fold {name}"
    return TrainingRun(name, tuple(panels(rows)))
