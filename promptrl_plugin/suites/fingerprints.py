"""Content fingerprints of tasks, and what makes two tasks near-duplicates.

A fingerprint holds hashes only, never text, and is plain JSON: a policy bundle carries those of its train
tasks, so that evaluation can refuse a task which the policy was trained on, or one very like it.

Two tasks are near-duplicates when any of these holds:

1. the same id, or the same normalised prompt;
2. the content words of their descriptions overlap by at least `WORD_OVERLAP` (Jaccard index);
3. their references are the same program up to names, comments, docstrings and annotations;
4. they share a telling example (the same call and value under another function name) and their
   descriptions overlap by at least `EXAMPLE_WORD_OVERLAP`.

The thresholds come from reading the closest pairs between the original MBPP and its evaluated parts: from
0.7 on nearly all pairs are the same task, or differ in one word of a long sentence (sum of the *fourth* or
*fifth* power); below it are mostly different tasks. Shared examples alone also join strangers
(``f(2) == 2``), so that they need five literals and some overlap of words.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.suites.visible import parse

__all__ = [
    "EXAMPLE_WORD_OVERLAP",
    "WORD_OVERLAP",
    "Fingerprint",
    "NearDuplicate",
    "describe",
    "find_near_duplicates",
    "fingerprint",
    "first_leak",
    "leaks",
]

WORD_OVERLAP = 0.7
EXAMPLE_WORD_OVERLAP = 0.25
_TELLING_LITERALS = 5
_BUCKETS, _BLOCK = 4096, 512  # of words, and of fingerprints compared at once

#: Words that tell nothing about what a function does: grammar, MBPP's phrases, hints at the means.
_EMPTY = """
    a an and any are as at be by can for from have has if in is it its not of on or s such that the then
    there this to when where which with
    write python function program method find check calculate compute get return determine identify
    whether given takes take using use used specified regex regular expression lambda module
"""
_EMPTY_WORDS = frozenset(_EMPTY.split())


class Fingerprint(TypedDict):
    """Hashes of one task's content; plain JSON.

    Attributes:
        id: The task's id.
        content: `Task.content_hash`.
        words: Sorted 32-bit hashes of the description's content words.
        code: Hash of the normalised reference, ``""`` where none was given.
        examples: Sorted 32-bit hashes of the telling examples.
    """

    id: str
    content: str
    words: list[int]
    code: str
    examples: list[int]


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A candidate that is too close to another task, and why."""

    candidate: str
    other: str
    reason: str


def fingerprint(task: Task, reference: str = "", asserts: Iterable[str] = ()) -> Fingerprint:
    """Fingerprint of `task`; JSON-able.

    Args:
        task: The task.
        reference: A right program, for tasks whose hidden side is at hand (train tasks).
        asserts: More examples than the visible ones, as assert statements.
    """
    sources = dict.fromkeys((*task.visible.asserts, *asserts))
    examples = (_example(source, task.entry_point) for source in sources)
    return Fingerprint(
        id=task.id,
        content=task.content_hash,
        words=sorted(map(_hash32, _content_words(describe(task)))),
        code=_code_hash(reference) if reference else "",
        examples=sorted({_hash32(e) for e in examples if e}),
    )


def leaks(train: Iterable[Fingerprint], task: Task | Fingerprint) -> str | None:
    """Why `task` must not be solved by a policy trained on `train`; None when nothing speaks against it.

    Args:
        train: Fingerprints of the train tasks, as a bundle's manifest holds them.
        task: The task to be solved; a fingerprint of it with its reference tells a little more.
    """
    one = _Sets.of(task)
    for other in train:
        if reason := _same(one, _Sets.of(other)):
            return f"{reason} as train task {other['id']}"
    return None


def first_leak(train: Iterable[Fingerprint], tasks: Iterable[Task], kind: str = "train task") -> tuple[int, str] | None:
    """Position of the first task that `leaks` speaks against, and why; None when it speaks against none.

    The same answer as asking `leaks` about one task after the other, in a time that does not grow with the product.

    Args:
        train: Fingerprints of the tasks that were seen.
        tasks: The tasks to be solved.
        kind: What the message calls the tasks of `train`.
    """
    ones, others = [_Sets.of(t) for t in tasks], [_Sets.of(o) for o in train]
    for i, j in _suspects(ones, others):
        if reason := _same(ones[i], others[j]):
            return i, f"{reason} as {kind} {others[j].print['id']}"
    return None


def find_near_duplicates(
    candidates: Iterable[Task | Fingerprint], against: Iterable[Task | Fingerprint]
) -> list[NearDuplicate]:
    """Every pair of a candidate and a task of `against` that are near-duplicates."""
    ones, others = [_Sets.of(c) for c in candidates], [_Sets.of(o) for o in against]
    return [
        NearDuplicate(ones[i].print["id"], others[j].print["id"], reason)
        for i, j in _suspects(ones, others)
        if (reason := _same(ones[i], others[j]))
    ]


def _suspects(ones: Sequence[_Sets], others: Sequence[_Sets]) -> list[tuple[int, int]]:
    """Positions of all pairs that can be near-duplicates, in order; most pairs of two large suites cannot.

    A pair that shares an identity or an example is one. So is one whose words may overlap enough: the words are
    counted in buckets, and the product of two such counts is at least the number of words in common.
    """
    pairs = {pair for marks in (_identities, _examples) for pair in _joined(ones, others, marks)}
    counts = _bucket_counts(others)
    sizes = np.array([len(o.words) for o in others], dtype=np.float32)
    for start in range(0, len(ones), _BLOCK):
        block = ones[start : start + _BLOCK]
        common = _bucket_counts(block) @ counts.T
        total = np.array([len(o.words) for o in block], dtype=np.float32)[:, None] + sizes[None]
        # common / (total - common) >= WORD_OVERLAP, less a little for rounding
        near = (common > 0) & ((1 + WORD_OVERLAP) * common >= WORD_OVERLAP * total - 1e-2)
        pairs.update((start + int(i), int(j)) for i, j in np.argwhere(near))
    return sorted(pairs)


def _bucket_counts(sets: Sequence[_Sets]) -> npt.NDArray[np.float32]:
    """How many words of each fingerprint fall into each bucket, float32 ``[n, _BUCKETS]``."""
    counts = np.zeros((len(sets), _BUCKETS), dtype=np.float32)
    for row, one in zip(counts, sets, strict=True):
        np.add.at(row, np.fromiter((w % _BUCKETS for w in one.words), dtype=np.intp, count=len(one.words)), 1)
    return counts


def _identities(one: _Sets) -> list[Hashable]:
    kinds = (("id", one.print["id"]), ("content", one.print["content"]), ("code", one.print["code"]))
    return [kind for kind in kinds if kind[1]]


def _examples(one: _Sets) -> list[Hashable]:
    return list(one.examples)


def _joined(
    ones: Sequence[_Sets], others: Sequence[_Sets], marks: Callable[[_Sets], list[Hashable]]
) -> Iterator[tuple[int, int]]:
    """Positions of all pairs that have a mark in common."""
    places: dict[Hashable, list[int]] = {}
    for j, other in enumerate(others):
        for mark in marks(other):
            places.setdefault(mark, []).append(j)
    for i, one in enumerate(ones):
        yield from ((i, j) for mark in marks(one) for j in places.get(mark, ()))


class _Sets(NamedTuple):
    """A fingerprint with its lists as sets, made once for many comparisons."""

    print: Fingerprint
    words: frozenset[int]
    examples: frozenset[int]

    @classmethod
    def of(cls, item: Task | Fingerprint) -> _Sets:
        print_ = fingerprint(item) if isinstance(item, Task) else item
        return cls(print_, frozenset(print_["words"]), frozenset(print_["examples"]))


def _same(one: _Sets, two: _Sets) -> str | None:
    """What makes two tasks near-duplicates, e.g. ``"the same reference"``; None if nothing does."""
    a, b = one.print, two.print
    if a["id"] == b["id"]:
        return "the same id"
    if a["content"] == b["content"]:
        return "the same prompt"
    if a["code"] and a["code"] == b["code"]:
        return "the same reference"
    common = len(one.words & two.words)
    overlap = common / (len(one.words) + len(two.words) - common) if common else 0.0
    if overlap >= WORD_OVERLAP:
        return f"nearly the same description ({overlap:.2f})"
    if overlap >= EXAMPLE_WORD_OVERLAP and not one.examples.isdisjoint(two.examples):
        return f"the same example and a like description ({overlap:.2f})"
    return None


def describe(task: Task) -> str:
    """The prose of a task's prompt: its docstring without asserts, doctests and examples; of APPS the whole."""
    if task.dialect == "apps":
        return task.prompt
    match = re.search(r'("""|\'\'\')(?P<text>.*?)\1', task.prompt[_last_definition(task) :], re.DOTALL)
    lines = (match["text"] if match else task.prompt).splitlines()
    prose: list[str] = []
    in_doctest = False
    for line in lines:
        if task.dialect == "mbpp" and line.lstrip().startswith("assert"):
            break  # the asserts are the docstring's last part, and may go over several lines
        in_doctest = line.lstrip().startswith(">>>") or (in_doctest and bool(line.strip()))
        if not in_doctest and not re.search(rf"\b{re.escape(task.entry_point)}\s*\(", line):
            prose.append(line)
    return "\n".join(prose)


def _last_definition(task: Task) -> int:
    """Where the entry point's own docstring begins; HumanEval prompts may hold helper functions."""
    return max(0, task.prompt.rfind(f"def {task.entry_point}"))


def _content_words(text: str) -> set[str]:
    """Lower-case words without plural s that say what the function does."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words} - _EMPTY_WORDS


def _example(source: str, entry_point: str) -> str:
    """Normalised source of an assert with the entry point renamed; ``""`` if it is not a telling one."""
    try:
        tree = parse(source.strip())
    except (SyntaxError, ValueError):
        return ""
    nodes = list(ast.walk(tree))
    names = [n for n in nodes if isinstance(n, ast.Name) and n.id == entry_point]
    literals = sum(isinstance(n, ast.Constant) for n in nodes)
    for name in names:
        name.id = "f"
    return ast.unparse(tree) if names and literals >= _TELLING_LITERALS else ""


def _code_hash(source: str) -> str:
    """Hash of a program up to the names it binds; ``""`` if it does not parse."""
    try:
        tree = parse(source)
    except (SyntaxError, ValueError):
        return ""
    return content_hash(ast.dump(_Normalizer(tree).visit(tree)))


class _Normalizer(ast.NodeTransformer):
    """Renames what a program binds in order of appearance; drops imports, docstrings, annotations."""

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        self._bound = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        self._bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        self._bound |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self._names: dict[str, str] = {}

    def _rename(self, name: str) -> str:
        return self._names.setdefault(name, f"v{len(self._names)}") if name in self._bound else name

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._rename(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self._rename(node.arg), None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._rename(node.name), None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._rename(node.name)
        return self.generic_visit(node)


def _hash32(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
