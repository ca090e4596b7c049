"""Tasks, views and drivers for the tests of prompts."""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from promptrl_plugin.prompts.operators.base import Attempt, EpisodeView, Operator
from promptrl_plugin.prompts.state import Example, PromptState
from promptrl_plugin.records import (
    AssertGroup,
    Completion,
    Decoding,
    FailureKind,
    Generate,
    GenerationRequest,
    GroupVerdict,
    PairGroup,
    Status,
    Task,
)
from promptrl_plugin.suites.apps import apps_prompt
from promptrl_plugin.suites.visible import visible_tests

SHARED = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).parents[3] / "shared")

MBPP_PROMPT = '''"""
Write a function to find the shared elements from the given two lists.
assert common((3, 4), (4, 5)) == (4,)
"""
'''
HUMANEVAL_PROMPT = '''from typing import List


def helper(x: int) -> int:
    """ Double x. """
    return 2 * x


def spread(numbers: List[float], limit: float = 0.5) -> bool:
    """ Check whether any two of the given numbers lie closer to each other than
    the specified `limit`. Otherwise the function should return False. Ignore values above 100.

    For example:
    >>> spread([1.0, 2.0], 0.5)
    False
    >>> spread([1.0, 1.2], 0.5)
    True
    """
'''


SCRIPT_STATEMENT = """\
You are given a list of $n$ integers. Find the largest sum of two different elements ($1 \\le n \\le 10^5$).

If there are several pairs with the same sum, print any of them.


-----Input-----

The first line contains one integer $n$. The second line contains the numbers of the list.


-----Output-----

Print the largest sum, or "NO" if there are fewer than two elements.


-----Examples-----
Input
3
largest numbers of the list are these

Output
find the largest sum

-----Note-----

In the first example the largest sum is 5.
"""
METHOD_STATEMENT = """\
Given an array nums of positive integers, return the largest sum of two different elements of the array.

Example 1:
Input: nums = [1,2,3]
Output: 5
Explanation: The largest sum is that of the last two numbers.
It is found at the end of the array.

```
the largest numbers of this block are code
```

Constraints:

2 <= nums.length <= 1000
"""
STARTER = """\
# Definition for the largest element of a list.
class Solution:
    def largest(self, nums: List[int], limit: int) -> int:
        """


def make_task(prompt: str, entry_point: str, dialect: str, task_id: str = "T/1") -> Task:
    return Task(task_id, "test", dialect, prompt, entry_point, visible_tests(prompt, entry_point, dialect))


def mbpp_task() -> Task:
    return make_task(MBPP_PROMPT, "common", "mbpp", "Mbpp/9001")


def humaneval_task() -> Task:
    return make_task(HUMANEVAL_PROMPT, "spread", "humaneval", "HumanEval/9001")


def sample_tasks() -> list[Task]:
    odd = [
        ('"""\nassert f(1) == 2\n"""\n', "f", "mbpp"),
        (
            '"""\nWrite a function f(n) = max(f(n/2), n) for \'a b\' and 3.5 of them, i.e. n>k.\nassert f(1) == 2\n"""',
            "f",
            "mbpp",
        ),
        ("Read two numbers and print their sum. Do not print anything else.", "", "mbpp"),
        ('def f(x):\n    """ >>> f(1)\n    2\n    """\n', "f", "humaneval"),
        ("def f(x):\n    '''Return x.\n\n    Examples: f(1) => 1\n    '''\n", "f", "humaneval"),
    ]
    return [mbpp_task(), humaneval_task(), *(make_task(p, e, d, f"T/{i}") for i, (p, e, d) in enumerate(odd))]


def apps_tasks() -> list[Task]:
    """Tasks in APPS's form, hand-written and, where ../shared is at hand, real."""
    script = Task("APPS/9001", "test", "apps", apps_prompt(SCRIPT_STATEMENT, "", ""), "", PairGroup("", (), ()))
    shown = PairGroup("largest", ("[[1, 2, 3]]",), ("[5]",))
    method = apps_prompt(METHOD_STATEMENT, STARTER, "largest")
    tasks = [script, Task("APPS/9002", "test", "apps", method, "largest", shown)]
    folder = SHARED / "data/apps_sample/train"
    for number in sorted(folder.iterdir()) if folder.exists() else ():
        starter = number / "starter_code.py"
        function = json.loads((number / "input_output.json").read_text()).get("fn_name", "")
        code = starter.read_text() if starter.exists() else ""
        prompt = apps_prompt((number / "question.txt").read_text(), code, function)
        tasks.append(Task(f"APPS/{number.name}", "test", "apps", prompt, function, PairGroup(function, (), ())))
    return tasks


@functools.cache
def real_tasks() -> tuple[Task, ...]:
    """Every real task of ../shared/data: MBPP+, HumanEval+ and the original MBPP in MBPP+'s form."""
    data, tasks = SHARED / "data", []
    for name, dialect in (("MbppPlus.jsonl.gz", "mbpp"), ("HumanEvalPlus-first20.jsonl.gz", "humaneval")):
        if (data / name).exists():
            with gzip.open(data / name, "rt") as lines:
                rows = [json.loads(line) for line in lines]
            tasks += [make_task(r["prompt"], r["entry_point"], dialect, r["task_id"]) for r in rows]
    if (data / "mbpp.jsonl").exists():
        for line in (data / "mbpp.jsonl").read_text().splitlines():
            row = json.loads(line)
            first = row["test_list"][0]
            prompt = f'"""\n{row["text"]}\n{first}\n"""\n'
            called = re.findall(r"(\w+) ?\(", first)
            name = next(n for n in called if n not in ("assert", "set", "sorted", "isclose", "tuple", "len"))
            tasks.append(Task(f"Mbpp/{row['task_id']}", "mbpp0", "mbpp", prompt, name, AssertGroup((first,))))
    return tuple(tasks)


EXAMPLES = tuple(
    Example(
        f"Train/{i}",
        f'"""\nWrite a function to {what}.\nassert g{i}(2) == {2 + i}\n"""\n',
        f"def g{i}(x):\n    return x + {i}",
    )
    for i, what in enumerate(("keep a number", "add one to a number", "add two to a number", "add three to a number"))
)


def view(task: Task, state: PromptState | None = None, **changes: Any) -> EpisodeView:
    """A view of an episode that has just begun, with `changes`."""
    initial = PromptState.initial(task)
    fields: dict[str, Any] = dict(
        task=task,
        state=state or initial,
        best_state=initial,
        population=(initial,),
        last=None,
        best=None,
        budget_left=6,
        chat=True,
        fixed_examples=EXAMPLES[:3],
        nearest_examples=EXAMPLES[1:],
        other_examples=(EXAMPLES[:1], EXAMPLES[1:2]),
        tried=frozenset(),
        rewriter_chat=True,
    )
    return EpisodeView(**{**fields, **changes})


def attempt(state: PromptState, program: str = "def f():\n    return 1", passed: bool = False) -> Attempt:
    status = Status.PASS if passed else Status.FAIL
    failure = None if passed else FailureKind.WRONG_VALUE
    verdict = GroupVerdict(
        status, (passed,), 1, failure, "" if passed else "common((3, 4), (4, 5)) gave 1, wanted (4,)"
    )
    return Attempt(state, program, program, verdict, Decoding())


def decoding_of(kind: str) -> Decoding:
    return Decoding(0.0 if kind in ("greedy", "rewrite") else 0.8)


def apply(
    operator: Operator,
    episode: EpisodeView,
    seed: int = 0,
    rewriter: Callable[[GenerationRequest], str] = lambda request: "",
    finish_reason: str = "stop",
) -> tuple[PromptState, list[GenerationRequest]]:
    """Run an edit to its end; returns the new state and what was asked of the rewriter."""
    effects = operator.edit(episode, np.random.default_rng(seed), decoding_of)
    asked: list[GenerationRequest] = []
    answer: list[Completion] | None = None
    while True:
        try:
            wanted = effects.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            return stop.value, asked
        assert isinstance(wanted, Generate)
        assert wanted.rewriter
        asked += wanted.requests
        answer = [Completion(rewriter(r), 1, 1, finish_reason) for r in wanted.requests]
