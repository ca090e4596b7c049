"""What an episode knows before it starts: settings of the run, examples and embedding of the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptrl_plugin.config import EnvConfig
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.prompts.state import Example
from promptrl_plugin.records import Decoding, Feedback, Task

__all__ = ["EpisodeContext", "Projection", "TaskContext", "build_task_contexts"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Projection:
    """Principal components that bring sentence embeddings into the observation.

    Attributes:
        mean: Mean embedding of the train tasks, float32 ``[d]``.
        components: Rows are unit principal axes scaled to unit variance, float32 ``[k, d]``.
    """

    mean: Floats
    components: Floats

    @classmethod
    def fit(cls, embeddings: Floats, dim: int) -> Projection:
        """Principal component analysis by singular values of the centred ``[n, d]`` embeddings.

        With fewer than `dim` components the remaining ones are zero.
        """
        mean = embeddings.mean(axis=0)
        _, singular, axes = np.linalg.svd(embeddings - mean, full_matrices=False)
        k = min(dim, int((singular > 1e-6).sum()))
        components = np.zeros((dim, embeddings.shape[1]), dtype=np.float32)
        scale = np.sqrt(max(1, len(embeddings) - 1)) / singular[:k]
        components[:k] = axes[:k] * scale[:, None]
        return cls(mean.astype(np.float32), components)

    def __call__(self, embeddings: Floats) -> Floats:
        """Project ``[n, d]`` to ``[n, k]``."""
        return np.asarray((embeddings - self.mean) @ self.components.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One task with the train examples chosen for it and its projected embedding ``[k]``."""

    task: Task
    fixed_examples: tuple[Example, ...]
    nearest_examples: tuple[Example, ...]
    other_examples: tuple[tuple[Example, ...], ...]
    embedding: Floats


@dataclass(frozen=True, slots=True)
class EpisodeContext:
    """Settings that all episodes of a run share."""

    table: ActionTable
    env: EnvConfig
    feedback: Feedback
    chat: bool
    rewriter_chat: bool
    seed: int
    completes: bool = False

    def decoding(self, kind: str) -> Decoding:
        """Decoding of a program or rewrite: ``"greedy"``, ``"warm"``, ``"hot"`` or ``"rewrite"``."""
        env = self.env
        if kind == "greedy":
            return Decoding(0.0, 1.0, env.max_new_tokens)
        if kind == "rewrite":
            return Decoding(0.0, 1.0, env.rewrite_max_new_tokens)
        temperature = {"warm": env.warm_temperature, "hot": env.hot_temperature}[kind]
        return Decoding(temperature, env.top_p, env.max_new_tokens)


def build_task_contexts(
    tasks: Sequence[Task],
    library: ExampleLibrary,
    projection: Projection,
    embed: Callable[[Sequence[str]], Floats],
    n_examples: int = 3,
    n_other_sets: int = 5,
) -> list[TaskContext]:
    """Embed every task once and choose its examples (never the task itself or a near-duplicate of it)."""
    if not tasks:
        return []
    embeddings = embed([task.prompt for task in tasks])
    projected = projection(embeddings)
    contexts = []
    for i, task in enumerate(tasks):
        excluded = library.duplicates(task)
        fixed, *other = library.fixed_sets(n_examples, 1 + n_other_sets, exclude_hashes=excluded)
        nearest = library.nearest(embeddings[i], n_examples, exclude_hashes=excluded)
        contexts.append(TaskContext(task, fixed, nearest, tuple(other), projected[i]))
    return contexts
