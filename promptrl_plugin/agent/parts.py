"""Builds what a training run needs from its configuration, and the bundle from what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.agent.bundle import Arrays, PolicyBundle
from promptrl_plugin.agent.setup import EpisodeSetup, layout_of, load_embedder, load_library
from promptrl_plugin.agent.side_by_side import SharedParts
from promptrl_plugin.backbones.caching import CachingBackbone, RecordingBackbone
from promptrl_plugin.backbones.registry import check_base_url, load_backbone
from promptrl_plugin.checking.base import Judge, JudgeRequest
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import TrainConfig, to_dict
from promptrl_plugin.env.context import Projection
from promptrl_plugin.env.grader import TrainGrader
from promptrl_plugin.env.observation import OBSERVATION_VERSION, ObservationLayout
from promptrl_plugin.env.recall import Recall
from promptrl_plugin.env.rollout import Rollout
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.records import Feedback, Status
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.hidden import TrainTask
from promptrl_plugin.suites.registry import load_suite
from promptrl_plugin.suites.splits import fingerprint, train_test_split

__all__ = ["TrainingParts", "build", "load_train_tasks", "make_bundle"]


@dataclass(slots=True)
class TrainingParts:
    """Everything that `promptrl_plugin.agent.train.train` works with.

    Attributes:
        config: As resolved.
        suite: Where the tasks come from.
        setup: Action table, layout, examples, embeddings.
        rollout / validation: Episodes on the tasks that train, and on those that select the checkpoint.
        dropped: Ids of tasks whose own reference was not judged right.
        backbone / rewriter / judge / cache: To be closed at the end.
        command: The command line, for the bundle's manifest.
    """

    config: TrainConfig
    suite: Suite
    setup: EpisodeSetup
    rollout: Rollout
    validation: Rollout
    dropped: tuple[str, ...]
    backbone: RecordingBackbone
    rewriter: RecordingBackbone | None
    judge: Judge
    cache: Cache
    command: str

    def description(self) -> str:
        """One line on what will train."""
        dropped = f", {len(self.dropped)} dropped (reference not judged right)" if self.dropped else ""
        return (
            f"{self.suite.name}: {len(self.rollout.tasks)} tasks train, {len(self.validation.tasks)} validate{dropped};"
            f" {self.setup.table.n} actions, {self.setup.layout.size} features; backbone {self.backbone.fingerprint}"
        )

    def counters(self) -> dict[str, float]:
        """Generations made and saved, and seconds spent, so far in this process."""
        stats, seconds = self.backbone.stats, self.rollout.seconds
        return {
            "time/episodes": seconds.total,
            "time/judging": seconds.judging,
            "time/waiting_for_judge": seconds.waiting,
            "cache/hits": float(stats.hits),
            "cache/misses": float(stats.misses),
            "generations/distinct": float(self.generations),
        }

    @property
    def generations(self) -> int:
        """Distinct generations that the run has asked for, whether they were made or found in the cache."""
        return self.backbone.num_recorded + (self.rewriter.num_recorded if self.rewriter is not None else 0)

    def recall(self) -> Recall:
        """Which actions training can repeat without a new generation."""
        return Recall(self.backbone, self.rewriter)

    def close(self) -> None:
        """End workers, free the model, close the cache."""
        self.judge.close()
        self.backbone.close()
        if self.rewriter is not None:
            self.rewriter.close()
        self.cache.close()


def build(
    config: TrainConfig,
    listener: Any,
    command: str = "promptrl train",
    suite: Suite | None = None,
    shared: SharedParts | None = None,
) -> TrainingParts:
    """Load tasks, model, embedder and judge.

    Args:
        config: The resolved configuration.
        listener: A `promptrl_plugin.agent.train.TrainListener`.
        command: The command line, for the bundle.
        suite: Train on these tasks instead of those of the suite that `config` names (a fold, say).
        shared: Where models and judge come from for runs side by side; None for parts of its own.

    Raises:
        UserError: Unknown names, missing data or model, too few tasks, a server's address for a backend without one.
    """
    table = ActionTable.default(config.operator_kinds, config.operators)
    layout = layout_of(table, config, config.env.embedding_dim)
    for name in config.warm_start.sequence:
        if name not in table.names:  # said before a model is loaded; an ablation may have taken it away
            raise UnknownNameError("operator of this run", name, table.names)
    check_base_url(config.backend, config.base_url)
    suite = suite or load_suite(config.suite)
    cache = Cache()
    judge = CachingJudge((shared.judge if shared else IsolatedJudge)(config.judge), cache)
    listener.stage("load tasks and model")
    tasks, dropped = load_train_tasks(suite, judge, config.limit)
    backbone = _backbone(config, config.backbone, cache, shared)
    rewriter = _backbone(config, config.rewriter, cache, shared) if config.rewriter else None
    train, validation = _split(tasks, config)
    # Of a fold's suite only what trains may be shown.
    shown = suite if config.example_suite == suite.name else load_suite(config.example_suite)
    setup = _setup(config, layout, table, train, shown, cache)
    context = setup.episode_context(
        config.env,
        Feedback(config.env.feedback),
        backbone.chat,
        config.seed,
        (rewriter or backbone).chat,
        completes=backbone.completes,
    )

    grader = TrainGrader(judge, config.generated_tests)

    def rollout(of: Sequence[TrainTask]) -> Rollout:
        return Rollout(
            of,
            setup.task_contexts([t.task for t in of]),
            context,
            config.reward,
            config.ppo.gamma,
            backbone,
            judge,
            rewriter,
            listener.generation,
            grader,
        )

    return TrainingParts(
        config, suite, setup, rollout(train), rollout(validation), dropped, backbone, rewriter, judge, cache, command
    )


def load_train_tasks(suite: Suite, judge: Judge, limit: int = 0) -> tuple[list[TrainTask], tuple[str, ...]]:
    """The tasks of a train suite whose reference passes all of its own tests; others would teach noise.

    Returns:
        The tasks (the first `limit`, if that is positive) and the ids of those left out.
    """
    hidden = suite.hidden()
    tasks = [TrainTask(t, hidden[t.id]) for t in suite.tasks() if t.visible.count]
    if limit > 0:
        tasks = tasks[:limit]
    verdicts = judge.check([JudgeRequest(t.hidden.reference, (t.task.visible, *t.hidden.groups)) for t in tasks])
    right = [all(v is not None and v.status is Status.PASS for v in groups) for groups in verdicts]
    kept = [t for t, ok in zip(tasks, right, strict=True) if ok]
    return kept, tuple(t.task.id for t, ok in zip(tasks, right, strict=True) if not ok)


def make_bundle(
    parts: TrainingParts, network: dict[str, Any], weights: Arrays, rows: Sequence[dict[str, Any]], path: Path
) -> Path:
    """Write the policy bundle of a finished run; returns its folder.

    Args:
        parts: What was trained with.
        network, weights: What was learned; `network` need not say how many features and actions there are.
        rows: Metrics; the last row goes into the bundle.
        path: Where the bundle goes.
    """
    config, setup = parts.config, parts.setup
    trained = [*parts.rollout.tasks, *parts.validation.tasks]
    examples = setup.library.examples
    bundle = PolicyBundle(
        backbone=config.backbone,
        backbone_fingerprint=parts.backbone.fingerprint,
        rewriter=config.rewriter,
        rewriter_fingerprint=parts.rewriter.fingerprint if parts.rewriter is not None else "",
        embedder=config.embedder,
        observation=setup.layout.names,
        observation_version=OBSERVATION_VERSION,
        actions=setup.table.names,
        action_digest=setup.table.digest,
        network={"obs_dim": setup.layout.size, "n_actions": setup.table.n} | network,
        weights=weights,
        projection_mean=setup.projection.mean,
        projection_components=setup.projection.components,
        config=to_dict(config),
        train_suite=parts.suite.name,
        train_suite_version=parts.suite.version,
        train_hashes=tuple(t.task.content_hash for t in trained),
        train_fingerprints=tuple(fingerprint(t.task, t.hidden.reference) for t in trained),
        example_ids=tuple(e.task_id for e in examples),
        example_hashes=setup.library.hashes,
        metrics={k: v for k, v in rows[-1].items() if isinstance(v, int | float)} if rows else {},
        command=parts.command,
    )
    return bundle.save(path)


def _backbone(config: TrainConfig, name: str, cache: Cache, shared: SharedParts | None) -> RecordingBackbone:
    load = shared.backbone if shared else load_backbone
    backbone = load(name, backend=config.backend, dtype=config.dtype, base_url=config.base_url or None)
    return RecordingBackbone(backbone.inner if isinstance(backbone, CachingBackbone) else backbone, cache)


def _split(tasks: Sequence[TrainTask], config: TrainConfig) -> tuple[list[TrainTask], list[TrainTask]]:
    if len(tasks) < 4:
        raise ConfigError(f"{len(tasks)} train tasks are too few; raise --limit or choose another --suite")
    train, held_out = train_test_split([t.task for t in tasks], config.validation_fraction, config.seed)
    train_ids = {t.id for t in train}
    held_out_ids = {t.id for t in held_out}
    return [t for t in tasks if t.task.id in train_ids], [t for t in tasks if t.task.id in held_out_ids]


def _setup(
    config: TrainConfig,
    layout: ObservationLayout,
    table: ActionTable,
    train: Sequence[TrainTask],
    examples: Suite,
    cache: Cache,
) -> EpisodeSetup:
    embed = load_embedder(config.embedder, cache)
    embeddings = embed([t.task.prompt for t in train])
    return EpisodeSetup(
        table,
        layout,
        load_library(examples, embed),
        Projection.fit(embeddings, config.env.embedding_dim),
        embed,
    )
