"""A real model: GGUF conversion, int8 quality, and EvalPlus's prompts."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

pytestmark = pytest.mark.integration

SHARED = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).parents[3] / "shared")
DATA = SHARED / "data" / "MbppPlus.jsonl.gz"


@pytest.fixture(scope="module")
def gguf() -> Path:
    from promptrl_plugin.backbones.models import pull

    try:
        path = pull("smollm2-135m-instruct")
    except BackboneError as error:
        pytest.skip(f"needs smollm2-135m-instruct: {error}")
    if path.suffix != ".gguf":
        pytest.skip(f"{path} is the hub's release, which is no GGUF file")
    return path


def requests(count: int) -> list[GenerationRequest]:
    """EvalPlus's chat prompts of the first MBPP+ tasks."""
    if not DATA.is_file():
        pytest.skip(f"no {DATA}; set PROMPTRL_SHARED to the folder of the shared data")
    with gzip.open(DATA, "rt") as lines:
        tasks = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    ask = "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
    return [
        GenerationRequest(
            Prompt(
                (Message("user", f"{ask}\n```\n{t['prompt'].strip()}\n```\n"),),
                "Below is a Python script with a self-contained function that solves the problem and passes "
                "corresponding tests:\n```python\n",
                t["prompt"],
                ("\nif __name__", "\ndef main(", "\nprint(", "\n```\n"),
            ),
            Decoding(max_new_tokens=48),
        )
        for t in tasks
    ]


def test_gguf_is_converted_once(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    first = TransformersBackbone(gguf, dtype="float32")
    (folder,) = (tmp_path / "models").iterdir()
    assert first.fingerprint == f"{folder.name.rsplit('-', 1)[0]}@{folder.name.rsplit('-', 1)[1]}/float32"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    batch = requests(4)
    done = first.generate(batch)
    assert all("def " in c.text for c in done)
    again = TransformersBackbone(gguf, dtype="float32")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [again.generate([r])[0].text for r in batch] == [c.text for c in done]
