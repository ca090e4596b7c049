from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from evalplus.provider.base import DecoderBase
from evalplus.provider.utility import make_raw_chat_prompt

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.evalplus_provider import EvalPlusBackbone, make_decoder
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.prompts.template import CHAT_STOP, INSTRUCTION_PREFIX, RESPONSE_PREFIX
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

TASK = '"""\nAdd two numbers.\nassert add(1, 2) == 3\n"""'
REQUEST = Message("user", f"{INSTRUCTION_PREFIX}\n```\n{TASK}\n```\n")
CODE = Prompt((REQUEST,), f"{RESPONSE_PREFIX}\n```python\n", f"{TASK}\n", CHAT_STOP, ("\nassert",))
TEXT = Prompt((Message("user", "Say it simply."),), "Write a function that", "plain", ("\n",))


class Service(DecoderBase):
    """A chat service, worded as every chat provider of EvalPlus."""

    def __init__(self, reply: str = "ok") -> None:
        super().__init__("svc", instruction_prefix=INSTRUCTION_PREFIX, response_prefix=RESPONSE_PREFIX)
        self.reply = reply
        self.seen: list[dict[str, Any]] = []

    def codegen(self, prompt: str, do_sample: bool = True, num_samples: int = 200) -> list[str]:
        message = self.instruction_prefix + f"\n```python\n{prompt.strip()}\n```"
        self.seen.append(
            {
                "message": message,
                "sample": do_sample,
                "n": num_samples,
                "t": self.temperature,
                "max": self.max_new_tokens,
            }
        )
        return [self.reply]

    def is_direct_completion(self) -> bool:
        return False


class Tokenizer:
    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def apply_chat_template(
        self, turns: list[dict[str, str]], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        return "".join(f"<{t['role']}>{t['content']}</>" for t in turns) + (
            "<assistant>" if add_generation_prompt else ""
        )

    def encode(self, text: str) -> list[str]:
        return text.split()


class Local(DecoderBase):
    """A provider that runs the model itself, as EvalPlus's vllm provider."""

    def __init__(self, chat_template: str | None = "yes") -> None:
        super().__init__("local", instruction_prefix=INSTRUCTION_PREFIX, response_prefix=RESPONSE_PREFIX)
        self.force_base_prompt = False
        self.tokenizer = Tokenizer(chat_template)
        self.seen: list[tuple[str, list[str]]] = []

    def is_direct_completion(self) -> bool:
        return self.force_base_prompt or self.tokenizer.chat_template is None

    def codegen(self, prompt: str, do_sample: bool = True, num_samples: int = 200) -> list[str]:
        if not self.is_direct_completion():
            prompt = make_raw_chat_prompt(prompt, self.instruction_prefix, self.response_prefix, self.tokenizer)
        self.seen.append((prompt, list(self.eos)))
        return ["a b c"]


def request(prompt: Prompt = CODE, temperature: float = 0.0, limit: int = 64) -> GenerationRequest:
    return GenerationRequest(prompt, Decoding(temperature, 0.95, limit))


def test_a_service_gets_what_evalplus_itself_would_send() -> None:
    service = Service()
    service.codegen(f"{TASK}\n", do_sample=False, num_samples=1)
    backbone = EvalPlusBackbone(service, "anthropic")
    assert isinstance(backbone, Backbone)
    assert backbone.chat
    backbone.generate([request()])
    assert service.seen[1]["message"] == service.seen[0]["message"]
    assert service.seen[1] | {"t": None, "max": None} == {
        "message": f"{INSTRUCTION_PREFIX}\n```python\n{TASK}\n```",
        "sample": False,
        "n": 1,
        "t": None,
        "max": None,
    }


def test_decoding_is_set_for_each_request() -> None:
    service = Service()
    EvalPlusBackbone(service, "x").generate([request(temperature=0.8, limit=10), request(limit=20)])
    assert [(s["t"], s["max"], s["sample"]) for s in service.seen] == [(0.8, 10, True), (0.0, 20, False)]


def test_a_request_of_another_form_is_the_whole_message() -> None:
    service = Service("Write a function that adds.\nAnd more.")
    done = EvalPlusBackbone(service, "x").generate([request(TEXT)])[0]
    assert service.seen[0]["message"] == "Say it simply."  # no empty code fence after it
    assert done.text == " adds."


def test_several_turns_become_one_message_and_leave_no_trace() -> None:
    service = Service()
    shown = (Message("user", f"{INSTRUCTION_PREFIX}\n```\nshown\n```\n"), Message("assistant", "its answer"))
    turns = Prompt((*shown, REQUEST), CODE.prefix, "", CHAT_STOP)
    EvalPlusBackbone(service, "x").generate([request(turns), request()])
    message = service.seen[0]["message"]
    assert message == (
        f"{INSTRUCTION_PREFIX}\n```python\nshown\n```\n\nits answer\n\n{INSTRUCTION_PREFIX}\n```python\n{TASK}\n```"
    )
    assert service.seen[1]["message"] == f"{INSTRUCTION_PREFIX}\n```python\n{TASK}\n```"


def test_a_local_model_reads_exactly_evalplus_prompt() -> None:
    plain_evalplus, ours = Local(), Local()
    plain_evalplus.codegen(f"{TASK}\n")
    backbone = EvalPlusBackbone(ours, "vllm", "bfloat16")
    assert backbone.chat
    done = backbone.generate([request()])[0]
    assert ours.seen[0][0] == plain_evalplus.seen[0][0]
    assert ours.seen[0][1] == list(CHAT_STOP)
    assert (done.text, done.completion_tokens, done.prompt_tokens) == ("a b c", 3, len(ours.seen[0][0].split()))
    assert backbone.fingerprint == "local@evalplus-vllm/bfloat16"


def test_a_local_model_takes_prompts_of_any_form() -> None:
    local = Local()
    EvalPlusBackbone(local, "vllm").generate([request(TEXT)])
    assert local.seen[0] == ("<user>Say it simply.</><assistant>Write a function that", ["\n"])


def test_a_local_model_without_a_template_completes_the_plain_form() -> None:
    local = Local(chat_template=None)
    backbone = EvalPlusBackbone(local, "vllm")
    assert not backbone.chat
    done = backbone.generate([request()])[0]
    assert done.plain
    assert local.seen[0] == (f"{TASK}\n", ["\nassert"])


def test_tokens_nobody_counts_are_estimated_and_a_cut_is_noticed() -> None:
    done = EvalPlusBackbone(Service("x" * 400), "x").generate([request(limit=100)])[0]
    assert (done.completion_tokens, done.finish_reason) == (100, "length")
    assert EvalPlusBackbone(Service("x" * 40), "x").generate([request(limit=100)])[0].finish_reason == "stop"


def test_evalplus_prints_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    class Talks(Service):
        def codegen(self, prompt: str, do_sample: bool = True, num_samples: int = 200) -> list[str]:
            print("Rate limit exceeded. Waiting...")  # noqa: T201
            return super().codegen(prompt, do_sample, num_samples)

    talks = Talks()
    capsys.readouterr()
    EvalPlusBackbone(talks, "x").generate([request()])
    assert capsys.readouterr().out == ""


def test_a_failing_provider_keeps_what_was_done() -> None:
    class Fails(Service):
        def codegen(self, prompt: str, do_sample: bool = True, num_samples: int = 200) -> list[str]:
            if self.seen:
                raise RuntimeError("quota\nexceeded")
            return super().codegen(prompt, do_sample, num_samples)

    seen: list[int] = []
    with pytest.raises(BackboneError, match=r"provider of svc failed \(quota exceeded\)"):
        EvalPlusBackbone(Fails(), "x").generate([request(), request()], lambda i, c: seen.append(i))
    assert seen == [0]


def test_closed() -> None:
    backbone = EvalPlusBackbone(Service(), "x")
    backbone.close()
    backbone.close()
    with pytest.raises(BackboneError, match="is closed"):
        backbone.generate([request()])


# --- make_decoder --------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "key"), [("anthropic", "ANTHROPIC_KEY"), ("google", "GOOGLE_API_KEY")])
def test_a_missing_key_is_found_before_evalplus_retries_for_ever(
    backend: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(key, raising=False)
    with pytest.raises(BackboneError, match=f"needs {key}; set that environment variable"):
        make_decoder("m", backend)


def test_a_real_provider_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anthropic")
    monkeypatch.setenv("ANTHROPIC_KEY", "none")
    decoder = make_decoder("claude", "anthropic")
    assert decoder.instruction_prefix == INSTRUCTION_PREFIX
    assert EvalPlusBackbone(decoder, "anthropic").fingerprint == "claude@evalplus-anthropic"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "evalplus.provider.vllm", raising=False)
    with pytest.raises(BackboneError, match="backend vllm needs the package vllm: pip install vllm"):
        make_decoder("m", "vllm")


def test_dtype_reaches_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    fake = ModuleType("evalplus.provider.vllm")
    fake.VllmDecoder = lambda **options: given.append(options["dtype"]) or SimpleNamespace()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evalplus.provider.vllm", fake)
    make_decoder("m", "vllm")
    make_decoder("m", "vllm", dtype="float16")
    assert given == ["bfloat16", "float16"]


def test_a_provider_that_this_evalplus_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match=r"evalplus \S+ has no backend nonesuch.*--backend openai"):
        make_decoder("m", "nonesuch")
