"""A finished comparison, read from its folder: what can be no entry is refused before anything is judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptrl_plugin.backbones.loading import dtype_in
from promptrl_plugin.config import LEARNED, SEEDLESS
from promptrl_plugin.errors import ConfigError, EntryError, UnknownNameError
from promptrl_plugin.evaluation.compare import Cell, Matrix
from promptrl_plugin.evaluation.results import load_results, read_results
from promptrl_plugin.evaluation.summary import Seeds, by_strategy
from promptrl_plugin.harnesses.options import BackboneOptions, StrategyOptions
from promptrl_plugin.records import Feedback
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.registry import load_suite, train_suite_of

__all__ = ["Comparison", "open_comparison"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison, ready to be judged.

    Attributes:
        folder: Of `promptrl compare`.
        matrix: Its settings, with the chosen rows.
        suite: Its suite.
        rows: Outcomes of the chosen rows by seed.
        samples: Samples file by cell name.
        versions: What it ran on.
    """

    folder: Path
    matrix: Matrix
    suite: Suite
    rows: dict[str, Seeds]
    samples: dict[str, Path]
    versions: dict[str, Any]

    def options(self, row: str) -> StrategyOptions:
        """What the row's strategy was asked for."""
        return self.matrix.options(Cell(row, 0), self.folder).strategy


def open_comparison(folder: Path, chosen: Sequence[str] = ()) -> Comparison:
    """Read a folder of `promptrl compare` and refuse what can be no entry.

    Args:
        folder: The folder.
        chosen: Rows to take; every one without any.

    Raises:
        ConfigError: It is no comparison, is not finished, or is of another version of the suite.
        EntryError: Hidden tests guided a row, a row is cross-fitted, the suite is one that trains, or different
            models wrote the rows.
        UnknownNameError: A row is not in the comparison.
        DataError: The suite is not at hand.
    """
    run = RunFolder.open(folder)
    config, raw = run.config(), read_results(folder)
    every = by_strategy(load_results(folder))
    if strange := [row for row in chosen if row not in every]:
        raise UnknownNameError("row of this comparison", strange[0], every)
    rows = {row: dict(sorted(seeds.items())) for row, seeds in every.items() if row in (chosen or every)}
    again = "run the same `promptrl compare` command again to finish it, or choose finished rows with --row"
    _refuse_unequal_seeds(rows, again)
    if lacking := [cell for row in rows for cell in _cells(row, rows[row]) if cell not in raw["samples"]]:
        raise ConfigError(f"{folder} does not tell the samples of {lacking[0]} (an earlier promptrl wrote it); {again}")
    if config.get("split") and (trained := [row for row in rows if Cell(row, 0).strategy in LEARNED]):
        raise EntryError(f"{trained[0]} has a policy a fold, an entry tells one a seed; name the other rows with --row")
    try:
        matrix = Matrix(
            config["suite"],
            _typed(
                BackboneOptions(**config["backbone"]), {raw["models"].get(c) for r in rows for c in _cells(r, rows[r])}
            ),
            tuple(rows),
            (),
            config["budget"],
            config["feedback"],
            selector=config.get("selector", "first"),
        )
    except (KeyError, TypeError):
        raise ConfigError(f"{run.config_path} is no comparison's; name a folder of `promptrl compare --out`") from None
    found = Comparison(
        folder,
        matrix,
        suite=_suite(matrix, rows, str(raw["suite_version"]), again),
        rows=rows,
        samples={cell: folder / name for cell, name in raw["samples"].items()},
        versions=_versions(run),
    )
    return found


def _typed(backbone: BackboneOptions, models: Collection[str | None]) -> BackboneOptions:
    """The options with the type that ``--dtype auto`` came to, if the results tell it.

    Args:
        backbone: What was asked for.
        models: `Backbone.fingerprint` of each cell's model, None where it is not known.

    Raises:
        EntryError: They are different ones.
    """
    known = sorted(model for model in models if model is not None)
    if len(known) > 1:
        raise EntryError(
            f"different models wrote the rows ({', '.join(known)}); choose those of one with --row, or run "
            "`promptrl compare --dtype` with the type in another folder"
        )
    kind = dtype_in(known[0]) if known and None not in models else ""
    return replace(backbone, dtype=kind) if backbone.dtype == "auto" and kind else backbone


def _cells(row: str, seeds: Seeds) -> list[str]:
    return [Cell(row, seed).name for seed in seeds]


def _refuse_unequal_seeds(rows: Mapping[str, Seeds], again: str) -> None:
    """A row that samples and has fewer seeds than others is under way; `direct` has one seed."""
    sampled = {row: set(seeds) for row, seeds in rows.items() if row not in SEEDLESS}
    every = set().union(*sampled.values())
    for row, seeds in sampled.items():
        if missing := sorted(every - seeds):
            raise ConfigError(f"the comparison is not finished: {row} lacks seed {missing[0]}; {again}")


def _suite(matrix: Matrix, rows: Mapping[str, Seeds], version: str, again: str) -> Suite:
    """The suite, of that version, all of whose tasks have an outcome."""
    for row in rows:
        if matrix.options(Cell(row, 0), Path()).strategy.feedback is Feedback.ORACLE:
            raise EntryError(
                f"{row} is of feedback=oracle: hidden tests guided the search, so it is not eligible; "
                "run `promptrl compare --feedback visible`"
            )
    suite = load_suite(matrix.suite)
    if train_suite_of(suite) is None:
        raise EntryError(f"suite {suite.name} trains, so results on it are no entry; compare on one that is evaluated")
    if suite.version != version:
        raise ConfigError(
            f"the comparison is of version {version} of suite {suite.name}, installed is {suite.version}; "
            "install that, or run the comparison again in another folder"
        )
    ids = [t.id for t in suite.tasks()]
    for row, seeds in rows.items():
        for seed, outcomes in seeds.items():
            if [o.task_id for o in outcomes] != ids:
                raise ConfigError(
                    f"{Cell(row, seed).name} has {len(outcomes)} of the {len(ids)} tasks of suite {suite.name}; {again}"
                )
    return suite


def _versions(run: RunFolder) -> dict[str, Any]:
    found = run.environment()
    try:
        packages = {name: version for name, version in found.get("packages", {}).items() if version is not None}
        return {"promptrl": found["promptrl"], "python": found["python"], "packages": packages}
    except (KeyError, AttributeError):
        raise ConfigError(
            f"{run.path / 'environment.json'} is missing or damaged, so nobody knows what the comparison ran on; "
            "run it again in another folder (its generations come from the cache)"
        ) from None
