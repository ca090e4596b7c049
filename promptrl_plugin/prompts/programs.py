"""From a completion to a program, as EvalPlus does it; APPS's are taken whole."""

from __future__ import annotations

import functools
import re

from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.records import Completion, Prompt, Task

__all__ = ["to_program"]

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>\w*)[^\n]*(?:\n|\Z)", re.MULTILINE)


def to_program(task: Task, prompt: Prompt, completion: Completion) -> tuple[str, str]:
    """The program that `completion` stands for, before and after EvalPlus's sanitizer.

    A chat completion is the program (``evalplus.codegen``: ``solution = impl``). A plain completion goes
    on from the task's prompt (``solution = prompt + impl``). An edited prompt counts as the original
    here: examples and failed attempts that stand before the task are no part of the program (the
    sanitizer keeps the first of two definitions of a name), and edits touch no code.

    APPS's programs may be scripts, of which EvalPlus's sanitizer would keep next to nothing, and its prompt is no part
    of them: there the program is the completion's code block, or where it has none, the completion.

    Returns:
        ``(raw, sanitized)``: the former for ``.raw.jsonl``, the latter to be judged and submitted.
    """
    if task.dialect == "apps":
        return completion.text, _code_block(completion.text, opened=not completion.plain)
    impl = completion.text.replace("\t", "    ")  # the decoders of evalplus.provider do so
    raw = f"{task.prompt.strip()}\n{impl}" if completion.plain else impl
    return raw, _sanitized(raw, task.entry_point)


def _code_block(text: str, opened: bool) -> str:
    """The code in a completion.

    Args:
        text: The completion.
        opened: The prompt has begun a block; the completion goes on in it, or is a whole reply with one of its own.
    """
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    first = fences[0]
    before = text[: first.start()]
    if opened and before.strip() and not first["language"] and parsed(before) is not None:
        return before
    return text[first.end() : fences[1].start() if len(fences) > 1 else len(text)]


@functools.lru_cache(maxsize=8192)
def _sanitized(raw: str, entry_point: str) -> str:
    """`evalplus.sanitize.sanitize`; text that it fails on (null bytes, lone surrogates) stays as it is."""
    from evalplus.sanitize import sanitize

    try:
        return str(sanitize(raw, entrypoint=entry_point))
    except (ValueError, RecursionError):
        return raw
