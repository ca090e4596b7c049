#!/usr/bin/env python3
"""Make ``promptrl_plugin/prompts/data/synonyms.json`` from WordNet 3.0.

    python benchmarks/build_synonyms.py --wordnet DIR --texts FILE [FILE ...] --embedder DIR --out FILE

``DIR`` holds WordNet's database files (``index.noun``, ``data.noun``, ``noun.exc``, …; Debian's
``wordnet-base`` puts them in ``/usr/share/wordnet``). The texts are JSON lines of programming tasks
(fields ``text`` or ``prompt``); only words that occur in them are kept, none of the text itself.

1. Vocabulary: unprotected words of the tasks' prose that occur at least `--min-count` times.
2. Candidates: single-word lemmas that share a synset with the word's lemma, same part of speech, put in
   the word's inflection.
3. WordNet lists every sense; those that fit programming tasks are found by putting each candidate in
   sentences of the texts: the cosine similarity of the sentence embeddings before and after must reach
   `--threshold`. At most `--per-word` remain, best first, less what was struck out by hand (`REJECTED`).
4. Further inflections of the words that remain.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import re

import numpy as np

from promptrl_plugin.prompts.task_text import prose_of
from promptrl_plugin.prompts.tokens import TokenKind, tokenize
from promptrl_plugin.prompts.vocabulary import BEFORE_NOUN, BEFORE_VERB, FUNCTION_WORDS, LOGIC, NUMBER_WORDS, TERMS

POS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SUFFIXES = {
    "n": [("ies", "y"), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("s", "")],
    "v": [
        ("ies", "y"), ("es", "e"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", "e"), ("ed", ""),
        ("ing", "e"), ("ing", ""),
    ],
    "a": [("er", ""), ("est", ""), ("er", "e"), ("est", "e"), ("ier", "y"), ("iest", "y")],
    "r": [],
}  # fmt: skip
#: How often WordNet's tagged texts must use a synonym, so that it is no curiosity.
MIN_TAGS = 3
INVARIANT = frozenset({"hit", "cut", "split", "cast", "shed", "spread", "quit", "read", "cost", "hurt", "bet"})
DOUBLED = frozenset(
    {"allot", "omit", "submit", "admit", "refer", "prefer", "occur", "recur", "begin", "permit", "commit"}
)
#: Words with too many senses, and function words that WordNet also lists as something else.
_STOP_TEXT = (
    "be have do can will may get go let put say come take make use but according across also so as over such "
    "just then there here where how what who whose why per via within about above below up down out on off"
)
STOP = frozenset(_STOP_TEXT.split())
#: Senses that read wrong in a task, struck out by hand after reading the table.
_REJECTED_TEXT = """
    absent accompanied accomplish accost accounting accumulations aces act acting admitting adopted advance
    affect afforded agreeing aligns alone appeals aroused asked aspect ass assail assemblages assure attain
    attribute back bears beginning bill book born bottom break bridle budge burst call came cap carries carry
    carrying cast check chore clear close comes commemorates commemorate commute compound comprised condition conflicts
    consider constituent constituted constitutes contact contract contrary convention convince correspondence
    counsel course cover delivers denounces dented departed departure departures detail deviations disc disk
    dispatched dispatching disperses disputes distinguishes distort dots drift dusts dwell dwelling dwells early
    elevation elicit enclose encounter encountered engender enrolled enter entered enters entrusted episodes
    epithet equals equating espoused established evoke exceptional exemplified exploitation explore express
    extra faces faculty falls figure fixed forget former fresh functioning getting give goal good graze guidance
    handle happen happened heaviest held hinder history hit hitting holding holds house hunting immediate
    impress impudent intended interpreting interprets invoked involved labels labor leaves lend lick lie
    lifelike lifted lightest limited littlest lives look lowest lying made management mark master meditate meets
    merchandises mighty mingled minorest modest molded movement murder murdered murdering neglecting notes novel
    opponent organizes originate originating overlooking par pass passes passing peak peculiar pen performance
    pilot place places poise polarity ponder poorest positions posts practice prescribed presented presenting
    presents private proceed process produced proper proportion publish pull pulley pure pursued radical
    radicals ratify raw reach reaches read reads recruited recurred recurring red reiterated release remark
    remnant rest rests resulted ripe rude rule run save scatters scope scratched see seek sends serpent settle
    sheer shine show shows signal singles sire situate situations slopes smart someone speculate spell spot
    spots sprinkles stakes startle startles stay steady stimulation stimulus stop stray stuff subscribe
    successions sundry supplant survives tack tail taking tell tendency terms tick tie tightest told transferred
    travel trouble wanted way withdraw withdrawing work wrought yields young
"""
REJECTED = frozenset(_REJECTED_TEXT.split())
#: No synonym may be one of these: it would read as a term, a number or logic.
RESERVED = TERMS | NUMBER_WORDS | LOGIC | FUNCTION_WORDS | STOP


class WordNet:
    """WordNet's database files, as ``wndb(5WN)`` describes them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.senses: dict[str, dict[str, list[str]]] = {pos: {} for pos in POS}
        self.synsets: dict[str, dict[str, list[str]]] = {pos: {} for pos in POS}
        self.irregular: dict[str, dict[str, str]] = {pos: {} for pos in POS}
        for pos, name in POS.items():
            for line in self._lines(folder / f"index.{name}"):
                fields = line.split()
                count = int(fields[2])
                self.senses[pos][fields[0]] = fields[-count:]
            for line in self._lines(folder / f"data.{name}"):
                fields = line.split("|")[0].split()
                n_words = int(fields[3], 16)
                words = [re.sub(r"\(\w+\)$", "", w) for w in fields[4 : 4 + 2 * n_words : 2]]
                self.synsets[pos][fields[0]] = words
            for line in self._lines(folder / f"{name}.exc"):
                form, *lemmas = line.split()
                self.irregular[pos][form] = lemmas[0]
        self.counts: dict[tuple[str, str], int] = collections.Counter()
        for line in (folder / "cntlist.rev").read_text().splitlines():
            key, _, count = line.split()
            lemma, rest = key.split("%")
            pos = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}[rest[0]]
            self.counts[lemma, pos] += int(count)

    @staticmethod
    def _lines(path: pathlib.Path) -> list[str]:
        return [line for line in path.read_text().splitlines() if not line.startswith("  ")]

    def lemma(self, word: str, pos: str) -> str | None:
        """Base form of `word`, by WordNet's exception lists and detachment rules (``morphy(7WN)``)."""
        if word in self.irregular[pos]:
            return self.irregular[pos][word]
        if word in self.senses[pos]:
            return word
        for suffix, ending in SUFFIXES[pos]:
            if word.endswith(suffix) and (base := word.removesuffix(suffix) + ending) in self.senses[pos]:
                return base
            if pos == "v" and suffix in ("ed", "ing") and word.endswith(suffix):
                base = word.removesuffix(suffix)
                if len(base) > 2 and base[-1] == base[-2] and base[:-1] in self.senses[pos]:
                    return base[:-1]
        return None

    def synonyms(self, lemma: str, pos: str) -> list[str]:
        """Single-word lemmas that share a synset with `lemma`, nearest sense first."""
        found: dict[str, None] = {}
        for offset in self.senses[pos].get(lemma, []):
            for word in self.synsets[pos][offset]:
                usual = self.counts.get((word, pos), 0) >= MIN_TAGS
                if usual and word not in STOP and word.isalpha() and word.islower() and word != lemma and len(word) > 2:
                    found.setdefault(word)
        return list(found)

    def inflect(self, lemma: str, pos: str, model: str, model_lemma: str) -> str | None:
        """`lemma` in the inflection in which `model` is of `model_lemma`; None where it has none."""
        if model == model_lemma:
            return lemma
        if pos == "n":
            return self._irregular(lemma, pos, "s") or _with_s(lemma)
        if pos == "v":
            if model.endswith("ing"):
                return re.sub("ie$", "y", _stem(lemma)) + "ing"
            if model.endswith("s") and not model_lemma.endswith("s"):
                return _with_s(lemma)
            forms = [f for f, base in self.irregular["v"].items() if base == lemma and not f.endswith(("ing", "s"))]
            if lemma in INVARIANT:
                return lemma
            if forms:
                return forms[0] if len(forms) == 1 else None  # past and participle differ: ambiguous
            return re.sub("y$", "i", lemma) + "ed" if re.search("[^aeiou]y$", lemma) else _stem(lemma) + "ed"
        if pos == "a" and len(lemma) <= 6:
            suffix = "est" if model.endswith("est") else "er"
            return self._irregular(lemma, pos, suffix) or _stem(re.sub("y$", "i", lemma)) + suffix
        return None

    def _irregular(self, lemma: str, pos: str, suffix: str) -> str | None:
        forms = [f for f, base in self.irregular[pos].items() if base == lemma and (pos == "n" or f.endswith(suffix))]
        return forms[0] if forms else None


def _with_s(lemma: str) -> str:
    if re.search("[^aeiou]y$", lemma):
        return lemma[:-1] + "ies"
    return lemma + ("es" if lemma.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def _stem(lemma: str) -> str:
    """`lemma` before a suffix that begins with a vowel."""
    if lemma.endswith("e") and not lemma.endswith(("ee", "ye", "oe", "ie")):
        return lemma[:-1]
    short = re.fullmatch(r"[^aeiou]*[aeiou][bdgklmnprt]", lemma) or lemma in DOUBLED
    return lemma + lemma[-1] if short else lemma


def read_sentences(paths: list[pathlib.Path]) -> list[str]:
    """Prose of every task."""
    sentences: list[str] = []
    for path in paths:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            sentences += [row["text"]] if "text" in row else prose_of(row["prompt"])
    return sentences


def occurrences(sentences: list[str]) -> dict[tuple[str, str], list[tuple[str, int, int]]]:
    """Where each word stands, by its context's part of speech (``v``, not ``v``, unknown)."""
    found: dict[tuple[str, str], list[tuple[str, int, int]]] = collections.defaultdict(list)
    for sentence in sentences:
        at, before = 0, ""
        for token in tokenize(sentence):
            word = token.text.lower()
            if token.kind is TokenKind.WORD and word.isalpha() and len(word) > 2 and word not in LOGIC:
                context = "v" if before in BEFORE_VERB or not before else "n" if before in BEFORE_NOUN else ""
                found[word, context].append((sentence, at, at + len(word)))
            if token.kind is not TokenKind.GAP:
                before = word
            at += len(token.text)
    return found


def candidates(wordnet: WordNet, word: str) -> dict[str, list[str]]:
    """Inflected synonyms of `word` by part of speech, the most frequent part of speech first."""
    tagged = []
    for pos in POS:
        lemma = wordnet.lemma(word, pos)
        if lemma is None or lemma in STOP or word in STOP:
            continue
        count = wordnet.counts.get((lemma, pos), 0)
        forms = [wordnet.inflect(s, pos, word, lemma) for s in wordnet.synonyms(lemma, pos)]
        tagged.append((count, pos, [f for f in forms if f and f != word and f not in RESERVED]))
    total = sum(count for count, _, _ in tagged) or 1
    tagged.sort(key=lambda t: -t[0])
    return {pos: forms for count, pos, forms in tagged if forms and (count >= 0.1 * total or len(tagged) == 1)}


def with_inflections(wordnet: WordNet, table: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """Add the inflections that the texts happened not to show: ``finds``, ``finding`` from ``find``."""
    extended = {word: dict(by_pos) for word, by_pos in table.items()}
    for word, by_pos in table.items():
        for pos, synonyms in by_pos.items():
            if pos not in "nv" or wordnet.lemma(word, pos) != word or word.endswith("sis"):
                continue
            past = None if pos == "n" else wordnet.inflect(word, pos, "walked", "walk")
            forms = [_with_s(word), past, _stem(word) + "ing" if pos == "v" else None]
            for form in forms:
                if form is None or form in RESERVED or form in table:
                    continue
                inflected = [wordnet.inflect(s, pos, form, word) for s in synonyms]
                if kept := [f for f in inflected if f and f not in RESERVED and f != form]:
                    extended.setdefault(form, {})[pos] = kept
    return dict(sorted(extended.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--embedder", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--min-count", type=int, default=2)
    parser.add_argument("--threshold", type=float, default=0.84)
    parser.add_argument("--per-word", type=int, default=4)
    parser.add_argument("--contexts", type=int, default=3)
    args = parser.parse_args()

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(args.embedder, device="cpu")
    wordnet = WordNet(args.wordnet)
    places = occurrences(read_sentences(args.texts))
    counts: collections.Counter[str] = collections.Counter()
    for (word, _), where in places.items():
        counts[word] += len(where)
    trials: list[tuple[str, str, str, str, str]] = []  # word, pos, synonym, sentence, changed sentence
    for word in sorted(w for w, c in counts.items() if c >= args.min_count):
        for pos, forms in candidates(wordnet, word).items():
            where = places[word, "v"] + places[word, ""] if pos == "v" else places[word, "n"] + places[word, ""]
            for sentence, start, end in where[: args.contexts]:
                trials += [(word, pos, f, sentence, sentence[:start] + f + sentence[end:]) for f in forms[:12]]
    texts = sorted({t for trial in trials for t in trial[3:]})
    vectors = model.encode(texts, batch_size=128, normalize_embeddings=True, show_progress_bar=True)
    row = {text: i for i, text in enumerate(texts)}
    scores: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    for word, pos, form, before, after in trials:
        scores[word, pos, form].append(float(vectors[row[before]] @ vectors[row[after]]))
    table: dict[str, dict[str, list[str]]] = {}
    for word in sorted({w for w, _, _ in scores}):
        for pos in candidates(wordnet, word):
            ranked = sorted(((float(np.mean(v)), f) for (w, p, f), v in scores.items() if (w, p) == (word, pos)))
            kept = [f for score, f in reversed(ranked) if score >= args.threshold][: args.per_word]
            if kept := [form for form in kept if form not in REJECTED]:
                table.setdefault(word, {})[pos] = kept
    table = with_inflections(wordnet, table)
    args.out.write_text(json.dumps(table, indent=0, separators=(",", ":"), sort_keys=False) + "\n")
    print(f"{len(table)} words, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
