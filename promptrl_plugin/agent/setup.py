"""What episodes need besides a task: action table, observation layout, examples, embeddings.

The trainer builds one from its train tasks; a policy bundle stores what it takes to build the same one
again. Benchmark text never goes into a bundle: it keeps ids and hashes, and the examples are read from
their suite again (by default `examples`, which ships with the package).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.config import EnvConfig, TrainConfig
from promptrl_plugin.env.context import EpisodeContext, Projection, TaskContext, build_task_contexts
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.errors import BundleError
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.records import Feedback, Task
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.hidden import TrainTask
from promptrl_plugin.suites.registry import load_suite

__all__ = ["EpisodeSetup", "layout_of", "load_embedder", "load_library"]

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EpisodeSetup:
    """Everything that turns a task into a runnable episode.

    Attributes:
        table: The actions.
        layout: The observation.
        library: Solved train tasks to show as examples.
        projection: From sentence embedding to observation.
        embed: Sentence embeddings of texts, float32 ``[n, d]``.
    """

    table: ActionTable
    layout: ObservationLayout
    library: ExampleLibrary
    projection: Projection
    embed: Embed

    @classmethod
    def untrained(cls, cache: Cache | None, config: TrainConfig | None = None) -> EpisodeSetup:
        """The default actions and examples, with an embedding that is all zeros (nothing was fitted)."""
        config = config or TrainConfig()
        embed = load_embedder(config.embedder, cache)
        library = load_library(load_suite(config.example_suite), embed)
        table = ActionTable.default(config.operator_kinds, config.operators)
        dim = library.embeddings.shape[1]
        projection = Projection(
            np.zeros(dim, dtype=np.float32), np.zeros((config.env.embedding_dim, dim), dtype=np.float32)
        )
        return cls(table, layout_of(table, config, config.env.embedding_dim), library, projection, embed)

    @classmethod
    def from_bundle(cls, bundle: PolicyBundle, cache: Cache | None) -> EpisodeSetup:
        """What a bundle was trained with.

        Raises:
            BundleError: This promptrl has another action table or observation, or the example tasks are
                not the ones that the bundle was trained with.
            DataError: The suite of the examples is not at hand.
        """
        config = bundle.train_config()
        embed = load_embedder(bundle.embedder, cache)
        library = load_library(load_suite(config.example_suite), embed, frozenset(bundle.example_hashes))
        if library.hashes != bundle.example_hashes:
            raise BundleError(
                f"the example tasks of suite {config.example_suite} are not those that the policy bundle was trained "
                f"with; train it again: {bundle.train_command(bundle.backbone)}"
            )
        table = ActionTable.of(bundle.actions)
        projection = Projection(bundle.projection_mean, bundle.projection_components)
        layout = layout_of(table, config, len(bundle.projection_components))
        return cls(table, layout, library, projection, embed)

    def task_contexts(self, tasks: Sequence[Task]) -> list[TaskContext]:
        """Embed `tasks` and choose their examples."""
        return build_task_contexts(tasks, self.library, self.projection, self.embed)

    def episode_context(
        self,
        env: EnvConfig,
        feedback: Feedback,
        chat: bool,
        seed: int,
        rewriter_chat: bool | None = None,
        *,
        completes: bool = False,
    ) -> EpisodeContext:
        """Settings of a run's episodes."""
        rewriter_chat = chat if rewriter_chat is None else rewriter_chat
        return EpisodeContext(self.table, env, feedback, chat, rewriter_chat, seed, completes)


def layout_of(table: ActionTable, config: TrainConfig, embedding_dim: int) -> ObservationLayout:
    """The observation that goes with a run's settings.

    Raises:
        ConfigError: They blank a block that does not exist.
    """
    agreement = Selector.parse(config.env.selector).agreeing > 1
    return ObservationLayout.of(table, embedding_dim, config.blank_features, agreement=agreement)


def load_library(suite: Suite, embed: Embed, only: Collection[str] | None = None) -> ExampleLibrary:
    """The solved tasks of a suite, as examples.

    Args:
        suite: Its tasks, all or a fold's.
        embed: Sentence embeddings of texts, float32 ``[n, d]``.
        only: `Task.content_hash` of those that are wanted; None for all.
    """
    hidden = suite.hidden()
    wanted = [TrainTask(t, hidden[t.id]) for t in suite.tasks() if only is None or t.content_hash in only]
    return ExampleLibrary.from_train_tasks(wanted, embed)


def load_embedder(name: str, cache: Cache | None) -> Embed:
    """Sentence embeddings by model name, cached.

    Raises:
        BackboneError: The model cannot be found.
    """
    from promptrl_plugin.backbones.embedding import Embedder

    return Embedder(name, cache=cache).encode
