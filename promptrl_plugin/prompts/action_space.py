"""The agent's actions: operators with their strengths, flattened to one discrete space with a mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptrl_plugin.errors import ConfigError
from promptrl_plugin.prompts.operators import KINDS, builtin_operators, find_operator
from promptrl_plugin.prompts.operators.base import EpisodeView, Operator
from promptrl_plugin.records import content_hash

__all__ = ["Action", "ActionTable"]


@dataclass(frozen=True, slots=True)
class Action:
    """One entry of the discrete action space."""

    index: int
    name: str
    operator: Operator


@dataclass(frozen=True, slots=True)
class ActionTable:
    """The action space of an agent.

    Attributes:
        actions: In the order of their indices.
    """

    actions: tuple[Action, ...]

    @classmethod
    def default(cls, kinds: Iterable[str] = KINDS, only: Iterable[str] = ()) -> ActionTable:
        """The built-in operators of the given kinds, those that generate nothing (*revert*, *reset*, *stop*) always.

        Args:
            kinds: Of `operators.KINDS`.
            only: Names, where not all of those kinds are wanted, or some of other packages' operators are.

        Raises:
            ConfigError: A kind that does not exist, or lexical ones alone (a prompt may offer them nothing).
            UnknownNameError: No operator has a name of `only`.
        """
        named = dict.fromkeys(only)
        known = {op.name: op for op in builtin_operators()}
        builtin = [*known.values(), *(find_operator(name) for name in named if name not in known)]
        wanted = set(kinds)
        if unknown := wanted - set(KINDS):
            raise ConfigError(f"unknown operator kind {min(unknown)!r}; one of: {', '.join(KINDS)}")
        if not wanted & {"direct", "semantic"}:
            raise ConfigError("an episode cannot begin without direct and semantic operators; leave one of them on")
        kept = [op for op in builtin if op.kind in wanted and (not named or op.name in named)]
        if not any(op.kind in ("direct", "semantic") and op.generates for op in kept):
            raise ConfigError("none of `operators` can begin an episode; name a direct or semantic one, too")
        return cls._of([op for op in builtin if op in kept or not op.generates])

    @classmethod
    def of(cls, names: Iterable[str]) -> ActionTable:
        """The operators of these names, built in or from the entry-point group, in this order.

        Raises:
            UnknownNameError: No operator has such a name.
            ConfigError: A name occurs twice.
        """
        return cls._of([find_operator(name) for name in names])

    @classmethod
    def _of(cls, operators: Iterable[Operator]) -> ActionTable:
        actions = tuple(Action(i, op.name, op) for i, op in enumerate(operators))
        names = [a.name for a in actions]
        if len(set(names)) != len(names):
            raise ConfigError(f"operator {max(names, key=names.count)!r} is listed twice; name each once")
        return cls(actions)

    @property
    def n(self) -> int:
        return len(self.actions)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.actions)

    @property
    def digest(self) -> str:
        """Hash of names, order and versions; a policy only fits the table that it was trained with."""
        operators = [a.operator for a in self.actions]
        return content_hash("actions", [(op.name, op.version, op.generations, op.decoding) for op in operators])

    def mask(self, view: EpisodeView) -> npt.NDArray[np.bool_]:
        """Actions that may be taken now, bool ``[n]``.

        An action must be available (operators leave out what would change nothing, lacks what it
        needs, or would repeat a deterministic generation) and its generations must fit the budget.
        """
        mask = [a.operator.generations <= view.budget_left and a.operator.available(view) for a in self.actions]
        return np.array(mask, dtype=np.bool_)

    def draw(self, mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> int:
        """A random choice among the actions that may be taken, never *stop* while there is another.

        Random choice is what learning is held against; one that gives up at random would be held back by that alone.

        Args:
            mask: Bool ``[n]``, one at least.
            rng: Draws.
        """
        allowed = np.flatnonzero(mask)
        while True:
            action = int(rng.choice(allowed))
            if self.actions[action].name != "stop" or len(allowed) == 1:
                return action
