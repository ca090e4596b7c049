"""The frozen synonym table (WordNet 3.0), and which of a word's synonyms fits where it stands.

``data/synonyms.json`` maps a lower-case surface form to its synonyms by part of speech (``n``, ``v``,
``a``, ``r``; the most frequent first), in the same inflection:
``{"finds": {"v": ["determines", "discovers"]}}``. ``benchmarks/build_synonyms.py`` makes it;
``data/WORDNET-LICENSE`` is WordNet's licence.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from promptrl_plugin.prompts.tokens import Token, TokenKind
from promptrl_plugin.prompts.vocabulary import BEFORE_NOUN, BEFORE_VERB

__all__ = ["synonyms_at", "table"]


@functools.cache
def table() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The whole table; read once."""
    source = files("promptrl_plugin.prompts").joinpath("data/synonyms.json")
    loaded: Mapping[str, Mapping[str, Sequence[str]]] = json.loads(source.read_text(encoding="utf-8"))
    return loaded


def synonyms_at(tokens: Sequence[Token], at: int) -> tuple[str, ...]:
    """Synonyms of the word token at position `at`, of the part of speech that its context suggests."""
    by_pos = table().get(tokens[at].text.lower(), {})
    before = next((t.text.lower() for t in reversed(tokens[:at]) if t.kind is not TokenKind.GAP), "")
    if "v" in by_pos and (before in BEFORE_VERB or not before):
        return tuple(by_pos["v"])
    fitting = (pos for pos in by_pos if pos != "v" or before not in BEFORE_NOUN)
    return next((tuple(by_pos[pos]) for pos in fitting), ())
