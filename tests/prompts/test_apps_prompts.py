"""Prompts and programs of APPS's form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prompt_samples import (
    EXAMPLES,
    METHOD_STATEMENT,
    SCRIPT_STATEMENT,
    STARTER,
    apps_tasks,
    attempt,
    humaneval_task,
    mbpp_task,
)

from promptrl_plugin.prompts.apps_text import is_apps
from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.prompts.operators.rewrite_rules import clarifying, objection, request
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import Example, PromptState, Repair
from promptrl_plugin.prompts.task_text import prose_of, protected_names, replace_prose
from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX, render
from promptrl_plugin.prompts.tokens import protected_tokens
from promptrl_plugin.records import Completion, Task

SCRIPT, METHOD = apps_tasks()[:2]


def test_the_form_is_known_by_its_frame() -> None:
    assert all(is_apps(task.prompt) for task in apps_tasks())
    assert not any(is_apps(task.prompt) for task in (mbpp_task(), humaneval_task()))
    assert not is_apps("QUESTION:\nWhat?\nANSWER:\n")


def test_only_the_words_of_the_statement_are_prose() -> None:
    assert prose_of(SCRIPT.prompt) == (
        "You are given a list of $n$ integers. Find the largest sum of two different elements ($1 \\le n \\le 10^5$).",
        "If there are several pairs with the same sum, print any of them.",
        "The first line contains one integer $n$. The second line contains the numbers of the list.",
        'Print the largest sum, or "NO" if there are fewer than two elements.',
        "In the first example the largest sum is 5.",
    )
    assert prose_of(METHOD.prompt) == (
        "Given an array nums of positive integers, return the largest sum of two different elements of the array.",
    )


def test_formulas_quotes_and_parameters_are_protected() -> None:
    names = protected_names(METHOD.prompt, METHOD.entry_point)
    assert {"largest", "nums", "limit"} <= names
    assert "nums" in protected_tokens(prose_of(METHOD.prompt)[0], names)
    names = protected_names(SCRIPT.prompt, "")
    assert names >= {"largest", "sum"}, "words of the examples"
    assert names.isdisjoint({"", "integers", "You", "Print"})
    told = SCRIPT.prompt.replace("print any of them", "print Yes, else No, as Alice does")
    assert protected_names(told, "") >= {"Yes", "No", "Alice"}
    first = protected_tokens(prose_of(SCRIPT.prompt)[0])
    assert "$n$" in first
    assert "$1 \\le n \\le 10^5$" in first
    assert '"NO"' in protected_tokens(prose_of(SCRIPT.prompt)[3])


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        (SCRIPT, SCRIPT_STATEMENT.rstrip(), "\n\nUse Standard Input format\nANSWER:\n"),
        (METHOD, METHOD_STATEMENT.rstrip(), f"\n\n{STARTER}\nUse Call-Based format\nANSWER:\n"),
    ],
)
def test_notes_follow_the_statement(task: Task, before: str, after: str) -> None:
    noted = replace_prose(task.prompt, prose_of(task.prompt), ("Be quick.", "Be right."))
    assert noted == f"\nQUESTION:\n{before}\n\nBe quick.\nBe right.{after}"


def test_plain_form_is_the_prompt_of_apps_and_chat_form_asks_for_it() -> None:
    prompt = render(SCRIPT, PromptState.initial(SCRIPT))
    assert prompt.plain == SCRIPT.prompt
    (turn,) = prompt.messages
    assert turn.content == f"{INSTRUCTION_PREFIX}\n\n{SCRIPT.prompt.strip()}\n"
    assert prompt.prefix.endswith("```python\n")
    script = "import sys\n\ndef main():\n    print(1)\n\nif __name__ == '__main__':\n    main()\nprint(2)\n"
    for stop in (*prompt.stop, *prompt.plain_stop):
        assert stop not in script
    assert "\nQUESTION:" in prompt.plain_stop


def test_examples_of_other_suites_take_its_form() -> None:
    state = replace(PromptState.initial(SCRIPT), examples=EXAMPLES[:1])
    prompt = render(SCRIPT, state)
    assert prompt.plain == (
        "\nQUESTION:\nWrite a function to keep a number.\nassert g0(2) == 2\n\nUse Call-Based format\nANSWER:\n"
        f"def g0(x):\n    return x + 0\n\n\n{SCRIPT.prompt}"
    )
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"]
    own = Example("APPS/1", METHOD.prompt, "print(1)")
    assert render(SCRIPT, replace(state, examples=(own,))).plain == f"{METHOD.prompt}print(1)\n\n\n{SCRIPT.prompt}"


def test_a_failed_script_is_shown_without_a_name() -> None:
    state = replace(PromptState.initial(SCRIPT), repair=Repair("print(0)", "printed '0', expected '1'"))
    assert render(SCRIPT, state).plain == (
        "# A wrong version of the program. printed '0', expected '1'.\n# print(0)\n# The corrected version:\n\n"
        + SCRIPT.prompt
    )


@pytest.mark.parametrize(
    ("text", "plain", "program"),
    [
        ("n = int(input())\nprint(n)\n", True, "n = int(input())\nprint(n)\n"),
        ("n = 1\nprint(n)\n```", False, "n = 1\nprint(n)\n"),
        ("print(1)\n```\nThis prints 1.\n```\n2\n```", False, "print(1)\n"),
        ("```python\nprint(1)\n```\nDone.", False, "print(1)\n"),
        ("Here it is:\n```python\nprint(1)\n```", False, "print(1)\n"),
        ("Here it is:\n```\nprint(1)\n```\n", True, "print(1)\n"),
        ("Here it is:\n```\nprint(1)\n```\n", False, "print(1)\n"),  # a service that begins turns of its own
        ("```python\nprint(1)", True, "print(1)"),
        ("def f():\n\tprint('a\tb')\n", True, "def f():\n\tprint('a\tb')\n"),
        ("", False, ""),
    ],
)
def test_the_program_is_the_code_block_or_everything(text: str, plain: bool, program: str) -> None:
    prompt = render(SCRIPT, PromptState.initial(SCRIPT))
    assert to_program(SCRIPT, prompt, Completion(text, 1, 1, "stop", plain)) == (text, program)


def test_a_script_is_rewritten_as_a_program() -> None:
    asked = request(clarifying, SCRIPT, PromptState.initial(SCRIPT))
    assert asked.prefix == "Write a Python program that"
    original = "Find the largest sum of two different elements."
    answer = "Write a Python program that finds the largest sum of two different elements."
    assert objection(clarifying, SCRIPT, original, answer) == ""
    assert request(clarifying, METHOD, PromptState.initial(METHOD)).prefix.endswith("named `largest` that")


def test_solved_tasks_become_examples() -> None:
    import numpy as np

    from promptrl_plugin.suites.hidden import HiddenTests, TrainTask

    references = ("print(sum(map(int, input().split())))", "class Solution:\n    def largest(self): return 1")
    solved = [
        TrainTask(task, HiddenTests(task.visible, None, program))
        for task, program in zip((SCRIPT, METHOD), references, strict=True)
    ]
    library = ExampleLibrary.from_train_tasks(
        [*solved, TrainTask(SCRIPT, HiddenTests(SCRIPT.visible, None, ""))], _embed
    )
    assert [e.program for e in library.examples] == list(references)
    assert library.duplicates(SCRIPT) >= {SCRIPT.content_hash}
    assert np.isfinite(library.embeddings).all()
    assert attempt(PromptState.initial(SCRIPT)).program


def _embed(texts):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.array([[1.0, i] for i, _ in enumerate(texts)], dtype=np.float32)
