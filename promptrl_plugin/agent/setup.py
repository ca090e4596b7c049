"""What episodes need besides a task: action table, observation layout, examples, embeddings.

The trainer builds one from its train tasks; a policy bundle stores what it takes to build the same one
again. Benchmark text never goes into a bundle: it keeps ids and hashes, and the examples are read from
the train suite again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptrl_plugin.config import EnvConfig
from promptrl_plugin.env.context import EpisodeContext, Projection, TaskContext, build_task_contexts
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.records import Feedback, Task
from promptrl_plugin.storage.cache import Cache

__all__ = ["EpisodeSetup", "load_embedder"]

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

    def task_contexts(self, tasks: Sequence[Task]) -> list[TaskContext]:
        """Embed `tasks` and choose their examples."""
        return build_task_contexts(tasks, self.library, self.projection, self.embed)

    def episode_context(
        self, env: EnvConfig, feedback: Feedback, chat: bool, seed: int, rewriter_chat: bool | None = None
    ) -> EpisodeContext:
        """Settings of a run's episodes."""
        rewriter_chat = chat if rewriter_chat is None else rewriter_chat
        return EpisodeContext(self.table, env, feedback, chat, rewriter_chat, seed)


def load_embedder(name: str, cache: Cache | None) -> Embed:
    """Sentence embeddings by model name, cached.

    Raises:
        BackboneError: The model cannot be found.
    """
    from promptrl_plugin.backbones.embedding import Embedder

    return Embedder(name, cache=cache).encode
