"""Render a prompt state into the two forms that backbones take.

The unedited state renders to EvalPlus's code generation prompt to the letter (evalplus 0.3.1:
``codegen.run_codegen``, ``provider.utility.make_raw_chat_prompt``), so that *direct* is EvalPlus's
protocol. What is shared between tasks comes first, so that a key-value cache can serve it.

| edit | chat form | plain form |
| --- | --- | --- |
| examples | earlier turns: EvalPlus's request, EvalPlus's answer | solved tasks before the task |
| prose, notes | the docstring in the request | the docstring |
| repair | the failed program as an answer, then what went wrong | both as comments before the task |
| instruction | in the place of EvalPlus's in each request | as a comment before the task |
| completion | none: a chat model completes the plain form, as under EvalPlus's ``--force-base-prompt`` | – |

Dialect ``apps``: the plain form is APPS's own prompt (``eval/generate_gpt_codes.py``), its stop strings end no script
in the middle, and the request by chat is EvalPlus's around APPS's statement.
"""

from __future__ import annotations

from promptrl_plugin.prompts.apps_text import is_apps
from promptrl_plugin.prompts.example_style import in_style, plain_form
from promptrl_plugin.prompts.state import PromptState, Repair
from promptrl_plugin.prompts.task_text import replace_prose
from promptrl_plugin.records import Message, Prompt, Task

__all__ = ["CHAT_STOP", "EOS", "INSTRUCTION_PREFIX", "RESPONSE_PREFIX", "plain_stop", "render", "text"]

#: ``evalplus.codegen.run_codegen``'s strings.
INSTRUCTION_PREFIX = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
)
RESPONSE_PREFIX = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:"
)
#: ``evalplus.provider.utility.EOS``.
EOS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
#: What ends a chat completion in ``evalplus.provider.hf`` and ``.vllm``.
CHAT_STOP = (*EOS, "\n```\n")
#: ``evalplus.provider.utility.extra_eos_for_direct_completion``.
_PLAIN_EXTRA: dict[str, tuple[str, ...]] = {
    "humaneval": ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
    "mbpp": ('\n"""', "\nassert"),
}

#: A script may print, define ``main`` and ask for its own name; so only these end one.
_SCRIPT_EOS = EOS[:3]
_SCRIPT_RESPONSE_PREFIX = "Below is a Python script that solves the problem and passes corresponding tests:"
_REPAIR_RESPONSE_PREFIX = "Below is the corrected Python script that passes the test:"


def render(task: Task, state: PromptState, instruction: str = INSTRUCTION_PREFIX) -> Prompt:
    """The code generation prompt of `task` in `state`, in chat and plain form, under an instruction."""
    body = text(task, state)
    apps = task.dialect == "apps"
    examples = [in_style(example, task.dialect) for example in state.examples]
    prefix = opening = _SCRIPT_RESPONSE_PREFIX if apps else RESPONSE_PREFIX
    messages: list[Message] = []
    for example in examples:
        messages += [
            Message("user", _request(example.prompt, instruction)),
            Message("assistant", _answer(example.program, opening)),
        ]
    messages.append(Message("user", _request(body, instruction)))
    if state.repair is not None:
        failed = Message("assistant", _answer(state.repair.program, opening))
        messages += [failed, Message("user", _complaint(state.repair))]
        prefix = _REPAIR_RESPONSE_PREFIX
    shown = "".join(plain_form(example) + "\n\n\n" for example in examples)
    return Prompt(
        messages=() if state.completion else tuple(messages),
        prefix=f"{prefix}\n```python\n",
        plain=f"{_as_comment(instruction)}{shown}{_failed_as_comment(task, state.repair)}{_ended(body)}",
        stop=(*_SCRIPT_EOS, "\n```\n") if apps else CHAT_STOP,
        plain_stop=plain_stop(task.dialect),
    )


def text(task: Task, state: PromptState) -> str:
    """The task's own text with the edits of `state` to its prose and its notes."""
    return replace_prose(task.prompt, state.prose, state.notes)


def plain_stop(dialect: str) -> tuple[str, ...]:
    """EvalPlus's stop strings for plain completion of a dialect; for APPS's, where the next task would begin."""
    if dialect == "apps":
        return (*_SCRIPT_EOS, "\nQUESTION:", "\nANSWER:")
    return (*EOS, *_PLAIN_EXTRA[dialect])


def _request(body: str, instruction: str) -> str:
    """User turn of ``make_raw_chat_prompt``; a statement of APPS may hold fences itself, and gets none around it."""
    if is_apps(body):
        return f"{instruction}\n\n{body.strip()}\n"
    return f"{instruction}\n```\n{body.strip()}\n```\n"


def _as_comment(instruction: str) -> str:
    """An instruction for a model that completes text; EvalPlus gives it none."""
    if instruction == INSTRUCTION_PREFIX:
        return ""
    return "".join(f"# {line}".rstrip() + "\n" for line in instruction.splitlines()) + "\n"


def _ended(body: str) -> str:
    """A task for a model that goes on from it: APPS's to the letter, others on lines of their own."""
    return body if is_apps(body) else f"{body.strip()}\n"


def _answer(program: str, opening: str) -> str:
    """Assistant turn of ``make_raw_chat_prompt``."""
    return f"{opening}\n```python\n{program.strip()}\n```\n"


def _complaint(repair: Repair) -> str:
    """User turn that says what went wrong."""
    return (
        f"This script is wrong. {_sentence(repair.detail)}\n"
        "Find the mistake and provide the corrected self-contained Python script in a markdown code block."
    )


def _failed_as_comment(task: Task, repair: Repair | None) -> str:
    """The failed program for a model that completes text; a comment cannot shadow the real definition."""
    if repair is None:
        return ""
    detail = " ".join(_sentence(repair.detail).split())
    program = "".join(f"# {line}".rstrip() + "\n" for line in repair.program.strip().splitlines())
    return f"# A wrong version of {task.entry_point or 'the program'}. {detail}\n{program}# The corrected version:\n\n"


def _sentence(detail: str) -> str:
    detail = detail.strip() or "It does not pass the test"
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
