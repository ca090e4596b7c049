"""Pure edits of prose; every one leaves the protected tokens of `tokens.tokenize` as they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from promptrl_plugin.prompts.operators.synonyms import synonyms_at
from promptrl_plugin.prompts.tokens import Token, TokenKind, protected_tokens, tokenize
from promptrl_plugin.prompts.vocabulary import LOGIC

__all__ = [
    "cross",
    "deletable",
    "delete",
    "replaceable",
    "sentences",
    "shuffle",
    "substitute",
    "swap",
    "swappable",
]

Names = frozenset[str]


def replaceable(prose: str, names: Names) -> tuple[int, ...]:
    """Positions of the words that have a synonym."""
    tokens = tokenize(prose, names)
    return tuple(i for i, t in enumerate(tokens) if _movable(t) and synonyms_at(tokens, i))


def substitute(prose: str, names: Names, rate: float, rng: np.random.Generator) -> str:
    """Replace each replaceable word with probability `rate`, at least one."""
    tokens = list(tokenize(prose, names))
    for at in _chosen(replaceable(prose, names), rate, rng):
        options = synonyms_at(tokens, at)
        if not options:  # an earlier replacement changed the context
            continue
        word = options[int(rng.integers(len(options)))]
        tokens[at] = Token(word.capitalize() if tokens[at].text[0].isupper() else word, TokenKind.WORD)
        _agree_article(tokens, at)
    return _text(tokens)


def deletable(prose: str, names: Names, words: frozenset[str]) -> tuple[int, ...]:
    """Positions of the tokens that are among `words`."""
    tokens = tokenize(prose, names)
    return tuple(i for i, t in enumerate(tokens) if t.kind is TokenKind.WORD and t.text.lower() in words)


def delete(prose: str, names: Names, words: frozenset[str], rate: float, rng: np.random.Generator) -> str:
    """Leave out each deletable word with probability `rate`, at least one."""
    tokens = tokenize(prose, names)
    gone = set(_chosen(deletable(prose, names, words), rate, rng))
    kept: list[Token] = []
    for token in (t for i, t in enumerate(tokens) if i not in gone):
        if token.kind is TokenKind.GAP and (not kept or kept[-1].kind is TokenKind.GAP):
            before = kept.pop().text if kept else ""
            token = Token(_joined_gap(before, token.text), TokenKind.GAP)
        kept.append(token)
    return _text(kept)


def swappable(prose: str, names: Names) -> tuple[tuple[int, int], ...]:
    """Pairs of neighbouring words with nothing but white space between them."""
    tokens = tokenize(prose, names)
    return tuple(
        (i, i + 2)
        for i in range(len(tokens) - 2)
        if _movable(tokens[i]) and _movable(tokens[i + 2]) and not tokens[i + 1].text.strip()
        if tokens[i].text.lower() != tokens[i + 2].text.lower()
    )


def swap(prose: str, names: Names, count: int, rng: np.random.Generator) -> str:
    """Exchange `count` pairs of neighbouring words that do not overlap (fewer where there are fewer)."""
    tokens = list(tokenize(prose, names))
    pairs = swappable(prose, names)
    facts = protected_tokens(prose, names)
    touched: set[int] = set()
    for k in rng.permutation(len(pairs)):
        i, j = pairs[k]
        if {i, j} & touched or len(touched) >= 2 * count:
            continue
        tokens[i], tokens[j] = tokens[j], tokens[i]
        if protected_tokens(_text(tokens), names) == facts:
            touched |= {i, j}
        else:  # in its new context an article would read as a variable, or the other way round
            tokens[i], tokens[j] = tokens[j], tokens[i]
    return _text(tokens)


_SENTENCE_GAP = re.compile(r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<![Ee]\.g\.)(?<=[.!?])(\s+)(?=[A-Z(\"'`])")
#: A sentence that begins so refers to the one before it and stays behind it.
_BOUND = re.compile(
    r"(otherwise|then|however|it|its|this|that|these|those|they|there|thus|so|therefore|also|in\s+this|if\s+not|else|"
    r"note|for\s+(example|instance)|e\.g|he|here|\()\b",
    re.I,
)


def sentences(prose: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences of a paragraph and the white space between them.

    A sentence that refers back to the one before it is kept together with it.
    """
    parts = _SENTENCE_GAP.split(prose)
    units, gaps = [parts[0]], []
    for gap, sentence in zip(parts[1::2], parts[2::2], strict=True):
        if _BOUND.match(sentence):
            units[-1] += gap + sentence
        else:
            gaps.append(gap)
            units.append(sentence)
    return tuple(units), tuple(gaps)


def shuffle(units: Sequence[str], whole: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """Another order of `units` (two or more): all permuted, or one neighbouring pair exchanged."""
    order = list(range(len(units)))
    if whole and len(units) > 2:
        while order == sorted(order):
            order = [int(i) for i in rng.permutation(len(units))]
    else:
        i = int(rng.integers(len(units) - 1))
        order[i], order[i + 1] = order[i + 1], order[i]
    return tuple(units[i] for i in order)


def cross(first: str, second: str, names: Names, rng: np.random.Generator) -> str:
    """One-point crossover at a word that both have, such that no protected token is lost or doubled.

    Where the two have no such point (one of them is a rewrite) the child is `second`.
    """
    a, b = tokenize(first, names), tokenize(second, names)
    wanted = [Counter(protected_tokens(parent, names)) for parent in (first, second)]
    blocks = SequenceMatcher(None, [t.text for t in a], [t.text for t in b], autojunk=False).get_matching_blocks()
    cuts = [(block.a + k, block.b + k) for block in blocks for k in range(block.size)]
    children: dict[str, None] = {}
    for i, j in cuts:
        if a[i].kind is not TokenKind.GAP:
            children.setdefault(_text(a[:i] + b[j:]))
            children.setdefault(_text(b[:j] + a[i:]))
    new = [c for c in children if c not in (first, second)]
    for child in (new[int(k)] for k in rng.permutation(len(new))):
        if Counter(protected_tokens(child, names)) in wanted:
            return child
    return second


# --- helpers ---------------------------------------------------------------------------------------


def _text(tokens: Sequence[Token]) -> str:
    return "".join(t.text for t in tokens)


def _movable(token: Token) -> bool:
    return token.kind is TokenKind.WORD and token.text.lower() not in LOGIC


def _chosen(positions: Sequence[int], rate: float, rng: np.random.Generator) -> list[int]:
    """Each position with probability `rate`; one at random if none was drawn."""
    drawn = [p for p, u in zip(positions, rng.random(len(positions)), strict=True) if u < rate]
    return drawn or [positions[int(rng.integers(len(positions)))]]


def _joined_gap(before: str, after: str) -> str:
    """The gap that is left of two when the word between them goes: one line break or space is enough."""
    if not before or (before[-1].isspace() and after[:1].isspace()):
        return before.rstrip() + after if "\n" in after else before + after.lstrip()
    return before + after


def _agree_article(tokens: list[Token], at: int) -> None:
    """Make the article right before position `at` agree with the word there (by its first letter)."""
    if at >= 2 and tokens[at - 2].text.lower() in ("a", "an") and tokens[at - 2].kind is TokenKind.WORD:
        article = "an" if tokens[at].text[0].lower() in "aeiou" else "a"
        article = article.capitalize() if tokens[at - 2].text[0].isupper() else article
        tokens[at - 2] = Token(article, TokenKind.WORD)
