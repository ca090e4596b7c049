"""Cut prose into tokens: words that may be edited, protected tokens, and gaps."""

from __future__ import annotations

import enum
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from promptrl_plugin.prompts.vocabulary import NO_NOUN, NUMBER_WORDS, TERMS

__all__ = ["RESERVED", "Token", "TokenKind", "protected_tokens", "tokenize"]


class TokenKind(enum.Enum):
    """What a token of prose is."""

    WORD = "word"
    PROTECTED = "protected"
    GAP = "gap"  #: white space and punctuation


@dataclass(frozen=True, slots=True)
class Token:
    """A token of prose."""

    text: str
    kind: TokenKind


#: Quoted text: double quotes, backticks, `TeX quotes', and single quotes that are no apostrophes; TeX formulas.
_QUOTED = re.compile(
    r'\$\$?[^$\n]{1,300}\$\$?|"[^"\n]*"|``[^`\n]+``|`[^`\'\n]+[`\']|“[^”\n]*”|(?<![A-Za-z0-9])\'[^\'\n]*\'(?![A-Za-z0-9])|‘[^’\n]*’(?![A-Za-z])'
)
#: Words of the vocabulary that are protected: operators leave them alone, the rewriter may reword them.
RESERVED = TERMS | NUMBER_WORDS
_CHUNK = re.compile(r"\S+")
_PLAIN = re.compile(r"[A-Za-z]+(?:[-'’][A-Za-z]+)*")
_LEADING, _TRAILING = "([{<\"'“‘*", ".,;:!?)]}>\"'”’*…"


@functools.lru_cache(maxsize=32768)  # masks and edits ask for the same few texts again and again
def tokenize(prose: str, names: frozenset[str] = frozenset()) -> tuple[Token, ...]:
    """Cut prose so that joining the tokens' texts gives it back exactly.

    Args:
        prose: Text of a prose segment.
        names: Further words to protect: the entry point and argument names (`protected_names`).
    """
    tokens: list[Token] = []
    at = 0
    for quoted in _QUOTED.finditer(prose):
        tokens += _chunks(prose[at : quoted.start()], names)
        tokens.append(Token(quoted.group(), TokenKind.PROTECTED))
        at = quoted.end()
    tokens += _chunks(prose[at:], names)
    return tuple(_protect_letters(tokens))


def protected_tokens(prose: str, names: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Texts of the protected tokens of prose, in order."""
    return tuple(t.text for t in tokenize(prose, names) if t.kind is TokenKind.PROTECTED)


def _chunks(text: str, names: frozenset[str]) -> Iterator[Token]:
    """Tokens of text without quotes: chunks between white space, their punctuation split off."""
    at = 0
    for match in _CHUNK.finditer(text):
        chunk = match.group()
        core = chunk.lstrip(_LEADING)
        start = match.start() + len(chunk) - len(core)
        core = core.rstrip(_TRAILING)
        if not core:
            continue
        if not _PLAIN.fullmatch(core):  # code keeps its own brackets and marks: `cost[][]`, `f(x)`
            start, core = _balanced(chunk, match.start(), core, start)
        if start > at:
            yield Token(text[at:start], TokenKind.GAP)
        plain = _PLAIN.fullmatch(core) and not _is_protected(core, names)
        yield Token(core, TokenKind.WORD if plain else TokenKind.PROTECTED)
        at = start + len(core)
    if at < len(text):
        yield Token(text[at:], TokenKind.GAP)


def _balanced(chunk: str, chunk_start: int, core: str, start: int) -> tuple[int, str]:
    """The whole chunk of code, less only sentence punctuation at its end."""
    whole = chunk.rstrip(".,;:!?")
    return (chunk_start, whole) if whole else (start, core)


def _is_protected(word: str, names: frozenset[str]) -> bool:
    if word in names or word.lower() in RESERVED:
        return True
    if len(word) == 1:
        return word.lower() != "a"
    if word[1] in "-'’":  # n'th, i-th
        return True
    return any(c.isupper() for c in word[1:])  # camelCase identifiers and acronyms


def _protect_letters(tokens: Sequence[Token]) -> Iterator[Token]:
    """Tell the article *a* from the variable *a*: an article stands before a word that is no function word."""
    content = [i for i, t in enumerate(tokens) if t.kind is not TokenKind.GAP]
    following = dict(itertools.pairwise(content))
    previous = {after: before for before, after in following.items()}
    for i, token in enumerate(tokens):
        if token.kind is TokenKind.WORD and token.text.lower() == "a":
            after = tokens[following[i]].text.lower() if i in following else ""
            before = tokens[previous[i]].text.lower() if i in previous else ""
            gap = tokens[i + 1].text if i + 1 < len(tokens) else ""
            article = after and after not in NO_NOUN and before not in ("a", "an", "the")
            if not article or gap.strip():
                token = Token(token.text, TokenKind.PROTECTED)
        yield token
