"""Tasks in the benchmarks' formats, for scripted data files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from promptrl_plugin.records import Task
from promptrl_plugin.suites.visible import visible_tests

WriteRows = Callable[..., Path]


def plus_row(number: int, text: str, example: str, entry_point: str, body: str, **fields: Any) -> dict[str, Any]:
    """A task in EvalPlus's MBPP+ schema."""
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": f'"""\n{text}\n{example}\n"""\n',
        "entry_point": entry_point,
        "canonical_solution": f"\n{body}\n",
        "base_input": [[1]],
        "plus_input": [[2], [3]],
        "atol": 0,
        "contract": "",
        "assertion": example,
        **fields,
    }


def mbpp_row(number: int, text: str, code: str, asserts: Iterable[str], setup: str = "") -> dict[str, Any]:
    """A task of the original MBPP."""
    return {
        "task_id": number,
        "text": text,
        "code": code,
        "test_list": list(asserts),
        "test_setup_code": setup,
        "challenge_test_list": [],
    }


def make_task(text: str, example: str = "", entry_point: str = "f", task_id: str = "T/1") -> Task:
    """A task with an MBPP-like prompt."""
    prompt = f'"""\n{text}\n{example}\n"""\n'
    visible = visible_tests(prompt, entry_point, "mbpp")
    return Task(id=task_id, suite="test", dialect="mbpp", prompt=prompt, entry_point=entry_point, visible=visible)
