"""The decode loop of encoder-decoder models, and of causal models that packed passes cannot serve.

Batches are fixed, and shrink as rows end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from promptrl_plugin.backbones.jobs import Job, OnFinish
from promptrl_plugin.backbones.kv_cache import cache_argument
from promptrl_plugin.backbones.sampling import choose

__all__ = ["StaticEngine"]


class StaticEngine:
    """Runs batches of jobs through a model's own cache.

    An encoder-decoder model reads prompts of any length, padded on the right and masked. A causal model
    gets batches of prompts of the same length, which need no mask: this path is for architectures with an
    attention or a state of their own, whose handling of padding is not known.

    Args:
        model: A model of transformers.
        rows: Sequences in a batch.
        pad_id: What fills the encoder's input.
    """

    def __init__(self, model: Any, rows: int, pad_id: int) -> None:
        self._model, self._rows, self._pad_id = model, rows, pad_id
        self._cache_argument = cache_argument(model)

    def run(self, jobs: Sequence[Job], on_finish: OnFinish) -> None:
        with torch.inference_mode():
            for batch in self._batches(jobs):
                self._run(batch, on_finish)

    def _batches(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        by_length = sorted(jobs, key=lambda j: len(j.tokens))
        same_length = itertools.groupby(by_length, key=lambda j: len(j.tokens))
        groups = [by_length] if self._model.config.is_encoder_decoder else [list(group) for _, group in same_length]
        for group in groups:
            for first in range(0, len(group), self._rows):
                yield group[first : first + self._rows]

    def _run(self, batch: Sequence[Job], on_finish: OnFinish) -> None:
        """Decode one batch to its end."""
        inputs, feed = self._start(batch)
        live = [(job, list[int]()) for job in batch]
        while live:
            out = self._model(**inputs, use_cache=True)
            inputs[self._cache_argument] = out.past_key_values
            draws = [float(job.draws[len(done)]) if len(job.draws) else 0.0 for job, done in live]
            tokens = choose(out.logits[:, -1], [job.decoding for job, _ in live], draws)
            going = []
            for i, ((job, done), token) in enumerate(zip(live, tokens, strict=True)):
                done.append(token)
                ending = job.stop.check(done, job.decoding.max_new_tokens)
                if ending is None:
                    going.append(i)
                else:
                    on_finish(job, ending, len(done))
            if len(going) < len(live):
                live = [live[i] for i in going]
                self._keep(inputs, going)
            inputs[feed] = self._tensor([[done[-1]] for _, done in live])

    def _start(self, batch: Sequence[Job]) -> tuple[dict[str, Any], str]:
        """Inputs of the first pass, and the name of the one that takes each new token."""
        if not self._model.config.is_encoder_decoder:
            return {"input_ids": self._tensor(np.stack([j.tokens for j in batch])), "logits_to_keep": 1}, "input_ids"
        longest = max(len(j.tokens) for j in batch)
        padded = [np.pad(j.tokens, (0, longest - len(j.tokens)), constant_values=self._pad_id) for j in batch]
        mask = self._tensor([[int(i < len(j.tokens)) for i in range(longest)] for j in batch])
        encoded = self._model.get_encoder()(input_ids=self._tensor(np.stack(padded)), attention_mask=mask)
        start = [[self._start_id()]] * len(batch)
        inputs = {"encoder_outputs": encoded, "attention_mask": mask, "decoder_input_ids": self._tensor(start)}
        return inputs, "decoder_input_ids"

    def _start_id(self) -> int:
        """First token of the decoder."""
        for config in (self._model.generation_config, self._model.config):
            for key in ("decoder_start_token_id", "bos_token_id"):
                if (token := getattr(config, key, None)) is not None:
                    return int(token)
        return self._pad_id

    def _keep(self, inputs: dict[str, Any], rows: list[int]) -> None:
        """Drop all but `rows` from what the next pass reads."""
        if not rows:
            return
        index = self._tensor(rows)
        inputs[self._cache_argument].batch_select_indices(index)
        if "encoder_outputs" in inputs:
            inputs["attention_mask"] = inputs["attention_mask"][index]
            encoded = inputs["encoder_outputs"]
            encoded["last_hidden_state"] = encoded["last_hidden_state"][index]

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=self._model.device)
