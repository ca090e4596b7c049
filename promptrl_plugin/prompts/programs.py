"""From a completion to a program, as EvalPlus does it."""

from __future__ import annotations

import functools

from promptrl_plugin.records import Completion, Prompt, Task

__all__ = ["to_program"]


def to_program(task: Task, prompt: Prompt, completion: Completion) -> tuple[str, str]:
    """The program that `completion` stands for, before and after EvalPlus's sanitizer.

    A chat completion is the program (``evalplus.codegen``: ``solution = impl``). A plain completion goes
    on from the task's prompt (``solution = prompt + impl``). An edited prompt counts as the original
    here: examples and failed attempts that stand before the task are no part of the program (the
    sanitizer keeps the first of two definitions of a name), and edits touch no code.

    Returns:
        ``(raw, sanitized)``: the former for ``.raw.jsonl``, the latter to be judged and submitted.
    """
    impl = completion.text.replace("\t", "    ")  # the decoders of evalplus.provider do so
    raw = f"{task.prompt.strip()}\n{impl}" if completion.plain else impl
    return raw, _sanitized(raw, task.entry_point)


@functools.lru_cache(maxsize=8192)
def _sanitized(raw: str, entry_point: str) -> str:
    """`evalplus.sanitize.sanitize`; text that it fails on (null bytes, lone surrogates) stays as it is."""
    from evalplus.sanitize import sanitize

    try:
        return str(sanitize(raw, entrypoint=entry_point))
    except (ValueError, RecursionError):
        return raw
