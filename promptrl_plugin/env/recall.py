"""Which actions a training run can repeat without a new generation.

Generations are what training pays for; updates are nearly free. Completions are functions of their
requests, so an episode whose every request was made before can be played again from memory, and PPO can
train on it as on any other: its policy acts, under a mask that leaves only such actions. Values beyond
what is remembered are bootstrapped (the episode is truncated there, not ended).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.backbones.caching import RecordingBackbone
from promptrl_plugin.env.episode import Episode
from promptrl_plugin.records import Generate

__all__ = ["Recall"]


class Recall:
    """Masks of what was generated before.

    Args:
        backbone: Knows which programs were written in this run.
        rewriter: Knows which rewrites were; None where the backbone writes them.
    """

    def __init__(self, backbone: RecordingBackbone, rewriter: RecordingBackbone | None = None) -> None:
        self._backbone, self._rewriter = backbone, rewriter
        self._masks: dict[tuple[Any, ...], npt.NDArray[np.bool_]] = {}
        self._known = -1

    def mask(self, episode: Episode) -> npt.NDArray[np.bool_]:
        """Allowed actions that need no new generation, bool ``[n_actions]``; none after the end.

        Where only *stop* would be left, none is: stopping must be a choice.
        """
        known = sum(b.num_recorded for b in self._sources())
        if known != self._known:
            self._masks.clear()
            self._known = known
        key = (episode.task.content_hash, episode.variant, *(s.action for s in episode.steps))
        if key not in self._masks:
            self._masks[key] = self._compute(episode)
        return self._masks[key]

    def get_state(self) -> dict[str, Any]:
        """Keys of what is known, as bytes ``[n, 32]`` a source."""
        return {name: _packed(b.recorded) for name, b in zip(("backbone", "rewriter"), self._sources(), strict=False)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore `get_state`."""
        for name, backbone in zip(("backbone", "rewriter"), self._sources(), strict=False):
            backbone.restore([bytes(row).hex() for row in np.asarray(state[name], dtype=np.uint8)])

    def _sources(self) -> tuple[RecordingBackbone, ...]:
        return (self._backbone,) if self._rewriter is None else (self._backbone, self._rewriter)

    def _compute(self, episode: Episode) -> npt.NDArray[np.bool_]:
        mask = np.zeros(episode.context.table.n, dtype=np.bool_)
        if episode.done:
            return mask
        for action in np.flatnonzero(episode.mask()):
            mask[action] = self._known_step(episode, int(action))
        table = episode.context.table.actions
        return mask if any(table[a].name != "stop" for a in np.flatnonzero(mask)) else np.zeros_like(mask)

    def _known_step(self, episode: Episode, action: int) -> bool:
        """Whether a step asks only for completions that are remembered, as far as its first program.

        One that only goes to another prompt counts where it leads on.
        """
        operator = episode.context.table.actions[action].operator
        after = episode.fork()
        effects = after.perform(action)
        answer: Any = None
        while True:
            try:
                effect = effects.send(answer)
            except StopIteration:
                return operator.name == "stop" or bool(self._compute(after).any())
            if not isinstance(effect, Generate):
                return True  # a program is there; what is judged or run costs no generation
            source = self._rewriter if effect.rewriter and self._rewriter is not None else self._backbone
            answer = source.recall(effect.requests)
            if answer is None:
                return False


def _packed(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(len(keys), -1 if keys else 32)
