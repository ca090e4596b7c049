"""EvalPlus's prompt to the letter for the unedited state; where edits go otherwise."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from prompt_samples import EXAMPLES, attempt, humaneval_task, make_task, mbpp_task

from promptrl_plugin.config import cache_dir
from promptrl_plugin.prompts.operators.rewrite_rules import clarifying, request
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState, Repair
from promptrl_plugin.prompts.template import CHAT_STOP, EOS, INSTRUCTION_PREFIX, RESPONSE_PREFIX, render, text
from promptrl_plugin.records import Completion, Prompt, Task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
)


def evalplus_chat_prompt(tokenizer: Any, task: Task) -> str:
    """What evalplus.provider.hf gives to the model."""
    from evalplus.provider.utility import make_raw_chat_prompt

    return make_raw_chat_prompt(task.prompt.strip() + "\n", INSTRUCTION_PREFIX, RESPONSE_PREFIX, tokenizer)


def our_chat_prompt(tokenizer: Any, prompt: Prompt) -> str:
    from promptrl_plugin.backbones.chat import render as render_chat

    return render_chat(tokenizer, prompt)


class TemplateOnly:
    """A tokenizer of which only the chat template is used."""

    def __init__(self, template: str) -> None:
        self.chat_template = template
        self._compiled = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)

    def apply_chat_template(self, turns: Any, tokenize: bool, add_generation_prompt: bool = False) -> str:
        return self._compiled.render(messages=turns, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("template", [CHATML, LLAMA], ids=["chatml", "llama"])
def test_unedited_chat_prompt_is_evalplus(template: str, all_tasks: list[Task]) -> None:
    tokenizer = TemplateOnly(template)
    for task in (t for t in all_tasks if t.dialect != "apps"):
        prompt = render(task, PromptState.initial(task))
        assert our_chat_prompt(tokenizer, prompt) == evalplus_chat_prompt(tokenizer, task)
        assert prompt.plain == task.prompt.strip() + "\n"


def real_tokenizers() -> list[Path]:
    return [config.parent for config in sorted((cache_dir() / "models").glob("**/tokenizer_config.json"))]


@pytest.mark.integration
def test_unedited_chat_prompt_is_evalplus_with_real_tokenizers(all_tasks: list[Task]) -> None:
    from transformers import AutoTokenizer

    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in real_tokenizers()]
    chat = [t for t in tokenizers if t.chat_template]
    if not chat:
        pytest.skip("no model with a chat template in the cache; run: promptrl models pull smollm2-135m-instruct")
    for tokenizer in chat:
        for task in (t for t in all_tasks[::10] if t.dialect != "apps"):
            prompt = render(task, PromptState.initial(task))
            assert our_chat_prompt(tokenizer, prompt) == evalplus_chat_prompt(tokenizer, task)


def test_constants_are_evalplus() -> None:
    import evalplus.codegen
    from evalplus.provider import utility

    source = inspect.getsource(evalplus.codegen.run_codegen)
    assert f'instruction_prefix = "{INSTRUCTION_PREFIX}"' in source
    assert f'response_prefix = "{RESPONSE_PREFIX}"' in source
    assert list(EOS) == utility.EOS[: len(EOS)]
    assert (*EOS, "\n```\n") == CHAT_STOP
    for task in (mbpp_task(), humaneval_task()):
        prompt = render(task, PromptState.initial(task))
        assert prompt.stop == CHAT_STOP
        assert list(prompt.plain_stop) == [*EOS, *utility.extra_eos_for_direct_completion(task.dialect)]


def test_notes_and_prose_show_in_both_forms() -> None:
    task = mbpp_task()
    state = replace(PromptState.initial(task), prose=("Find what two lists share.",), notes=("Mind the gap.",))
    expected = '"""\nFind what two lists share.\nMind the gap.\nassert common((3, 4), (4, 5)) == (4,)\n"""'
    assert text(task, state).strip() == expected
    prompt = render(task, state)
    assert prompt.plain == expected + "\n"
    (message,) = prompt.messages
    assert message.content == f"{INSTRUCTION_PREFIX}\n```\n{expected}\n```\n"


def test_examples_come_first_as_solved_turns() -> None:
    task = mbpp_task()
    plain = render(task, PromptState.initial(task))
    shown = render(task, replace(PromptState.initial(task), examples=EXAMPLES[:2]))
    assert [m.role for m in shown.messages] == ["user", "assistant"] * 2 + ["user"]
    assert shown.messages[-1] == plain.messages[0]
    assert shown.messages[1].content == f"{shown.prefix}{EXAMPLES[0].program}\n```\n"
    assert shown.prefix == plain.prefix
    assert shown.plain.endswith(f"\n\n\n{plain.plain}")
    assert shown.plain.startswith(f"{EXAMPLES[0].prompt.strip()}\n{EXAMPLES[0].program}\n")
    other = render(
        make_task('"""\nDo it.\nassert f(1)\n"""', "f", "mbpp"), PromptState(("Do it.",), examples=EXAMPLES[:2])
    )
    assert other.messages[:4] == shown.messages[:4]  # a shared beginning for the key-value cache


def test_examples_take_on_the_style_of_humaneval() -> None:
    task = humaneval_task()
    prompt = render(task, replace(PromptState.initial(task), examples=EXAMPLES[:1]))
    expected = 'def g0(x):\n    """ Write a function to keep a number.\n    >>> g0(2)\n    2\n    """'
    assert prompt.messages[0].content == f"{INSTRUCTION_PREFIX}\n```\n{expected}\n```\n"
    assert prompt.messages[1].content.endswith(f"```python\n{expected}\n    return x + 0\n```\n")
    assert prompt.plain.startswith(f"{expected}\n    return x + 0\n\n\n")
    namespace: dict[str, Any] = {}
    exec(prompt.plain.split("\n\n\n")[0], namespace)
    assert namespace["g0"](5) == 5


def test_repair_is_a_conversation() -> None:
    task = mbpp_task()
    failed = attempt(PromptState.initial(task), "def common(a, b):\n    return 1")
    state = replace(PromptState.initial(task), repair=Repair(failed.program, "common((3, 4), (4, 5)) gave 1"))
    prompt = render(task, state)
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"]
    assert f"```python\n{failed.program}\n```" in prompt.messages[1].content
    assert "common((3, 4), (4, 5)) gave 1." in prompt.messages[2].content
    assert prompt.prefix.endswith("\n```python\n")
    assert prompt.plain.endswith(f"# The corrected version:\n\n{task.prompt.strip()}\n")
    compile(prompt.plain, "plain", "exec")


def test_keys_tell_prompts_apart() -> None:
    task = mbpp_task()
    first = PromptState.initial(task)
    states = [
        first,
        replace(first, notes=("a",)),
        replace(first, prose=("a",)),
        replace(first, examples=EXAMPLES[:1]),
        replace(first, repair=Repair("a", "b")),
    ]
    assert len({s.key for s in states}) == len(states)
    assert replace(first, operators=("stop",)).key == first.key


def test_chat_programs_are_the_completion() -> None:
    task = mbpp_task()
    prompt = render(task, PromptState.initial(task))
    raw, program = to_program(task, prompt, Completion("def common(a, b):\n\treturn 1\nprint(2)", 1, 1, "stop"))
    assert raw == "def common(a, b):\n    return 1\nprint(2)"
    assert program == "def common(a, b):\n    return 1"


def test_plain_programs_go_on_from_the_tasks_own_prompt() -> None:
    from evalplus.sanitize import sanitize

    task = humaneval_task()
    clash = replace(EXAMPLES[0], program="def spread(n, limit):\n    return None")
    body = "    return any(a - b < limit for a in numbers for b in numbers)"
    completion = Completion(body, 1, 1, "stop", plain=True)
    first = PromptState.initial(task)
    evalplus = task.prompt.strip() + "\n" + body
    for state in (first, replace(first, examples=(clash,), repair=Repair("def spread(): pass", "wrong"))):
        raw, program = to_program(task, render(task, state), completion)
        assert raw == evalplus
        assert program == sanitize(evalplus, entrypoint="spread")


@pytest.mark.parametrize("junk", ["", "\0", "\ud800", "no code at all", "def (", "(" * 300])
def test_junk_gives_a_program_all_the_same(junk: str) -> None:
    task = mbpp_task()
    raw, program = to_program(task, render(task, PromptState.initial(task)), Completion(junk, 1, 1, "length"))
    assert raw == junk
    assert isinstance(program, str)


def test_rewriter_prompts_leave_the_answer_open() -> None:
    task = mbpp_task()
    prompt = request(clarifying, task, PromptState.initial(task))
    assert prompt.stop[-1] == "\n"
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert all("```" not in m.content for m in prompt.messages)
    rendered = our_chat_prompt(TemplateOnly(CHATML), prompt)
    assert rendered.endswith(prompt.prefix)
