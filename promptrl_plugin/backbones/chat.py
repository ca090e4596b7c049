"""Prompts as text, through the model's chat template."""

from __future__ import annotations

from typing import Any

from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Message, Prompt

__all__ = ["render"]

_SPLITTER = "-[[]]-this-is-really-our-highest-priority-[[]]-"
"""Marks where the model goes on; the same text as in `evalplus.provider.utility`."""


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The chat form of a prompt, ending inside the assistant's turn, after `Prompt.prefix`.

    The assistant's turn is rendered as `evalplus.provider.utility.make_raw_chat_prompt` does it: the whole
    turn with a mark in it, cut at the mark, so that the template cannot close the turn.

    Raises:
        BackboneError: The model's template refuses the messages.
    """
    turns = _turns(prompt.messages)
    try:
        return _apply(tokenizer, turns, prompt.prefix)
    except Exception as error:  # templates raise jinja2 errors of their own wording
        if prompt.messages[0].role == "system":
            return render(tokenizer, _without_system(prompt))
        raise BackboneError(f"the model's chat template refuses this prompt: {error}") from error


def _apply(tokenizer: Any, turns: list[dict[str, str]], prefix: str) -> str:
    if not prefix:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text
    turns = [*turns, {"role": "assistant", "content": f"{prefix}{_SPLITTER}\n```\n"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return text.split(_SPLITTER)[0]


def _turns(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _without_system(prompt: Prompt) -> Prompt:
    """Move the system message into the first user turn, for templates that know none (Gemma)."""
    system, user, *rest = prompt.messages
    merged = Message(user.role, f"{system.content}\n\n{user.content}")
    return Prompt((merged, *rest), prompt.prefix, prompt.plain, prompt.stop, prompt.plain_stop)
