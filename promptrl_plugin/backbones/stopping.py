"""When a completion ends, and the text that it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Ending", "StopRule", "end_token_ids"]

FENCE = "\n```\n"
"""EvalPlus's stop string for chat models: the line that closes a code block."""

_END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|EOT|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end▁of▁sentence|>",
    "</s>",
)
"""Tokens that end a turn or a document in the templates of common model families."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A finished completion: its text, and ``"stop"`` or ``"length"``."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopRule:
    """Decides after each token whether a completion has ended.

    Args:
        tokenizer: A transformers tokenizer.
        end_ids: Ids of the tokens that end it.
        strings: Stop strings; the text is cut before the earliest.
    """

    tokenizer: Any
    end_ids: frozenset[int]
    strings: tuple[str, ...]

    def check(self, tokens: Sequence[int], limit: int) -> Ending | None:
        """Whether the completion `tokens` (newest last) has ended, at `limit` tokens at the latest.

        Only the tail is decoded as long as nothing matches, so the cost does not grow with the length.
        """
        if tokens[-1] in self.end_ids:
            return Ending(self._finish(self._decode(tokens[:-1])), "stop")
        if self.strings:
            # every token but the pieces of a split character is at least one character
            tail = self._decode(tokens[-(max(map(len, self.strings)) + 4) :])
            if any(s in tail for s in self.strings):
                text = self._decode(tokens)
                cut = self._cut(text)
                if cut is not None:
                    return Ending(text[:cut], "stop")
        if len(tokens) >= limit:
            return Ending(self._decode(tokens), "length")
        return None

    def _cut(self, text: str) -> int | None:
        return min((at for s in self.strings if (at := text.find(s)) >= 0), default=None)

    def _finish(self, text: str) -> str:
        """Text before an end token: a closing fence as the last line has closed the block, too."""
        cut = self._cut(text + "\n") if FENCE in self.strings else self._cut(text)
        return text if cut is None else text[:cut]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def end_token_ids(tokenizer: Any, *configs: Any) -> frozenset[int]:
    """Ids that end a completion: those that the model's configurations name, and known end-of-turn tokens."""
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, *(getattr(c, "eos_token_id", None) for c in configs)):
        ids.update(value if isinstance(value, Iterable) else () if value is None else (value,))
    special = special_ids(tokenizer)
    return frozenset(ids | {special[t] for t in _END_OF_TURN if t in special})


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Text to id of the tokenizer's special tokens, which its decoder leaves out."""
    return {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
