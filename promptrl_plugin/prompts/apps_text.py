"""The parts of an APPS prompt: the statement, the code to begin with, and the lines that no edit may touch.

Form (``eval/generate_gpt_codes.py`` of APPS): ``QUESTION:``, the statement and the starter code, ``Use … format``,
``ANSWER:``.
"""

from __future__ import annotations

import functools
import re

from promptrl_plugin.suites.apps_statement import example_lines, heading

__all__ = ["as_question", "fixed_words", "is_apps", "statement_lines", "statement_span"]

_FRAME = re.compile(
    r"\n?QUESTION:\n(?P<body>.*)\nUse (?P<form>Call-Based|Standard Input) format\nANSWER:\n?", re.DOTALL
)
_DEFINITION = re.compile(r"(class|def)\s+\w+.*")
_TITLE = re.compile(r"\s*[*_]{0,3}\w+(\s+\w+){0,2}\s*:[*_]{0,3}\s*")  # a line of its own: "Constraints:"
_INDENTED = re.compile(r"( {4}|\t).*")
_EXAMPLE = re.compile(r"[\s*_>]*(inputs?|outputs?|explanations?|returns?)[\s*_]*:?[\s*_]*(:.*)?", re.I)


def is_apps(prompt: str) -> bool:
    """Whether a prompt has APPS's form."""
    return _frame(prompt) is not None


def statement_span(prompt: str) -> tuple[int, int]:
    """Where the statement stands in a prompt of APPS's form, without the starter code."""
    frame = _frame(prompt)
    assert frame is not None
    start, end = frame.span("body")
    return start, end - len(_starter(frame))


def statement_lines(statement: str) -> set[int]:
    """Positions of the lines of a statement that are not to be edited: headings, examples and what explains them,
    code and quoted blocks.
    """
    lines = statement.splitlines()
    found = example_lines(lines)
    fenced = explaining = False
    for at, line in enumerate(lines):
        fence = line.lstrip().startswith("```")
        if not line.strip():
            explaining = False
        elif _EXAMPLE.fullmatch(line):
            explaining = True
        if fence or fenced or explaining or heading(line) is not None or _is_code_or_title(line):
            found.add(at)
        fenced ^= fence
    return found


def fixed_words(prompt: str) -> set[str]:
    """Words of a prompt of APPS's form that must stay as they are, wherever they stand; of another form none.

    Identifiers in the definitions of the starter code, words of the examples (``possible``, which is to be printed),
    and what has a capital within a sentence (``Yes``, a name).
    """
    frame = _frame(prompt)
    if frame is None:
        return set()
    starter = _starter(frame)
    statement = frame["body"].removesuffix(starter)
    lines = statement.splitlines()
    code = [line for line in starter.splitlines() if line.lstrip().startswith(("def ", "class "))]
    shown = [lines[i] for i in example_lines(lines)]
    found = {word for line in (*code, *shown) for word in re.findall(r"[^\W\d]\w+", line)}
    return found | set(re.findall(r"(?<=[a-z0-9,;)$] )[A-Z][a-z]+", statement))


def as_question(description: str) -> str:
    """The description of a function to be written, in APPS's form."""
    return f"\nQUESTION:\n{description.strip()}\n\nUse Call-Based format\nANSWER:\n"


@functools.lru_cache(maxsize=4096)
def _frame(prompt: str) -> re.Match[str] | None:
    return _FRAME.fullmatch(prompt)


def _starter(frame: re.Match[str]) -> str:
    """The starter code that a body ends with: from its last definition at the margin, with what belongs to it."""
    if frame["form"] != "Call-Based":
        return ""
    lines = frame["body"].splitlines(keepends=True)
    at = len(lines) - 1
    while at >= 0 and not _DEFINITION.match(lines[at]):
        if lines[at].strip() and not lines[at].startswith((" ", "\t")):
            return ""  # something else at the margin: there is none
        at -= 1
    if at < 0:
        return ""
    while at > 0 and lines[at - 1].startswith(("#", "import ", "from ", "@", "class ", "def ")):
        at -= 1
    return "".join(lines[at:])


def _is_code_or_title(line: str) -> bool:
    return line.startswith(("#", ">", "|")) or bool(_INDENTED.fullmatch(line) or _TITLE.fullmatch(line))
