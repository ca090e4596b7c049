"""A backbone without a model: answers by a rule. For tests, and to try a pipeline in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, GenerationRequest

__all__ = ["Rule", "ScriptedBackbone"]

Rule = Callable[[GenerationRequest], str] | Mapping[str, str]
"""What to answer: a function of the request, or completions by a substring of the rendered prompt."""


class ScriptedBackbone:
    """`Backbone` that answers by a rule, and records what it was asked.

    Tokens are counted as whitespace-separated words. Stop strings and `max_new_tokens` are obeyed, as a real
    backbone would.

    Args:
        rule: A function of the request, or a mapping from substring to completion: the first key (in the
            mapping's order) that occurs in the rendered prompt gives the answer; ``""`` matches all.
        chat: Which form of prompts it takes.
        completes: Whether it takes prompts without a chat form, too.
        name: Its name.
        fingerprint: Its identity in caches; one that two different rules share would mix their answers.

    Attributes:
        calls: The requests of each call of `generate`, in order.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        chat: bool = True,
        completes: bool = False,
        name: str = "scripted",
        fingerprint: str | None = None,
    ) -> None:
        self._rule = rule
        self.name = name
        self.fingerprint = fingerprint if fingerprint is not None else f"{name}@scripted"
        self.chat = chat
        self.completes = completes
        self.calls: list[tuple[GenerationRequest, ...]] = []

    @property
    def requests(self) -> list[GenerationRequest]:
        """Every request so far, over all calls."""
        return [r for call in self.calls for r in call]

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request; see `Backbone.generate`.

        Raises:
            BackboneError: No key of the mapping occurs in a prompt.
        """
        self.calls.append(tuple(requests))
        completions = []
        for i, request in enumerate(requests):
            completion = self._complete(request)
            completions.append(completion)
            if on_progress is not None:
                on_progress(i, completion)
        return completions

    def _complete(self, request: GenerationRequest) -> Completion:
        rendered = self.render(request)
        text = self._rule(request) if callable(self._rule) else self._look_up(self._rule, rendered)
        stops = request.prompt.stops(self.chat)
        text = text[: min((at for s in stops if (at := text.find(s)) >= 0), default=len(text))]
        words = text.split()
        limit = request.decoding.max_new_tokens
        cut = len(words) > limit
        return Completion(
            text=" ".join(words[:limit]) if cut else text,
            prompt_tokens=len(rendered.split()),
            completion_tokens=min(len(words), limit),
            finish_reason="length" if cut else "stop",
            plain=not request.prompt.in_chat(self.chat),
        )

    def _look_up(self, rule: Mapping[str, str], rendered: str) -> str:
        for part, text in rule.items():
            if part in rendered:
                return text
        raise BackboneError(
            f"the scripted backbone {self.name!r} has no answer for {rendered[-80:]!r}; add one, or the key ''"
        )

    def render(self, request: GenerationRequest) -> str:
        """The prompt as one text: its turns and prefix, or its plain form."""
        prompt = request.prompt
        if not prompt.in_chat(self.chat):
            return prompt.plain
        return "\n".join([*(m.content for m in prompt.messages), prompt.prefix])

    def close(self) -> None:
        """Nothing to free."""
