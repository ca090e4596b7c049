"""EvalPlus's own model providers (``evalplus.provider.make_model``) as backbones.

| provider | how a prompt is handed over |
| --- | --- |
| with a tokenizer of its own (vllm) | rendered here, in full, as for `transformers`; passed on unchanged |
| chat service (anthropic, google, bedrock, …), code | EvalPlus's instruction and the task: what EvalPlus sends |
| chat service, a request of another form | as one message, turns one after the other |

What EvalPlus fixes stays as it is: ``top_p`` is 0.95 when sampling, no seed can be set (the cache makes reruns
reproducible), requests run one after the other, and its request loops for services retry without end. For a
model that vLLM serves, `OpenAIBackbone` is faster and seeded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol, cast

from promptrl_plugin.backbones import chat, replies
from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX, RESPONSE_PREFIX
from promptrl_plugin.records import Completion, GenerationRequest, Prompt

__all__ = ["Decoder", "EvalPlusBackbone", "make_decoder"]

#: Environment variable of a service's key. Checked first, since EvalPlus retries a refused key for ever.
_KEYS = {"anthropic": "ANTHROPIC_KEY", "google": "GOOGLE_API_KEY", "bedrock": "BEDROCK_ROLE_ARN"}


class Decoder(Protocol):
    """The part of ``evalplus.provider.base.DecoderBase`` that is used."""

    name: str
    temperature: float
    max_new_tokens: int
    eos: list[str]
    instruction_prefix: str
    response_prefix: str

    def codegen(self, prompt: str, do_sample: bool = True, num_samples: int = 200) -> list[str]: ...

    def is_direct_completion(self) -> bool: ...


class _WholeMessage(str):
    """An instruction prefix that is the whole message.

    Every chat provider builds its message as ``instruction_prefix + "\\n```python\\n…\\n```"``; a request
    without a program in it must not end in an empty code fence.
    """

    __slots__ = ()

    def __add__(self, other: str) -> str:
        return str(self)


class EvalPlusBackbone:
    """A ``DecoderBase`` as a `Backbone`.

    Tokens are counted with the provider's tokenizer where it has one, else taken as a quarter of the characters.

    Args:
        decoder: From `make_decoder`, or any subclass of ``DecoderBase``.
        backend: EvalPlus's name of the provider, part of the fingerprint.
        dtype: For a provider that runs the model itself, part of the fingerprint.
    """

    def __init__(self, decoder: Decoder, backend: str, dtype: str = "") -> None:
        self._decoder: Decoder | None = decoder
        self._tokenizer: Any = getattr(decoder, "tokenizer", None)
        self.name = str(decoder.name)
        self.fingerprint = "/".join(p for p in (f"{self.name}@evalplus-{backend}", dtype) if p)
        self.chat = not decoder.is_direct_completion()
        self.completes = not self.chat or self._tokenizer is not None
        if self._tokenizer is not None:
            # Its chat prompts are rendered here (`chat.render`), so the decoder has to take them as they are.
            decoder.force_base_prompt = True  # type: ignore[attr-defined]

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, one after the other; see `Backbone.generate`.

        Call it on the main thread: EvalPlus's providers set alarm signals.

        Raises:
            BackboneError: The provider failed.
        """
        completions = []
        for i, request in enumerate(requests):
            completion = self._complete(request)
            completions.append(completion)
            if on_progress is not None:
                on_progress(i, completion)
        return completions

    def close(self) -> None:
        """Let the model go; calling it twice is harmless."""
        self._decoder = self._tokenizer = None

    def _complete(self, request: GenerationRequest) -> Completion:
        decoder = self._decoder
        if decoder is None:
            raise BackboneError(f"backbone {self.name!r} is closed")
        prompt, decoding = request.prompt, request.decoding
        decoder.temperature = decoding.temperature
        decoder.max_new_tokens = decoding.max_new_tokens
        text, sent = self._hand_over(decoder, prompt)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # EvalPlus prints its retries
                reply = str(decoder.codegen(text, do_sample=not decoding.greedy, num_samples=1)[0] or "")
        except Exception as e:  # every provider has exceptions of its own
            reason = " ".join(str(e).split())[:200] or type(e).__name__
            raise BackboneError(
                f"EvalPlus's provider of {self.name} failed ({reason}); check the service and the model's name, then "
                "run the same command again: what is done is kept"
            ) from e
        written = self._count(reply)
        if self.chat and self._tokenizer is None:
            reply = replies.take_reply(prompt, reply)
        reason = "length" if written >= decoding.max_new_tokens else "stop"
        return Completion(reply, self._count(sent), written, reason, plain=not prompt.in_chat(self.chat))

    def _hand_over(self, decoder: Decoder, prompt: Prompt) -> tuple[str, str]:
        """Set the decoder up for a prompt; returns ``codegen``'s argument, and all that the model will read."""
        if not self.chat or self._tokenizer is not None:
            decoder.eos = list(prompt.stops(self.chat))
            text = chat.render(self._tokenizer, prompt) if prompt.in_chat(self.chat) else prompt.plain
            return text, text
        contents = [m.content for m in prompt.messages]
        body = replies.request_body(contents[-1])
        if len(contents) == 1 and body is not None and replies.is_code(prompt):
            decoder.instruction_prefix, decoder.response_prefix = INSTRUCTION_PREFIX, RESPONSE_PREFIX
            return f"{body}\n", contents[0]
        whole = "\n\n".join(m.content.strip() for m in replies.without_prefix(prompt) if m.content != replies.SYSTEM)
        decoder.instruction_prefix = _WholeMessage(whole)
        return "", whole

    def _count(self, text: str) -> int:
        if self._tokenizer is None:
            return replies.approximate_tokens(text)
        return len(self._tokenizer.encode(text))


def make_decoder(model: str, backend: str, *, dtype: str = "auto", base_url: str | None = None) -> Decoder:
    """``evalplus.provider.make_model``, with errors that name the remedy.

    Args:
        model: The provider's name of the model.
        backend: EvalPlus's ``--backend``, e.g. ``"vllm"`` or ``"anthropic"``.
        dtype: For a provider that runs the model itself; ``"auto"`` is EvalPlus's default, bfloat16.
        base_url: Of a server.

    Raises:
        BackboneError: This EvalPlus has no such provider, a package or key is missing, or loading failed.
    """
    key = _KEYS.get(backend)
    if key is not None and not os.environ.get(key):
        raise BackboneError(f"backend {backend} needs {key}; set that environment variable")
    from evalplus.provider import make_model

    try:
        with contextlib.redirect_stdout(sys.stderr):  # DecoderBase prints that it begins
            decoder = make_model(
                model=model,
                backend=backend,
                dataset="mbpp",  # decides stop strings only, and those come with each prompt
                batch_size=1,
                temperature=0.0,
                instruction_prefix=INSTRUCTION_PREFIX,
                response_prefix=RESPONSE_PREFIX,
                dtype="bfloat16" if dtype == "auto" else dtype,
                base_url=base_url,
            )
    except ImportError as e:
        package = (e.name or backend).split(".")[0]
        raise BackboneError(f"backend {backend} needs the package {package}: pip install {package}") from None
    except Exception as e:  # every provider has exceptions of its own
        text = " ".join(str(e).split())[:200] or type(e).__name__
        raise BackboneError(f"EvalPlus cannot load {model} with backend {backend} ({text}); check its name") from e
    if decoder is None:
        from importlib.metadata import version

        raise BackboneError(
            f"the installed evalplus {version('evalplus')} has no backend {backend}; install a newer one, or serve the "
            "model by an OpenAI-compatible server and use --backend openai"
        )
    return cast(Decoder, decoder)
