"""The harness's own LM (``hf``, ``vllm``, ``local-completions``, …) as a `Backbone`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Message, Prompt, content_hash

__all__ = ["LMEvalBackbone", "model_name"]

#: Folder that a ``.gguf`` file was converted to (`promptrl_plugin.backbones.gguf`).
_CONVERTED = re.compile(r"(.+)-([0-9a-f]{12})")
#: Base class of lm-eval's clients of servers: they send one fixed seed with every request.
_SERVER_CLIENT = "TemplateAPI"


class LMEvalBackbone:
    """`Backbone` that generates through ``LM.generate_until``.

    Greedy completions are remembered for the length of the run. Sampled ones are reproducible for the same
    run with the same batch size: lm-eval's local models draw from a global generator, which is seeded
    before every call from what is asked; clients of servers get a seed with each request.

    Args:
        lm: An ``lm_eval.api.model.LM``.
        name: Its model, as the user named it (`model_name`).
        chat: Use the chat form of prompts (lm-eval's ``--apply_chat_template``).
        system_instruction: First turn of every chat (``--system_instruction``).
    """

    def __init__(self, lm: Any, name: str, *, chat: bool, system_instruction: str | None = None) -> None:
        self._lm = lm
        self._server = any(c.__name__ == _SERVER_CLIENT for c in type(lm).__mro__)
        converted = _CONVERTED.fullmatch(Path(name).name)
        self.name = converted[1] if converted else name
        self.chat = chat
        self.completes = not chat or not self._server
        self.fingerprint = _fingerprint(name, lm)
        self._system = system_instruction
        self._memory: dict[str, str] = {}

    # --- what lm-eval is asked -------------------------------------------------------------------

    def context(self, prompt: Prompt) -> Any:
        """The prompt as this LM takes it: a string, or the turns as its ``apply_chat_template`` packs them."""
        if not prompt.in_chat(self.chat):
            return prompt.plain
        turns = ([Message("system", self._system)] if self._system else []) + list(prompt.messages)
        history = [{"role": m.role, "content": m.content} for m in turns]
        if prompt.prefix:  # an open assistant turn, as lm-eval's own `gen_prefix`
            history.append({"role": "assistant", "content": prompt.prefix})
        return self._lm.apply_chat_template(history, add_generation_prompt=not prompt.prefix)

    def gen_kwargs(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        """lm-eval's generation arguments for a decoding."""
        kwargs: dict[str, Any] = {
            # Servers take four stop strings at most, so the one that ends most answers comes first.
            "until": sorted(prompt.stops(self.chat), key=lambda s: "```" not in s),
            "max_gen_toks": decoding.max_new_tokens,
            "do_sample": not decoding.greedy,
            "temperature": decoding.temperature,
        }
        if not decoding.greedy:
            kwargs["top_p"] = decoding.top_p
        return kwargs

    def remember(self, text: str, context: Any, kwargs: Mapping[str, Any]) -> None:
        """Keep a greedy completion that the harness has made already (its first pass)."""
        if not kwargs.get("do_sample"):
            self._memory[_key(context, kwargs)] = text

    # --- Backbone --------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, equal greedy ones once; see `Backbone.generate`."""
        asked = [(self.context(r.prompt), self.gen_kwargs(r.prompt, r.decoding)) for r in requests]
        keys = [
            _key(c, k) if r.decoding.greedy else _key(c, k, r.seed, r.index)
            for (c, k), r in zip(asked, requests, strict=True)
        ]
        texts = {k: self._memory[k] for k in keys if k in self._memory}
        missing = {k: (*call, k) for k, call in zip(keys, asked, strict=True) if k not in texts}
        for greedy in (True, False):
            wanted = [call for call in missing.values() if call[1]["do_sample"] is not greedy]
            if wanted:
                answers = dict(zip((key for *_, key in wanted), self._ask(wanted, greedy), strict=True))
                texts.update(answers)
                if greedy:
                    self._memory.update(answers)
        completions = []
        for i, (request, key) in enumerate(zip(requests, keys, strict=True)):
            completions.append(self._completion(request, asked[i][0], texts[key]))
            if on_progress is not None:
                on_progress(i, completions[-1])
        return completions

    def close(self) -> None:
        """Nothing to free: the LM is the harness's."""

    def _ask(self, wanted: Sequence[tuple[Any, dict[str, Any], str]], greedy: bool) -> list[str]:
        from lm_eval.api.instance import Instance

        instances = []
        for i, (context, kwargs, key) in enumerate(wanted):
            if self._server and not greedy:
                kwargs = {**kwargs, "seed": _seed(key)}
            instances.append(Instance("generate_until", {}, (context, kwargs), i, metadata=("promptrl", i, 1)))
        if not greedy and not self._server:
            import torch

            torch.manual_seed(_seed(*(key for *_, key in wanted)))
        answers: list[str] = self._lm.generate_until(instances)
        return [a or "" for a in answers]  # a server's failed answer is None

    def _completion(self, request: GenerationRequest, context: Any, text: str) -> Completion:
        stops = request.prompt.stops(self.chat)
        text = text[: min((at for s in stops if (at := text.find(s)) >= 0), default=len(text))]
        written = self._count(text)
        return Completion(
            text=text,
            prompt_tokens=self._count(context if isinstance(context, str) else _plain(context)),
            completion_tokens=written,
            finish_reason="length" if written >= request.decoding.max_new_tokens else "stop",
            plain=not request.prompt.in_chat(self.chat),
        )

    def _count(self, text: str) -> int:
        """Tokens of the LM's tokenizer, words where it has none (a server)."""
        encode = getattr(getattr(self._lm, "tokenizer", None), "encode", None)
        return len(encode(text)) if callable(encode) else len(text.split())


def model_name(lm: Any) -> str:
    """What the user called the model of an LM: hub id, folder, or a server's name for it."""
    inner = getattr(lm, "lm", lm)  # lm-eval's --use_cache wraps the LM
    arguments = getattr(inner, "model_args", None)
    candidates = (
        getattr(inner, "pretrained", None),  # hf
        arguments.get("model") if isinstance(arguments, dict) else None,  # vllm
        getattr(inner, "model", None),  # clients of servers
    )
    return next((c for c in candidates if isinstance(c, str) and c), type(inner).__name__)


def _fingerprint(name: str, lm: Any) -> str:
    """``<name>@<identity>/lm-eval``, with the same name and identity as promptrl's own backbones give a model."""
    path = Path(name).expanduser()
    short = path.name.lower()
    if converted := _CONVERTED.fullmatch(short):
        return f"{converted[1]}@{converted[2]}/lm-eval"
    if not path.is_dir():  # a hub id, or what a server calls its model: the name is all there is
        return f"{short}@{type(lm).__name__}/lm-eval"
    from promptrl_plugin.backbones.loading import locate

    return f"{short}@{locate(path).identity}/lm-eval"


def _plain(context: Any) -> str:
    return context if isinstance(context, str) else json.dumps(context, default=str)


def _key(context: Any, kwargs: Mapping[str, Any], *draw: int) -> str:
    return content_hash(_plain(context), {k: v for k, v in sorted(kwargs.items())}, list(draw))


def _seed(*keys: str) -> int:
    return int(content_hash(*keys)[:8], 16) & 0x7FFFFFFF
