"""A frozen LLM in this process: causal and encoder-decoder models of Hugging Face transformers.

Loading is in `loading` and `gguf`, the decode loops are in `engine` (causal models) and `seq2seq`, numerics
in `int8`, `sampling` and `kv_cache`. This module turns requests into token jobs and endings into completions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptrl_plugin.backbones import chat, loading, sampling
from promptrl_plugin.backbones.base import Feed, OnProgress
from promptrl_plugin.backbones.engine import PackedEngine
from promptrl_plugin.backbones.jobs import Engine, Job
from promptrl_plugin.backbones.seq2seq import StaticEngine
from promptrl_plugin.backbones.stopping import Ending, StopRule, end_token_ids, special_ids
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Prompt

__all__ = ["TransformersBackbone"]


class TransformersBackbone:
    """A model of transformers as a `Backbone`.

    Args:
        model: Hub id, folder, or ``.gguf`` file (converted once, kept in the cache folder).
        name: What the user called it; the model's own name by default.
        fingerprint: Identity for caches; made of name, weights and dtype by default.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"int8"`` (CPU: 8-bit weights,
            with slightly different completions).
        device: ``"auto"`` or a torch device.
        rows: Sequences that run at once; 0 is 128.
        pass_tokens: Prompt tokens that join a pass; 0 is 512 on a CPU and 8192 on a GPU.
        cache_bytes: Memory for keys and values.
        slack: Tokens that a pass computes in the time in which it reads the weights, see `drafts`; 0 drafts none. By
            default 12 on a CPU (as two cores with AVX2 have it) and 0 on a GPU, where drafts were not measured.

    Raises:
        BackboneError: The model cannot be found or loaded; the message names the remedy.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "",
        fingerprint: str = "",
        dtype: str = "auto",
        device: str = "auto",
        rows: int = 0,
        pass_tokens: int = 0,
        cache_bytes: int = 4 * 1024**3,
        slack: int | None = None,
    ) -> None:
        source = loading.locate(model)
        device = loading.pick_device(device)
        dtype = loading.pick_dtype(dtype, device)
        self.name = name or source.name
        self.fingerprint = fingerprint or f"{Path(source.name).name.lower()}@{source.identity}/{dtype}"
        self._model: Any = loading.load_model(source, dtype, device)
        self._tokenizer: Any = loading.load_tokenizer(source)
        config = self._model.config
        self.chat = bool(self._tokenizer.chat_template) and not config.is_encoder_decoder
        self.completes = True
        self._context = _context_length(config)
        self._end_ids = end_token_ids(self._tokenizer, self._model.generation_config, config)
        self._special = special_ids(self._tokenizer)
        gpu = device != "cpu"
        rows, pass_tokens = rows or 128, pass_tokens or (8192 if gpu else 512)
        slack = slack if slack is not None else 0 if gpu else 12
        self._engine: Engine | None = (
            PackedEngine(self._model, rows, pass_tokens, cache_bytes, slack)
            if not config.is_encoder_decoder and PackedEngine.serves(self._model)
            else StaticEngine(self._model, rows, self._tokenizer.pad_token_id or 0)
        )

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request; `on_progress` is called as each ends. See `Backbone.generate`."""
        if self._engine is None:
            raise BackboneError(f"backbone {self.name!r} is closed")
        positions: defaultdict[GenerationRequest, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            positions[_canonical(request)].append(i)
        jobs = {self._job(request): where for request, where in positions.items()}
        completions: dict[int, Completion] = {}

        def on_finish(job: Job, ending: Ending, generated: int) -> None:
            done = self._completion(requests[jobs[job][0]].prompt, job, ending, generated)
            for i in jobs[job]:
                completions[i] = done
                if on_progress is not None:
                    on_progress(i, done)

        self._engine.run(list(jobs), on_finish)
        return [completions[i] for i in range(len(requests))]

    @property
    def streaming(self) -> bool:
        """Whether `serve` is there for this model."""
        return isinstance(self._engine, PackedEngine)

    def serve(self, feed: Feed) -> None:
        """Generate as requests come; see `StreamingBackbone.serve`."""
        if not isinstance(self._engine, PackedEngine):
            raise BackboneError(f"backbone {self.name!r} cannot stream or is closed")
        tickets: dict[Job, tuple[int, Prompt]] = {}

        def more(idle: bool) -> list[Job]:
            jobs = []
            for ticket, request in feed.take(wait=idle):
                jobs.append(self._job(request))
                tickets[jobs[-1]] = ticket, request.prompt
            return jobs

        def on_finish(job: Job, ending: Ending, generated: int) -> None:
            ticket, prompt = tickets.pop(job)
            feed.deliver(ticket, self._completion(prompt, job, ending, generated))

        self._engine.stream(more, on_finish)

    def close(self) -> None:
        """Free the model's memory; calling it twice is harmless."""
        self._engine = self._model = None

    def _job(self, request: GenerationRequest) -> Job:
        prompt, decoding = request.prompt, request.decoding
        text = chat.render(self._tokenizer, prompt) if prompt.in_chat(self.chat) else prompt.plain
        tokens = np.array(self._tokenizer.encode(text), dtype=np.int64)
        room = self._context - len(tokens)
        if not len(tokens) or room < 1:
            raise BackboneError(
                f"a prompt of {len(tokens)} tokens does not fit {self.name!r}, which reads {self._context}; "
                "use fewer examples or a model with a longer context"
            )
        limit = min(decoding.max_new_tokens, room)
        decoding = Decoding(decoding.temperature, decoding.top_p, limit)
        draws = np.empty(0) if decoding.greedy else sampling.uniforms(request.seed, request.index, text, limit)
        return Job(tokens, decoding, self._stop_rule(prompt), draws)

    def _completion(self, prompt: Prompt, job: Job, ending: Ending, generated: int) -> Completion:
        plain = not prompt.in_chat(self.chat)
        return Completion(ending.text, len(job.tokens), generated, ending.reason, plain=plain)

    def _stop_rule(self, prompt: Prompt) -> StopRule:
        """Stop strings that are special tokens end by id, since the decoder leaves them out of the text."""
        strings = prompt.stops(self.chat)
        ids = {self._special[s] for s in strings if s in self._special}
        texts = tuple(s for s in strings if s not in self._special and s)
        return StopRule(self._tokenizer, self._end_ids | ids, texts)


def _canonical(request: GenerationRequest) -> GenerationRequest:
    """Greedy requests that differ in seed or index only are one."""
    if not request.decoding.greedy:
        return request
    return GenerationRequest(request.prompt, Decoding(0.0, 1.0, request.decoding.max_new_tokens))


def _context_length(config: Any) -> int:
    """Tokens that the model can attend to, prompt and completion together."""
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions"):
        value = getattr(text, key, None)
        if value and not config.is_encoder_decoder:
            return int(value)
    return 1 << 20  # relative positions (T5): no limit of its own
