"""Finding, identifying and rendering for models of transformers."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
from tiny_models import save_causal, tokenizer

from promptrl_plugin.backbones import chat, gguf, loading
from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

TURN = (Message("user", "Solve this."),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("models") / "Tiny-Llama")


def test_it_is_a_backbone(folder: Path) -> None:
    backbone = TransformersBackbone(folder, dtype="float32")
    assert isinstance(backbone, Backbone)
    assert backbone.name == "Tiny-Llama"
    assert backbone.chat
    assert backbone.generate([]) == []
    backbone.close()
    backbone.close()
    with pytest.raises(BackboneError, match="closed"):
        backbone.generate([])


def test_fingerprint_tells_weights_and_dtype_apart(folder: Path, tmp_path: Path) -> None:
    one = TransformersBackbone(folder, dtype="float32").fingerprint
    assert one.startswith("tiny-llama@")
    assert one.endswith("/float32")
    assert TransformersBackbone(folder, dtype="bfloat16").fingerprint != one
    other = save_causal(tmp_path / "Tiny-Llama", seed=1)
    assert TransformersBackbone(other, dtype="float32").fingerprint != one
    assert TransformersBackbone(folder, name="n", fingerprint="given", dtype="float32").fingerprint == "given"


def test_chat_prompts_are_rendered_as_evalplus_does(folder: Path) -> None:
    from evalplus.provider.utility import make_raw_chat_prompt

    tok, prefix = tokenizer(chat=True), "Here it is:"
    task = '"""\nWrite a function.\nassert f(1) == 2\n"""\n'
    prompt = Prompt((Message("user", f"Do it\n```\n{task.strip()}\n```\n"),), f"{prefix}\n```python\n", task)
    assert chat.render(tok, prompt) == make_raw_chat_prompt(task, "Do it", prefix, tok)


def test_without_a_prefix_the_assistants_turn_is_opened() -> None:
    text = chat.render(tokenizer(chat=True), Prompt(TURN, "", ""))
    assert text == "<|im_start|>user\nSolve this.<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_without_system_turn_gets_it_with_the_first_user_turn() -> None:
    text = chat.render(tokenizer(chat=True), Prompt((Message("system", "Be brief."), *TURN), "", ""))
    assert text == "<|im_start|>user\nBe brief.\n\nSolve this.<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_refuses_says_so() -> None:
    tok = tokenizer(chat=True)
    tok.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BackboneError, match="roles must alternate"):
        chat.render(tok, Prompt(TURN, "", ""))


@pytest.mark.parametrize("model", ["/no/such/folder", "./no.gguf", "~/no_such_folder_here"])
def test_no_such_path(model: str) -> None:
    with pytest.raises(BackboneError, match=r"no such .*promptrl models list"):
        TransformersBackbone(model)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"cannot load model 'nobody/nothing'.*promptrl models pull"):
        TransformersBackbone("nobody/nothing")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no config\.json"):
        TransformersBackbone(tmp_path)


def test_code_from_a_repository_is_not_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BackboneError, match="does not run"):
        TransformersBackbone(tmp_path)


def test_torn_weights(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    with pytest.raises(BackboneError, match="cannot load model"):
        TransformersBackbone(tmp_path)


def test_unknown_dtype(folder: Path) -> None:
    with pytest.raises(BackboneError, match="unknown dtype 'int4'; one of: auto"):
        TransformersBackbone(folder, dtype="int4")


def test_a_prompt_longer_than_the_context(folder: Path) -> None:
    backbone = TransformersBackbone(folder, dtype="float32")
    long = GenerationRequest(Prompt((Message("user", "x" * 600),), "", ""), Decoding())
    with pytest.raises(BackboneError, match="does not fit 'Tiny-Llama', which reads 512"):
        backbone.generate([long])


def test_what_is_left_of_the_context_bounds_the_completion(folder: Path) -> None:
    backbone = TransformersBackbone(folder, dtype="float32")
    done = backbone.generate([GenerationRequest(Prompt((Message("user", "x" * 440),), "", ""), Decoding())])[0]
    assert done.prompt_tokens + done.completion_tokens <= 512
    assert done.finish_reason == "stop" or done.prompt_tokens + done.completion_tokens == 512


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransformersBackbone(folder, dtype="float32")
    assert capfd.readouterr() == ("", "")


def test_a_files_hash_is_noted_and_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    first = gguf.sha256_of(file)
    assert gguf.sha256_of(file) == first
    assert (tmp_path / "model.gguf.sha256").read_text() == f"{first}  model.gguf\n"
    file.write_bytes(b"two")
    later = (tmp_path / "model.gguf.sha256").stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    assert gguf.sha256_of(file) != first


def test_a_file_that_is_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"not a model at all")
    with pytest.raises(BackboneError, match="cannot read"):
        loading.locate(tmp_path / "model.gguf")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
