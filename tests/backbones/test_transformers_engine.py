"""The packed decode loop gives what the model's own forward pass gives, however the work is laid out."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import save_causal

from promptrl_plugin.backbones import drafts, engine, packed
from promptrl_plugin.backbones.engine import PackedEngine
from promptrl_plugin.backbones.seq2seq import StaticEngine
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Prompt

END_IDS = (1, 4)  # </s>, <|im_end|>


def plain(text: str, new: int = 32, temperature: float = 0.0, **kwargs: int) -> GenerationRequest:
    return GenerationRequest(Prompt((), "", text), Decoding(temperature, 0.9, new), **kwargs)


def some_prompts(count: int = 14) -> list[str]:
    """Of unequal length; half of them share long prefixes."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdef ", k=rng.randint(1, 50))) for _ in range(count // 2)]
    return words + ["def solve(a, b): # " + w[: 1 + i] for i, w in enumerate(words)]


@functools.cache
def load(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def reference(folder: Path, prompt: str, new: int = 32) -> list[int]:
    """Greedy tokens by whole forward passes over the growing sequence, with transformers' eager attention."""
    model, tok = load(folder)
    ids = tok(prompt, return_tensors="pt").input_ids
    out: list[int] = []
    with torch.inference_mode():
        while len(out) < new and (not out or out[-1] not in END_IDS):
            token = model(ids, use_cache=False).logits[0, -1].argmax()
            out.append(int(token))
            ids = torch.cat([ids, token[None, None]], dim=1)
    return out


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("llama"), chat=False)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("mistral", {"sliding_window": 16}),
        ("gemma2", {"sliding_window": 16, "attn_logit_softcapping": 2.0}),
    ],
)
def test_greedy_equals_the_models_own_forward(kind: str, overrides: dict[str, float], tmp_path: Path) -> None:
    folder = save_causal(tmp_path, chat=False, kind=kind, **overrides)
    prompts = some_prompts(8)
    backbone = TransformersBackbone(folder, dtype="float32", rows=3, pass_tokens=40)
    assert isinstance(backbone._engine, PackedEngine)
    done = backbone.generate([plain(p) for p in prompts])
    for prompt, completion in zip(prompts, done, strict=True):
        tokens = reference(folder, prompt)
        ended = tokens[-1] in END_IDS
        assert completion.text == backbone._tokenizer.decode(tokens, skip_special_tokens=True)
        assert completion.completion_tokens == len(tokens)
        assert completion.prompt_tokens == len(backbone._tokenizer.encode(prompt))
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.plain


@pytest.mark.parametrize(("rows", "pass_tokens"), [(1, 1), (2, 1000), (5, 30), (64, 1), (64, 1000)])
def test_layout_of_the_work_changes_nothing(llama: Path, rows: int, pass_tokens: int) -> None:
    requests = [plain(p, new=5 + 7 * (i % 5)) for i, p in enumerate(some_prompts())]
    alone = [TransformersBackbone(llama, dtype="float32", rows=1).generate([r])[0] for r in requests]
    backbone = TransformersBackbone(llama, dtype="float32", rows=rows, pass_tokens=pass_tokens)
    assert backbone.generate(requests) == alone
    shuffled = random.Random(2).sample(range(len(requests)), len(requests))
    assert backbone.generate([requests[i] for i in shuffled]) == [alone[i] for i in shuffled]


class Trickle:
    """A feed whose requests come up one by one, some passes apart, and the rest once it is waited for."""

    def __init__(self, requests: list[GenerationRequest]) -> None:
        self.requests, self.calls = list(enumerate(requests)), 0
        self.done: dict[int, Completion] = {}

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        self.calls += 1
        return [self.requests.pop(0)] if self.requests and (wait or self.calls % 5 == 0) else []

    def deliver(self, ticket: int, completion: Completion) -> None:
        assert ticket not in self.done
        self.done[ticket] = completion


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_requests_may_come_while_others_run(llama: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_GENEROUS", 128)  # so that a long request has to wait for longer slots
    requests = [plain(p, new=5 + 7 * (i % 5)) for i, p in enumerate(some_prompts())]
    requests.insert(3, plain("abc " * 40, new=9))
    backbone = TransformersBackbone(llama, dtype="float32", rows=rows, pass_tokens=30)
    feed = Trickle(requests)
    backbone.serve(feed)
    fresh = TransformersBackbone(llama, dtype="float32", rows=rows)
    assert [feed.done[i] for i in range(len(requests))] == fresh.generate(requests)


def test_prefixes_of_earlier_calls_are_reused_and_change_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    forward = PackedEngine._forward

    def counting(self: PackedEngine, running: int, segments, copies):  # type: ignore[no-untyped-def]
        computed.append(sum(s.count for s in segments))
        return forward(self, running, segments, copies)

    monkeypatch.setattr(PackedEngine, "_forward", counting)
    first, longer = "def f(x): return x + 1 # " * 4, "def f(x): return x + 1 # " * 4 + "again"
    backbone = TransformersBackbone(llama, dtype="float32", rows=4)
    computed.clear()
    backbone.generate([plain(first)])
    assert sum(computed) == len(first)
    computed.clear()
    again = backbone.generate([plain(longer), plain(first)])
    assert sum(computed) == len("again") + 1  # the last token of `first` is computed anew, for its logits
    fresh = TransformersBackbone(llama, dtype="float32", rows=4)
    assert again == [fresh.generate([plain(longer)])[0], fresh.generate([plain(first)])[0]]


def test_samples_of_one_prompt_read_it_once(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    admit = PackedEngine._admit

    def counting(self: PackedEngine, waiting):  # type: ignore[no-untyped-def]
        segments, copies = admit(self, waiting)
        computed.append(sum(s.count for s in segments))
        return segments, copies

    monkeypatch.setattr(PackedEngine, "_admit", counting)
    backbone = TransformersBackbone(llama, dtype="float32", rows=8)
    computed.clear()
    prompt = "def f(): " * 5
    done = backbone.generate([plain(prompt, temperature=1.0, index=i) for i in range(6)])
    assert sum(computed) == len(prompt) + 5
    assert len({c.text for c in done}) > 1


def test_progress_is_told_once_each_and_as_it_comes(llama: Path) -> None:
    requests = [plain(p, new=3 + 5 * i) for i, p in enumerate(some_prompts(8))] + [plain("same"), plain("same")]
    told: list[tuple[int, Completion]] = []
    done = TransformersBackbone(llama, dtype="float32", rows=2).generate(requests, lambda i, c: told.append((i, c)))
    assert sorted(i for i, _ in told) == list(range(len(requests)))
    assert all(done[i] == c for i, c in told)


def test_an_interrupted_call_leaves_a_usable_backbone(llama: Path) -> None:
    requests = [plain(p, new=4 + 3 * i) for i, p in enumerate(some_prompts(8))]
    backbone = TransformersBackbone(llama, dtype="float32", rows=3)
    wanted = backbone.generate(requests)

    def interrupt(_: int, __: Completion) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backbone.generate(requests, interrupt)
    assert backbone.generate(requests) == wanted


def test_few_slots_where_memory_is_short(llama: Path) -> None:
    requests = [plain(p) for p in some_prompts()]
    per_position = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    short = TransformersBackbone(llama, dtype="float32", cache_bytes=2 * 128 * per_position)
    assert short.generate(requests) == TransformersBackbone(llama, dtype="float32").generate(requests)
    assert len(short._engine._slots) == 2  # type: ignore[union-attr]


def test_another_attention_takes_the_plain_path(tmp_path: Path) -> None:
    """BLOOM adds ALiBi to its scores: the probe finds that packed passes do not give its logits."""
    from tiny_models import _save, tokenizer

    tok = tokenizer(chat=False)
    config = transformers.BloomConfig(
        vocab_size=len(tok), hidden_size=32, n_layer=2, n_head=4, eos_token_id=1, bos_token_id=None, pad_token_id=0
    )
    folder = _save(transformers.BloomForCausalLM, config, tok, tmp_path, seed=0)
    backbone = TransformersBackbone(folder, dtype="float32", rows=3)
    assert isinstance(backbone._engine, StaticEngine)
    prompts = ["abc", "abd", "a long prompt", "abe"]
    for prompt, completion in zip(prompts, backbone.generate([plain(p) for p in prompts]), strict=True):
        assert completion.text == backbone._tokenizer.decode(reference(folder, prompt), skip_special_tokens=True)


def test_sorting_and_grouping_change_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SORT_EVERY", 1)
    monkeypatch.setattr(engine, "_UNLIKE", 0)
    monkeypatch.setattr(engine.kv_cache, "GROUP", 2)
    backbone = TransformersBackbone(llama, dtype="float32", rows=5)
    _, tok = load(llama)
    prompts = some_prompts()
    for prompt, made in zip(prompts, backbone.generate([plain(p) for p in prompts]), strict=True):
        wanted = [t for t in reference(llama, prompt) if t not in END_IDS]
        assert made.text == tok.decode(wanted, skip_special_tokens=True)


def counted_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Drafted tokens of every pass from now on."""
    drafted: list[int] = []
    forward = PackedEngine._forward

    def counting(self: PackedEngine, running: int, segments, copies):  # type: ignore[no-untyped-def]
        drafted.append(sum(len(r.draft) for r in self._rows[:running]))
        return forward(self, running, segments, copies)

    monkeypatch.setattr(PackedEngine, "_forward", counting)
    return drafted


def loaded(folder: Path, temperature: float, **kwargs: int) -> TransformersBackbone:
    """A float32 model; in float64 where it is sampled from, and nothing packed, as oneDNN knows no float64.

    Two tokens may be as likely to eight digits. Which comes first in the nucleus is then up to rounding, so to the CPU.
    """
    backbone = TransformersBackbone(folder, dtype="float32", **kwargs)
    if temperature:
        assert isinstance(backbone._engine, PackedEngine)
        backbone._engine._model.double()
    return backbone


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_nothing_but_the_number_of_passes(
    kind: str, temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {"sliding_window": 16, "attn_logit_softcapping": 2.0} if kind == "gemma2" else {}
    folder = save_causal(tmp_path, chat=False, kind=kind, **overrides)
    requests = [plain(p, new=120, temperature=temperature, index=i % 3) for i, p in enumerate(some_prompts())]
    drafted = counted_passes(monkeypatch)
    if temperature:
        monkeypatch.setattr(packed, "packs", lambda dtype: False)
    without = loaded(folder, temperature, rows=4, slack=0)
    drafted.clear()
    wanted = without.generate(requests)
    assert sum(drafted) == 0
    passes = len(drafted)
    drafting = loaded(folder, temperature, rows=4, slack=12)
    assert drafting.generate(requests) == wanted
    drafted.clear()
    assert drafting.generate(requests) == wanted
    assert len(drafted) < 0.6 * passes, "the second time all of it was written before"
    monkeypatch.setattr(drafts, "_LONG", 10)
    crowded = loaded(folder, temperature, rows=5, slack=3)
    crowded.generate(requests)
    drafted.clear()
    assert crowded.generate(requests) == wanted
    assert sum(drafted) > 0, "more sequences than slack"


def test_what_was_written_before_is_drafted(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drafted = counted_passes(monkeypatch)
    backbone = TransformersBackbone(llama, dtype="float32", rows=1, slack=12)
    request = plain("def solve(a, b): # same", new=60, temperature=1.0)
    drafted.clear()
    first = backbone.generate([request])
    alone, _ = len(drafted), drafted.clear()
    assert backbone.generate([request]) == first
    assert len(drafted) < alone / 2
