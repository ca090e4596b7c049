from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import harness_doubles as doubles
import pytest

from promptrl_plugin.harnesses.lm_backbone import LMEvalBackbone, model_name
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

MESSAGES = (Message("user", "Add."),)
PROMPT = Prompt(MESSAGES, "Sure:\n```python\n", "def add(a, b):\n", ("\n```\n", "</s>"), ("\nassert",))
HOT = Decoding(0.8, 0.95, 64)


def backbone(lm: Any, **kwargs: Any) -> LMEvalBackbone:
    return LMEvalBackbone(lm, "some/Model-1B", **{"chat": True, **kwargs})


def test_equal_greedy_requests_are_asked_once() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "x")
    one = backbone(lm)
    request = GenerationRequest(PROMPT, Decoding())
    assert [c.text for c in one.generate([request, request])] == ["x", "x"]
    one.generate([GenerationRequest(PROMPT, Decoding(), seed=5, index=3)])  # greedy: seed and index do not count
    assert [len(call) for call in lm.calls] == [1]


def test_draws_are_different_requests() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "x")
    backbone(lm).generate([GenerationRequest(PROMPT, HOT, 0, i) for i in range(3)])
    (call,) = lm.calls
    assert len(call) == 3
    assert call[0][1] == {
        "until": ["\n```\n", "</s>"],
        "max_gen_toks": 64,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def test_sampling_is_reproducible_and_depends_on_the_seed() -> None:
    import torch

    def run(seed: int) -> list[str]:
        lm = doubles.rule_lm(lambda _c, _k: str(torch.rand(1).item()))
        done = backbone(lm).generate([GenerationRequest(PROMPT, HOT, seed, i) for i in range(2)])
        return [c.text for c in done]

    assert run(0) == run(0)
    assert run(0) != run(1)
    assert len(set(run(0))) == 2


def test_a_server_gets_one_seed_a_draw() -> None:
    class TemplateAPI:  # lm-eval's base class of clients, by name
        def __init__(self) -> None:
            self.seeds: list[int] = []

        def apply_chat_template(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return str(history)

        def generate_until(self, requests: list[Any]) -> list[str | None]:
            self.seeds += [r.args[1]["seed"] for r in requests]
            return [None for _ in requests]  # what lm-eval returns for a failed request

    lm = TemplateAPI()
    done = backbone(lm).generate([GenerationRequest(PROMPT, HOT, 0, i) for i in range(2)])
    assert len(set(lm.seeds)) == 2
    assert [c.text for c in done] == ["", ""]
    assert not backbone(lm).completes, "a server of chats takes turns only"


def test_stop_strings_and_length() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "a b\n```\nmore")
    (done,) = backbone(lm).generate([GenerationRequest(PROMPT, Decoding(max_new_tokens=9))])
    assert (done.text, done.completion_tokens, done.finish_reason, done.plain) == ("a b", 2, "stop", False)
    lm = doubles.rule_lm(lambda _c, _k: "a b c")
    (done,) = backbone(lm).generate([GenerationRequest(PROMPT, Decoding(max_new_tokens=3))])
    assert done.finish_reason == "length"


def test_forms_of_the_prompt() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "x")
    assert backbone(lm).context(PROMPT) == "<user>Add.<assistant>Sure:\n```python\n"
    open_turn = Prompt((Message("user", "Hi"),), "", "")
    assert backbone(lm).context(open_turn) == "<user>Hi<assistant>"
    (done,) = backbone(lm, chat=False).generate([GenerationRequest(PROMPT, Decoding())])
    assert done.plain
    assert lm.calls[-1][0][0] == "def add(a, b):\n"
    assert lm.calls[-1][0][1]["until"] == ["\nassert"]
    assert backbone(lm).completes
    (done,) = backbone(lm).generate([GenerationRequest(replace(PROMPT, messages=()), Decoding())])
    assert done.plain
    assert lm.calls[-1][0][0] == "def add(a, b):\n"
    assert lm.calls[-1][0][1]["until"] == ["\nassert"]


def test_remembered_first_pass() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "asked")
    one = backbone(lm)
    request = GenerationRequest(PROMPT, Decoding())
    kwargs = one.gen_kwargs(PROMPT, request.decoding)
    one.remember("first pass", one.context(PROMPT), kwargs)
    assert one.generate([request])[0].text == "first pass"
    one.remember("other length", one.context(PROMPT), {**kwargs, "max_gen_toks": 5})
    assert one.generate([request])[0].text == "first pass"


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "qwen2.5-coder-0.5b-instruct@"),
        ("/cache/smollm2-135m-instruct-0123456789ab", "smollm2-135m-instruct@0123456789ab/"),
    ],
)
def test_fingerprint_names_the_model_as_promptrl_does(name: str, fingerprint: str) -> None:
    lm = doubles.rule_lm(lambda _c, _k: "")
    assert LMEvalBackbone(lm, name, chat=True).fingerprint.startswith(fingerprint)


def test_a_converted_file_goes_by_the_name_of_its_model() -> None:
    lm = doubles.rule_lm(lambda _c, _k: "")
    assert LMEvalBackbone(lm, "/cache/smollm2-135m-instruct-0123456789ab", chat=True).name == "smollm2-135m-instruct"


def test_fingerprint_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    lm = doubles.rule_lm(lambda _c, _k: "")
    prints = set()
    for layers in (1, 2):
        (tmp_path / "config.json").write_text(f'{{"layers": {layers}}}')
        prints.add(LMEvalBackbone(lm, str(tmp_path), chat=True).fingerprint)
    assert len(prints) == 2


def test_model_name() -> None:
    class Engine:
        model_args = {"model": "org/vllm-model"}  # noqa: RUF012
        model = object()

    class Client:
        model = "served"

    class Wrapped:
        lm = Client()

    assert [model_name(m) for m in (Engine(), Client(), Wrapped(), object())] == [
        "org/vllm-model",
        "served",
        "served",
        "object",
    ]
