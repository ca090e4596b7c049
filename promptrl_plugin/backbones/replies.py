"""Prompts for chat services that always begin a turn of their own, and what their replies amount to.

Such a service cannot go on from `Prompt.prefix`. EvalPlus's own chat providers then send the request alone
and leave it to the sanitizer to find the code in the reply; so does this module.
"""

from __future__ import annotations

import re

from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX
from promptrl_plugin.records import Message, Prompt

__all__ = ["SYSTEM", "approximate_tokens", "is_code", "request_body", "take_reply", "without_prefix"]

#: ``evalplus.gen.util.openai_request.make_request``.
SYSTEM = "You are a helpful assistant good at coding."

_OPEN_FENCE = re.compile(r"```\w*\n\Z")
_REQUEST = re.compile(re.escape(INSTRUCTION_PREFIX) + r"\n```\n(.*)\n```\n\Z", re.DOTALL)


def is_code(prompt: Prompt) -> bool:
    """Whether the prompt asks for code: the assistant's turn is open inside a code fence."""
    return _OPEN_FENCE.search(prompt.prefix) is not None


def request_body(content: str) -> str | None:
    """The task's text inside a user turn of EvalPlus's form; None for a turn of another form."""
    match = _REQUEST.fullmatch(content)
    return match[1] if match else None


def without_prefix(prompt: Prompt) -> tuple[Message, ...]:
    """The turns to send where the assistant's turn cannot be opened.

    A code request is worded as ``evalplus.provider.openai`` does: its system message, and the task in a
    ```` ```python ```` fence. Other prompts are sent as they are.
    """
    if not is_code(prompt):
        return prompt.messages
    turns = tuple(_as_provider(m) for m in prompt.messages)
    return turns if turns[0].role == "system" else (Message("system", SYSTEM), *turns)


def _as_provider(message: Message) -> Message:
    body = request_body(message.content) if message.role == "user" else None
    if body is None:
        return message
    return Message("user", f"{INSTRUCTION_PREFIX}\n```python\n{body.strip()}\n```")


def take_reply(prompt: Prompt, reply: str) -> str:
    """The completion that a whole reply amounts to.

    For code the reply as it is: the sanitizer picks the program, exactly as after EvalPlus's chat providers.
    For text what goes on from `Prompt.prefix` (a reply tends to repeat it), up to the first stop string.
    """
    if is_code(prompt):
        return reply
    text, opening = reply.strip(), prompt.prefix.strip()
    if text.lower().startswith(opening.lower()):
        text = text[len(opening) :]
    return text[: min((at for stop in prompt.stop if (at := text.find(stop)) >= 0), default=len(text))]


def approximate_tokens(text: str) -> int:
    """Tokens of a text whose service does not count them: one for four characters, at least one."""
    return max(1, round(len(text) / 4))
