"""Runs strategies × seeds on one suite, judges what they submitted, and keeps every outcome by task.

The folder (a run folder, `storage.runs`) holds the settings, three sample files a cell, named by all that
changes them (policy, model, data, feedback; `harnesses.samples`), and ``results.json``. Running it again
solves only what is missing; a cell that is complete costs nothing, and strategies and seeds may be added.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptrl_plugin.backbones.registry import check_base_url
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import LEARNED, PROTOCOLS, SEEDLESS, JudgeConfig
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation.outcomes import Outcome, outcomes_of, submitted_after
from promptrl_plugin.evaluation.results import RESULTS, read_results
from promptrl_plugin.harnesses.crossfit import solve_crossfit
from promptrl_plugin.harnesses.listener import Listener
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, Split, StrategyOptions
from promptrl_plugin.harnesses.session import (
    OnSolved,
    check_policy,
    check_request,
    check_visible,
    counted_from,
    open_backbone,
    solve_suites,
)
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.storage.runs import RunFolder, write_json
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.registry import load_suite

if TYPE_CHECKING:
    from promptrl_plugin.backbones.base import Backbone
    from promptrl_plugin.evaluation.cluster import Cluster

__all__ = ["Cell", "Matrix", "Outcome", "run_matrix", "submitted_after"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One strategy with one seed.

    Attributes:
        row: Name of the strategy, with a label where several of its policies are compared: ``"promptrl:no-lexical"``.
        policy: Policy bundle of a learned strategy, None for the one that ships.
    """

    row: str
    seed: int
    policy: Path | None = None

    @property
    def strategy(self) -> str:
        return self.row.partition(":")[0]

    @property
    def name(self) -> str:
        return f"{self.row}-s{self.seed}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is compared with what.

    Attributes:
        suite: Name of the suite.
        backbone: The model of every cell.
        strategies: Names; a learned one may come several times with labels (`Cell.row`).
        seeds: Of sampling; `direct` has no randomness and runs once.
        budget, feedback: The same for every cell.
        policy: Path of the policy bundle of `promptrl`, in which ``{seed}`` stands for the seed; ``""`` takes
            the one that ships.
        selector: Of the final program, the same for every cell.
        policies: The same for other rows, as (row, path); a labelled row must have one.
        protocol: One of `config.PROTOCOLS`.
        split: ``"crossfit:K"``: rows that are trained and have no policy train on folds of the suite; ``""``: none do.
        config: How they train (`harnesses.options.StrategyOptions.config`).
    """

    suite: str
    backbone: BackboneOptions
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: int
    feedback: str
    policy: str = ""
    selector: str = "first"
    policies: tuple[tuple[str, str], ...] = ()
    protocol: str = PROTOCOLS[0]
    split: str = ""
    config: str = ""

    @property
    def paths(self) -> dict[str, str]:
        """The policies by row, ``""`` where `promptrl` takes the one that ships."""
        return dict(self.policies) | {"promptrl": self.policy}

    def cells(self) -> list[Cell]:
        """Every cell, strategy by strategy.

        Raises:
            ConfigError: A strategy or a seed is missing or named twice, policies and rows do not fit, or no row uses
            `policy`, `split` or `config`.
        """
        for what, values in (("--strategies", self.strategies), ("--seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{what} must name at least one, and each once, not {values!r}")
        paths = {row: path for row, path in self.paths.items() if path}
        if strange := [row for row, _ in self.policies if row not in self.strategies]:
            raise ConfigError(f"--policy {strange[0]}=… is for no row of --strategies; add {strange[0]} there")
        if bare := [row for row in self.strategies if ":" in row and row not in paths]:
            raise ConfigError(f"{bare[0]} needs a policy of its own: --policy {bare[0]}=FOLDER")
        self._check_used(paths)
        return [
            Cell(name, seed, Path(paths[name].replace("{seed}", str(seed))) if name in paths else None)
            for name in self.strategies
            for seed in ((0,) if name in SEEDLESS else self.seeds)
        ]

    def _check_used(self, paths: Mapping[str, str]) -> None:
        """Refuse what no row would use; `paths` are the policies that were given, by row."""
        rows = ",".join(self.strategies)
        if "promptrl" in paths and "promptrl" not in self.strategies:
            raise ConfigError(
                f"--policy {self.policy} is for promptrl, which --strategies {rows} does not name; add it there, name "
                "the row as --policy ROW=FOLDER, or leave it out"
            )
        if self.config and not self.split:
            raise ConfigError("--config says how --split trains; add --split crossfit:5, or leave it out")
        if not self.split:
            return
        Split.parse(self.split)
        if not any(Cell(row, 0).strategy in LEARNED and row not in paths for row in self.strategies):
            raise ConfigError(
                f"--split trains the rows that are trained and have no --policy, and --strategies {rows} names none; "
                "add promptrl there, or leave out --split and --config"
            )

    def options(self, cell: Cell, folder: Path) -> SolveOptions:
        """What `promptrl solve` would be asked for that cell."""
        given = {
            "strategy": cell.strategy, "policy": cell.policy, "budget": self.budget, "feedback": self.feedback,
            "seed": cell.seed, "selector": self.selector, "protocol": self.protocol,
        }  # fmt: skip
        if self.split and cell.strategy in LEARNED and cell.policy is None:
            given |= {"split": self.split, "config": self.config}
        return SolveOptions(StrategyOptions.parse(given), self.backbone, suite=self.suite, root=folder)


def run_matrix(
    matrix: Matrix,
    folder: Path,
    listener: Listener,
    on_cell: Callable[[Cell, list[Outcome]], None] | None = None,
    cluster: Cluster | None = None,
) -> dict[str, list[Outcome]]:
    """Solve every cell, then judge each; returns and writes the outcomes by cell name.

    Args:
        matrix: What to run.
        folder: Where; an interrupted run of the same settings goes on there.
        listener: Follows the solving.
        on_cell: Called as each cell is judged, after all are solved.
        cluster: Solves the cells, several at once; None for this machine.

    Raises:
        ConfigError: `folder` holds another comparison, or a split cannot be.
        UserError: As `promptrl solve` and `promptrl judge`.
    """
    cells = matrix.cells()
    requests = [matrix.options(cell, folder) for cell in cells]
    for request in requests:
        check_request(request.strategy, matrix.backbone.model)
    check_base_url(matrix.backbone.backend, matrix.backbone.base_url)
    settings = _settings(matrix)
    begun = (folder / "config.json").exists()
    if begun:
        began = str(RunFolder.open(folder).config().get("policy") or "")
        _check_policies(folder, matrix, began)
        settings["policy"] = began
        RunFolder.open(folder, settings)  # refuses other settings before a model is loaded
    suite = load_suite(matrix.suite)
    for request in requests:
        check_visible(request.strategy.feedback, suite)
    results: dict[str, list[Outcome]] = {}
    with ExitStack() as stack:
        cache = stack.enter_context(Cache())
        backbone = None if cluster is not None else open_backbone(matrix.backbone, cache)
        if backbone is not None:
            stack.callback(backbone.close)
            for request in requests:
                check_policy(request.strategy, backbone)
        # Only now that nothing is amiss: a folder keeps its settings, the wrong ones, too.
        run = RunFolder.open(folder, settings) if begun else RunFolder.create(folder, settings)
        judge = CachingJudge(IsolatedJudge(JudgeConfig()), cache)
        stack.callback(judge.close)

        # Judged when all is solved: beside the visible tests of others, a program may run out of its time.
        owed: list[tuple[Cell, Path, str]] = []
        if cluster is not None:
            _solve_there(cluster, requests, folder, listener, lambda i, s, model: owed.append((cells[i], s, model)))
        elif backbone is not None:
            model = backbone.fingerprint
            _solve_here(requests, suite, backbone, listener, lambda i, s: owed.append((cells[i], s, model)))
        for cell, samples, model in owed:
            results[cell.name] = outcomes_of(samples, suite, judge, matrix.budget, oracle=matrix.feedback == "oracle")
            _keep(run.path, suite.version, cell, results[cell.name], samples, matrix.paths, model)
            if on_cell is not None:
                on_cell(cell, results[cell.name])
    return results


def _solve_here(
    requests: Sequence[SolveOptions], suite: Suite, backbone: Backbone, listener: Listener, solved: OnSolved
) -> None:
    """Solve the cells; those that train on folds each by itself, the others without waiting for each other's last."""
    first = 0
    for split, some in itertools.groupby(requests, lambda r: r.strategy.split is not None):
        chosen = list(some)
        if not split:
            solve_suites(chosen, suite, backbone, listener, counted_from(first, solved))
        else:
            for i, request in enumerate(chosen, start=first):
                solved(i, solve_crossfit(request, suite, backbone, listener))
        first += len(chosen)


def _solve_there(
    cluster: Cluster,
    requests: Sequence[SolveOptions],
    folder: Path,
    listener: Listener,
    solved: Callable[[int, Path, str], None],
) -> None:
    """Solve the cells on a cluster. Each is on file as soon as it is done; `solved` gets them in their order."""
    from promptrl_plugin.evaluation.cluster_jobs import read_files, solve_cell, write_files

    jobs = []
    for request in requests:
        s = request.strategy
        begun = read_files(folder, f"*/*_{s.strategy}_b{s.budget}_*_s{s.seed}_*.jsonl")
        jobs.append((request, begun, read_files(s.policy) if s.policy is not None else {}))
    waiting, turn = dict[int, tuple[Path, str]](), 0

    def done(i: int, result: tuple[str, str, dict[str, bytes]]) -> None:
        nonlocal turn
        name, model, files = result
        write_files(folder, files, last=[name])
        waiting[i] = folder / name, model
        listener.sample()
        while turn in waiting:
            solved(turn, *waiting.pop(turn))
            turn += 1

    listener.begin("cells", 0, len(jobs), folder)
    try:
        cluster.run(solve_cell, jobs, done)
    finally:
        listener.end()


def _known(folder: Path) -> dict[str, Any]:
    """`read_results` of a folder that may have none yet."""
    if (folder / RESULTS).exists():
        return read_results(folder)
    return {"samples": {}, "policies": {}, "models": {}, "cells": {}}


def _keep(
    folder: Path,
    suite_version: str,
    cell: Cell,
    outcomes: Sequence[Outcome],
    samples: Path,
    policies: Mapping[str, str],
    model: str,
) -> None:
    """Add one cell to the results, so that a matrix can be reported as far as it is judged."""
    known = _known(folder)
    results = {
        "suite_version": suite_version,
        "samples": known["samples"] | {cell.name: samples.relative_to(folder).as_posix()},
        "policies": known["policies"] | {row: path for row, path in policies.items() if row == cell.row},
        "models": known["models"] | {cell.name: model},
        "cells": known["cells"] | {cell.name: [asdict(o) for o in outcomes]},
    }
    write_json(folder / RESULTS, results)


def _check_policies(folder: Path, matrix: Matrix, began: str) -> None:
    """Refuse another policy for a row that has results; `began` is that of `promptrl` when the folder was begun."""
    known = _known(folder)
    then, now = {"promptrl": began} | known["policies"], matrix.paths
    rows = {cell.rpartition("-s")[0] for cell in known["cells"]}
    if changed := [row for row in matrix.strategies if row in rows and now.get(row, "") != then.get(row, "")]:
        raise ConfigError(f"{folder} has results of another policy of {changed[0]}; use that, or another folder")


def _settings(matrix: Matrix) -> dict[str, Any]:
    """What all cells of a folder share; strategies, with their policies, and seeds may be added later."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(matrix)))  # plain, as on file
    settings["selector"] = str(Selector.parse(matrix.selector))
    usual = {"selector": "first", "protocol": PROTOCOLS[0], "split": "", "config": ""}
    free = ["strategies", "seeds", "policies", *(k for k, v in usual.items() if settings[k] == v)]
    return {k: v for k, v in settings.items() if k not in free}  # folders from before there were selectors have none
