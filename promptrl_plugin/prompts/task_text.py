"""Split a task's prompt into prose that operators may edit and text that nobody may touch.

Two levels:

* `split` cuts a prompt into *segments*. Code, signatures, asserts, doctests, worked examples, bullets'
  marks and indentation are protected; paragraphs and bullet texts of the docstring are prose.
* `tokens.tokenize` cuts prose into *tokens*. Identifiers, numbers, quoted text, code and formulas are
  protected; words may be replaced, moved or left out; everything between is a gap.

When in doubt both protect: an edit that is not made costs nothing, a broken task does.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from promptrl_plugin.prompts.apps_text import fixed_words, is_apps, statement_lines, statement_span
from promptrl_plugin.prompts.source import parsed

__all__ = [
    "Segment",
    "fill",
    "join",
    "prose_of",
    "protected_names",
    "replace_prose",
    "split",
]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt; `prose` says whether operators may edit it."""

    text: str
    prose: bool


# --- segments --------------------------------------------------------------------------------------

_DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
_EXAMPLE_HEADING = re.compile(
    r"(for\s+)?(e\.?g\.?|examples?)(\s+\d+)?\s*[:.]?|(examples?|input|output|note)\b.*:.*", re.I
)
_EXAMPLE_SIGNS = re.compile(r"==|=>|->|➞|→|➜|^\s*[\[{'\"]|\w\(.*\)\s*(=|returns?\b|should\b|must\b)")
_CALL_EXAMPLE = re.compile(r"\w\(.*\)\s*(==|=>|->|➞|→|➜|=|returns?\b|should\b|must\b)")
_WORD = re.compile(r"[\[({<\"'`]*(?:[A-Za-z]+(?:[-'’/][A-Za-z]+)+|[A-Za-z]{2,}|[aA])[.,;:!?)\]}>\"'`]*")
_BULLET = re.compile(r"([-*•]|\d+[.)])\s+")


def split(prompt: str) -> tuple[Segment, ...]:
    """Cut `prompt` so that joining the segments' texts gives it back exactly.

    The last triple-quoted string is the description (MBPP: the whole prompt; HumanEval: the docstring
    of the function to be written); a prompt without one (a statement in plain text) is all description. Of a
    prompt in APPS's form it is the statement.
    """
    return _split(prompt)


@functools.lru_cache(maxsize=4096)
def _split(prompt: str) -> tuple[Segment, ...]:
    start, end = _description_span(prompt)
    body = prompt[start:end]
    untouched = statement_lines(body) if is_apps(prompt) else frozenset[int]()
    pieces = [Segment(prompt[:start], False), *_paragraphs(body, untouched), Segment(prompt[end:], False)]
    return tuple(_merged(pieces))


def join(segments: Iterable[Segment]) -> str:
    """Inverse of `split`."""
    return "".join(s.text for s in segments)


def prose_of(prompt: str) -> tuple[str, ...]:
    """Texts of the prose segments of `prompt`."""
    return tuple(s.text for s in split(prompt) if s.prose)


def replace_prose(prompt: str, prose: Sequence[str], notes: Sequence[str] = ()) -> str:
    """`prompt` with its prose segments exchanged and `notes` after the description.

    Notes come before the first test or example that the description shows, each on its own line with
    the description's indentation. Without edits the prompt comes back unchanged.

    Raises:
        ValueError: `prose` has not one text for each prose segment.
    """
    segments = split(prompt)
    if len(prose) != sum(s.prose for s in segments):
        raise ValueError(f"{len(prose)} texts for {sum(s.prose for s in segments)} prose segments")
    texts = iter(prose)
    changed = "".join(next(texts) if s.prose else s.text for s in segments)
    return _with_notes(changed, notes) if notes else changed


def fill(original: str, text: str) -> str:
    """`text` in place of the prose segment `original`, with its line breaks and indentation.

    An original that is one line (MBPP) gives one line; one that is wrapped (HumanEval) is wrapped.
    """
    if "\n" not in original:
        return text
    indent = re.search(r"\n([ \t]*)", original)
    width = max(len(line) for line in original.splitlines())
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return f"\n{indent.group(1) if indent else ''}".join(lines)


def _with_notes(prompt: str, notes: Sequence[str]) -> str:
    """`prompt` with lines added to its description, before the first test or at the end."""
    start, end = _description_span(prompt)
    if is_apps(prompt):  # behind the statement, which goes on after its examples
        end = start + len(prompt[start:end].rstrip())
        return "\n".join([prompt[:end], "", *notes]) + prompt[end:]
    lines = prompt[start:end].split("\n")
    first_test = next((i for i, line in enumerate(lines) if _begins_tests(line)), len(lines))
    at = first_test
    while at > 0 and not lines[at - 1].strip():
        at -= 1
    indent = re.match(r"[ \t]*", lines[-1]) if start and len(lines) > 1 else None
    added = [f"{indent.group() if indent else ''}{note}" for note in notes]
    if at == 0 and first_test == 0:  # the test stands right behind the opening quotes
        added, lines[0] = ["", *added], f"{indent.group() if indent else ''}{lines[0].lstrip()}"
    at = max(at, 1) if first_test else 0
    lines = [*lines[:at], *added, *lines[at:]]
    return prompt[:start] + "\n".join(lines) + prompt[end:]


def _begins_tests(line: str) -> bool:
    """Whether a line of a description is, or announces, a test or example."""
    text = line.strip()
    if text.startswith(("assert", ">>>")) or re.fullmatch(r"(for\s+)?examples?(\s+\d+)?\s*:?", text, re.I):
        return True
    return not _is_prose(line) and bool(_CALL_EXAMPLE.search(text))


def _description_span(prompt: str) -> tuple[int, int]:
    """Where the description is: inside the last triple-quoted string, or everywhere; see `split`."""
    if is_apps(prompt):
        return statement_span(prompt)
    docstrings = list(_DOCSTRING.finditer(prompt))
    return docstrings[-1].span(2) if docstrings else (0, len(prompt))


def _paragraphs(body: str, untouched: Collection[int]) -> Iterator[Segment]:
    """Segments of a description: lines of prose that follow each other are one paragraph.

    Lines at the positions `untouched` are no prose, whatever they look like.
    """
    paragraph: list[str] = []
    tests_began = False
    for at, line in enumerate(body.splitlines(keepends=True)):
        if line.lstrip().startswith(">>>"):
            tests_began = True
        elif not line.strip():
            tests_began = False
        prose = not tests_began and at not in untouched and _is_prose(line)
        bullet = bool(_BULLET.match(line.lstrip()))
        if paragraph and (not prose or bullet):
            yield from _trimmed("".join(paragraph))
            paragraph = []
        if prose:
            paragraph.append(line)
        else:
            yield Segment(line, False)
    yield from _trimmed("".join(paragraph))


def _is_prose(line: str) -> bool:
    """Whether a line of a description is natural language."""
    text = line.strip()
    if not text or text.startswith(("assert", "...", "@", "def ", "import ", "from ", "class ")):
        return False
    if _EXAMPLE_HEADING.fullmatch(text):
        return False
    chunks = text.split()
    words = sum(bool(_WORD.fullmatch(chunk)) for chunk in chunks)
    if _EXAMPLE_SIGNS.search(text):
        return words >= 8  # a sentence with a formula in it; the formula's tokens are protected
    return words >= 5 or words * 2 > len(chunks)


def _trimmed(text: str) -> Iterator[Segment]:
    """A paragraph with the white space around it and a leading bullet as protected segments."""
    if not text:
        return
    core = text.strip()
    start = text.index(core)
    if bullet := _BULLET.match(core):
        start, core = start + bullet.end(), core[bullet.end() :]
    yield Segment(text[:start], False)
    yield Segment(core, bool(core))
    yield Segment(text[start + len(core) :], False)


def _merged(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Drop empty segments and join protected ones that touch."""
    held = ""
    for segment in segments:
        if segment.prose:
            if held:
                yield Segment(held, False)
            held = ""
            yield segment
        else:
            held += segment.text
    if held:
        yield Segment(held, False)


@functools.lru_cache(maxsize=4096)
def protected_names(prompt: str, entry_point: str) -> frozenset[str]:
    """Entry point, its arguments and the names that the code of `prompt` defines or imports; of APPS `fixed_words`."""
    names = {entry_point} - {""} | fixed_words(prompt)  # a script has no name
    code = join(s for s in split(prompt) if not s.prose)
    tree = parsed(prompt)
    if tree is None:
        names.update(re.findall(r"[A-Za-z_]\w*(?=\s*\()", code))
        return frozenset(names)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return frozenset(names)
