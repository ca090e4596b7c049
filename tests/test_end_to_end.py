"""The mission's command lines with a real small model: train → evalplus.evaluate → lm_eval → judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptrl_plugin.backbones.models import pull
from promptrl_plugin.errors import BackboneError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODEL = "smollm2-135m-instruct"
BIN = Path(sys.executable).parent
CONFIG = """
limit = 8
validate_every = 1
variants = 1
[env]
budget = 2
max_new_tokens = 96
[ppo]
total_steps = 16
n_envs = 8
n_steps = 2
batch_size = 8
"""


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    for name in (MODEL, "all-minilm-l6-v2"):
        try:
            pull(name)
        except BackboneError as error:
            pytest.skip(f"needs {name}: {error}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from promptrl_plugin.suites.starter import write_evalplus_file

    folder = tmp_path_factory.mktemp("end_to_end")
    write_evalplus_file("test", folder / "all.jsonl")
    lines = (folder / "all.jsonl").read_text().splitlines()[:3]
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(folder: Path, *command: str) -> str:
    env = {**os.environ, "MBPP_OVERRIDE_PATH": str(folder / "tasks.jsonl"), "HF_HUB_OFFLINE": "1"}
    program = [str(BIN / command[0]), *command[1:]]
    done = subprocess.run(program, env=env, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    (folder / "config.toml").write_text(CONFIG)
    run(folder, "promptrl", "train", "--suite", "starter-train", "--model", MODEL, "--dtype", "int8",
        "--config", "config.toml", "--out", "run")  # fmt: skip
    return folder / "run" / "bundle"


def statuses(path: Path) -> dict[str, list[tuple[bool, bool]]]:
    rows = json.loads(path.read_text())["eval"]
    return {t: [(r["base_status"] == "pass", r["plus_status"] == "pass") for r in rs] for t, rs in rows.items()}


def test_evalplus_scores_the_trained_policy_and_promptrl_judge_agrees(folder: Path, bundle: Path):
    out = run(folder, "evalplus.evaluate", "--dataset", "mbpp", "--model", MODEL, "--backend", "hf", "--dtype", "int8",
              "--strategy", "promptrl", "--policy", str(bundle), "--budget", "2")  # fmt: skip
    assert "pass@1" in out
    (results,) = (folder / "evalplus_results" / "mbpp").glob("*_promptrl_*_eval_results.json")
    samples = results.with_name(results.name.replace("_eval_results.json", ".jsonl"))
    assert len(samples.read_text().splitlines()) == 3
    run(folder, "promptrl", "judge", "--suite", "mbpp", "--samples", str(samples), "--out", "judged.json")
    assert statuses(folder / "judged.json") == statuses(results)


def test_lm_eval_runs_the_strategy_on_its_own_model(folder: Path, bundle: Path):
    model = pull(MODEL)
    metadata = json.dumps({"policy": str(bundle), "budget": 2})
    from promptrl_plugin.backbones.loading import locate

    out = run(folder, "lm_eval", "--model", "hf", "--model_args", f"pretrained={locate(model).path},dtype=float32",
              "--tasks", "mbpp_plus_promptrl", "--limit", "2", "--apply_chat_template", "--log_samples",
              "--output_path", "lm_eval_out", "--metadata", metadata)  # fmt: skip
    assert "mbpp_plus_promptrl" in out
    assert "pass_at_1_plus" in out
    assert list((folder / "lm_eval_out").rglob("samples_mbpp_plus_promptrl*.jsonl"))
