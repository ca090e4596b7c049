"""An encoder-decoder model goes the whole way: training, every strategy, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_seq2seq

from promptrl_plugin.agent import parts, setup
from promptrl_plugin.cli import main as cli
from promptrl_plugin.evaluation.results import load_results
from promptrl_plugin.suites.starter import write_evalplus_file

CONFIG = """
suite = "starter-train"
limit = 8
dtype = "float32"
variants = 1
operators = ["generate", "sample_hot", "synonym_light", "contract"]
[env]
budget = 2
embedding_dim = 4
max_new_tokens = 12
[ppo]
total_steps = 16
n_envs = 8
n_steps = 2
batch_size = 8
n_epochs = 1
[judge]
workers = 1
"""


@pytest.mark.slow
def test_a_t5_is_trained_for_evaluated_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptrl_plugin.backbones.transformers import TransformersBackbone

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[len(t) % 7, len(t) % 5, t.count("e"), t.count("a"), 1.0] for t in texts], dtype=np.float32)

    for module in (parts, setup):
        monkeypatch.setattr(module, "load_embedder", lambda name, cache: embed)
    original = TransformersBackbone.generate
    seen: list[int] = []

    def counted(self: TransformersBackbone, requests, on_progress=None):  # type: ignore[no-untyped-def]
        seen.append(len(requests))
        return original(self, requests, on_progress)

    monkeypatch.setattr(TransformersBackbone, "generate", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    save_seq2seq(tmp_path / "t5")
    # What a random model writes has no end, so two tasks will do.
    write_evalplus_file("test", tmp_path / "all.jsonl")
    Path("two.jsonl").write_text("\n".join(Path("all.jsonl").read_text().splitlines()[:2]) + "\n")
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(tmp_path / "two.jsonl"))
    Path("t5.toml").write_text(CONFIG)
    monkeypatch.setattr("sys.argv", [
        "promptrl", "reproduce", "--backbone", "t5", "--suite", "mbpp", "--config", "t5.toml",
        "--seeds", "0", "--learners", "", "--out", "all",
    ])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    results = load_results(tmp_path / "all" / "compare")
    assert {o.task_id for o in results["promptrl-s0"]} == {o.task_id for o in results["direct-s0"]}
    assert all(o.completion_tokens > 0 for o in results["direct-s0"])
    assert sum(seen) > 16
