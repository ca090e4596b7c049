"""Cross-fitting: train on K-1 folds of a suite, solve the other, for every fold.

Every task gets a sample, and no task's sample comes from a policy that it trained. The
folds keep near-duplicates together (`promptrl_plugin.suites.splits.crossfit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.config import LEARNED, TrainConfig, load, to_dict
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.harnesses.listener import Listener
from promptrl_plugin.harnesses.options import SolveOptions
from promptrl_plugin.harnesses.samples import SampleFiles, samples_path, sibling
from promptrl_plugin.harnesses.session import Owed, identity, open_strategy, select, solve_owed
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["FOLDS", "FoldSuite", "solve_crossfit"]

FOLDS = ".folds"  #: ending of the folder of trainings that stands beside a samples file


@dataclass(frozen=True, slots=True)
class FoldSuite:
    """The train side of one fold, as a suite of its own.

    Name and version are the whole suite's, since a policy bundle finds its example tasks by id there.
    """

    whole: Suite
    train: tuple[Task, ...]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def version(self) -> str:
        return self.whole.version

    @property
    def evalplus_dataset(self) -> str | None:
        return self.whole.evalplus_dataset

    def tasks(self) -> Sequence[Task]:
        """The tasks that train."""
        return self.train

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Their hidden tests, and no other task's."""
        hidden = self.whole.hidden()
        return {t.id: hidden[t.id] for t in self.train}


def solve_crossfit(options: SolveOptions, suite: Suite, backbone: Backbone, listener: Listener) -> Path:
    """Train one policy a fold and solve its test tasks; returns the samples file.

    Trainings are kept in ``<samples>.folds/<k>`` and go on where they stopped. With a range of ids the folds are those
    of the whole suite, and only those train that have a task in it.

    Raises:
        ConfigError: The suite is too small for so many folds, no task is in the range, feedback is oracle, or there is
            no such configuration.
    """
    from promptrl_plugin.suites.splits import crossfit

    split = options.strategy.split
    assert split is not None
    if options.strategy.feedback.value == "oracle":
        raise ConfigError("--split trains on visible feedback or none; leave out --feedback oracle")
    config = _train_config(options)
    what = identity(options, suite, backbone, content_hash(to_dict(config)))
    path = samples_path(options, suite.evalplus_dataset or suite.name, what)
    wanted = {t.id for t in select(suite.tasks(), options.id_range)}
    with SampleFiles(path, (t.id for t in suite.tasks()), resume=options.resume) as files:
        references = {task_id: hidden.reference for task_id, hidden in suite.hidden().items()}
        for fold in crossfit(suite.tasks(), split.folds, options.strategy.seed, references):
            tests = [t for t in fold.test if t.id in wanted]
            if all(t.id in files.done for t in tests):
                continue
            policy = _train(config, FoldSuite(suite, fold.train), sibling(path, FOLDS) / str(fold.index))
            own = options.with_policy(policy)
            strategy, _ = open_strategy(own.strategy, backbone)
            solve_owed([Owed(own, tests, strategy, files)], suite, backbone, listener)
    return path


def _train_config(options: SolveOptions) -> TrainConfig:
    """The settings that were given, else the defaults, for this strategy, backbone, budget, feedback and seed.

    Raises:
        ConfigError: There is no such configuration, or it is not one.
    """
    backbone, strategy = options.backbone, options.strategy
    base = load(strategy.config) if strategy.config is not None else TrainConfig()
    asked = strategy.env()
    if strategy.protocol != "paper":  # which says how programs are sampled, too
        asked = replace(base.env, budget=asked.budget, feedback=asked.feedback, selector=asked.selector)
    return replace(
        base,
        learner=LEARNED[strategy.strategy],
        suite=options.suite,
        backbone=backbone.model,
        backend=backbone.backend,
        dtype=backbone.dtype,
        base_url=backbone.base_url or "",
        seed=strategy.seed,
        env=asked,
    )


def _train(config: TrainConfig, suite: FoldSuite, folder: Path) -> Path:
    """Train on one fold, or go on with it; returns the policy bundle."""
    from promptrl_plugin.agent.parts import build
    from promptrl_plugin.agent.train import train
    from promptrl_plugin.storage.runs import RunFolder

    resume = (folder / "config.json").exists()
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, config)
    listener = _TrainLog()
    parts = build(config, listener, command=f"crossfit on {suite.name}, fold {folder.name}", suite=suite)
    try:
        return train(parts, run, listener, resume=resume).bundle
    finally:
        parts.close()


class _TrainLog:
    """Follows a training run with one line a stage on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None

    def stage(self, name: str, total: int | None = None) -> None:
        from tqdm import tqdm

        if self._bar is not None:
            self._bar.close()
        self._bar = tqdm(total=total, desc=name, unit="step")

    def advance(self, steps: int) -> None:
        if self._bar is not None:
            self._bar.update(steps)

    def generation(self) -> None:
        """Not shown: the bar counts steps."""

    def metrics(self, values: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.3f}" for k, v in values.items() if k in ("episode_solved", "entropy")})
