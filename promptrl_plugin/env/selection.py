"""When a search ends and which of its programs is submitted: one rule for every strategy.

Two selectors exist. Under ``first`` a search ends with the first program that passes the visible tests, and
submits it. Under ``agreement`` passing programs are also run on inputs generated from the visible ones
(`records.Execute`); the search goes on until enough of them did the same on every input, and submits the first
of those. Programs that do the same are more likely right than one that merely passes (CodeT, arXiv 2207.10397;
MBR-exec, arXiv 2204.11454).

What counts as one vote: a program written under a prompt. The same program from another prompt, or from another
draw of the same one, is another vote, as in both papers; the greedy program of a prompt that was asked for before
is not, since it could not have come out otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from promptrl_plugin.config import DEFAULT_AGREEING
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import Execute, Status

if TYPE_CHECKING:
    from promptrl_plugin.prompts.operators.base import Attempt

__all__ = ["Selector", "choose", "clusters", "passed", "select"]


@dataclass(frozen=True, slots=True)
class Selector:
    """How many passing programs must agree; one agrees with itself, so 1 is the rule ``first``."""

    agreeing: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``first``, ``agreement`` or ``agreement:K``.

        Raises:
            ConfigError: Anything else, or K below 2.
        """
        kind, colon, number = text.partition(":")
        if text == "first":
            return cls()
        if text == "agreement":
            return cls(DEFAULT_AGREEING)
        if kind != "agreement" or not colon or not number.isdecimal() or int(number) < 2:
            raise ConfigError(
                f"selector {text!r} is not known; use first, agreement, or agreement:K for K of 2 or more programs"
            )
        return cls(int(number))

    def __str__(self) -> str:
        if self.agreeing == 1:
            return "first"
        return "agreement" if self.agreeing == DEFAULT_AGREEING else f"agreement:{self.agreeing}"

    def weigh(self, attempt: Attempt, earlier: Iterable[Attempt]) -> Generator[Execute, Any, Attempt]:
        """`attempt` with its outcomes, where the rule asks for them and it is a vote of its own."""
        if self.agreeing == 1 or not passed(attempt) or any(_same_request(attempt, a) for a in earlier):
            return attempt
        (outcomes,) = yield Execute((attempt.program,))
        return replace(attempt, outcomes=outcomes)

    def settled(self, attempts: Sequence[Attempt]) -> bool:
        """Whether nothing more need be tried.

        Where a task shows no input to generate others from, the first program that passes settles it.
        """
        if self.agreeing == 1:
            return any(map(passed, attempts))
        sizes = clusters(a.outcomes for a in attempts)
        return () in sizes or max(sizes.values(), default=0) >= self.agreeing


def passed(attempt: Attempt) -> bool:
    """Whether the attempt passes all that is shown."""
    return attempt.verdict is not None and attempt.verdict.status is Status.PASS


def select(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt to submit by the rule of `choose`, None without attempts."""
    if not attempts:
        return None
    fractions = [a.verdict.fraction if a.verdict is not None else 0.0 for a in attempts]
    return attempts[choose(fractions, [a.program for a in attempts], [a.outcomes for a in attempts])]


def choose(fractions: Sequence[float], programs: Sequence[str], outcomes: Sequence[Hashable | None]) -> int:
    """Position of the program to submit, of one or more.

    The first of the largest cluster; of equal clusters the one whose first program came first. Where no program
    was executed, the first with the highest fraction of shown tests passed: so the first that passes them all, and
    where nothing was shown (``feedback=none``) or nothing passed, the first that is not empty, else the first.

    Args:
        fractions: Share of the shown tests that each passes, in [0, 1]; 0 where nothing was shown.
        programs: Their source.
        outcomes: What each did on generated inputs, None where it was not executed on them.
    """
    sizes = clusters(outcomes)
    if sizes:
        return list(outcomes).index(max(sizes, key=lambda o: sizes[o]))
    return max(range(len(programs)), key=lambda i: (fractions[i], bool(programs[i].strip())))


def clusters(outcomes: Iterable[Hashable | None]) -> dict[Hashable, int]:
    """Votes by what the programs did, in the order of first occurrence."""
    return dict(Counter(o for o in outcomes if o is not None))


def _same_request(attempt: Attempt, other: Attempt) -> bool:
    return attempt.decoding.greedy and other.decoding == attempt.decoding and other.state.key == attempt.state.key
