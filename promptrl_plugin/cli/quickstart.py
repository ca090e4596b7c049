"""``promptrl quickstart``: the whole path on a laptop, scored by the harness's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from promptrl_plugin.cli.console import console
from promptrl_plugin.cli.training_runs import run_training
from promptrl_plugin.config import DEFAULT_BACKBONE, EnvConfig, PPOConfig, TrainConfig, WarmStartConfig
from promptrl_plugin.errors import HarnessError

__all__ = ["quickstart"]

#: Small enough for ten minutes on two cores; the defaults of `promptrl train` are for real runs.
_PPO = PPOConfig(total_steps=256, n_envs=32, n_steps=4, batch_size=32, replays=4, learning_rate=1e-3)
_OPERATORS = ("generate", "sample_warm", "sample_hot", "complete", "contract", "fixed_examples", "nearest_examples")
#: So little training cannot order operators: it begins near a sensible sequence, whose first program is that of direct.
_SEQUENCE = ("generate", "fixed_examples", "nearest_examples", "sample_warm")
_BUDGET = 4


def quickstart(
    model: Annotated[str, typer.Option(help="Backbone to train for.")] = DEFAULT_BACKBONE,
    out: Annotated[Path, typer.Option(help="Folder of the run and its results.")] = Path("runs/quickstart"),
) -> None:
    """Train on the starter suite's train tasks, then score its test tasks with evalplus.evaluate.

    Runs `evalplus.evaluate --strategy promptrl` and `--strategy direct` on tasks that never trained, and
    prints both. Needs no benchmark data; the model comes from the hub or from the package index.
    """
    from promptrl_plugin.backbones.loading import pick_device

    dtype = "int8" if pick_device("auto") == "cpu" else "auto"
    config = TrainConfig(
        suite="starter-train", backbone=model, dtype=dtype, ppo=_PPO, validate_every=2, variants=1,
        operators=_OPERATORS, warm_start=WarmStartConfig(sequence=_SEQUENCE, steps=128),
        env=EnvConfig(budget=_BUDGET, max_new_tokens=256),
    )  # fmt: skip
    train_folder = out / "train"
    bundle = train_folder / "bundle"
    if not bundle.is_dir():
        run_training(config, train_folder, resume=(train_folder / "config.json").exists())
    tasks = _write_tasks(out / "starter_test.jsonl")
    rows = {name: _evaluate(name, model, dtype, bundle, tasks, out) for name in ("direct", "promptrl")}
    console.print()
    console.print("starter test tasks, scored by evalplus.evaluate (pass@1, per cent):")
    for name, (base, plus) in rows.items():
        console.print(f"  {name:10s} base {100 * base:5.1f}   base + plus {100 * plus:5.1f}", highlight=False)
    console.print(
        "30 tasks and one seed: a difference below about 15 points is within chance. "
        "`promptrl train --suite mbpp-train` is the real thing.",
        highlight=False,
    )


def _write_tasks(path: Path) -> Path:
    from promptrl_plugin.suites.starter import write_evalplus_file

    path.parent.mkdir(parents=True, exist_ok=True)
    write_evalplus_file("test", path)
    return path


def _evaluate(strategy: str, model: str, dtype: str, bundle: Path, tasks: Path, out: Path) -> tuple[float, float]:
    """Run evalplus.evaluate in a process of its own, as a user would; returns base and plus pass@1."""
    root = out / "evalplus_results"
    command = [
        sys.executable, "-m", "evalplus.evaluate", "--dataset", "mbpp", "--model", model, "--backend", "hf",
        "--dtype", dtype, "--strategy", strategy, "--budget", str(_BUDGET), "--root", str(root),
    ]  # fmt: skip
    if strategy == "promptrl":
        command += ["--policy", str(bundle)]
    console.print(f"$ {' '.join(['evalplus.evaluate', *command[3:]])}", highlight=False, soft_wrap=True)
    before = set(root.rglob("*_eval_results.json"))
    done = subprocess.run(command, env={**os.environ, "MBPP_OVERRIDE_PATH": str(tasks.resolve())}, check=False)
    if done.returncode != 0:
        raise HarnessError(f"evalplus.evaluate ended with code {done.returncode}; its output above tells why")
    results = set(root.rglob(f"*_{strategy}_*_eval_results.json"))
    path = max(results - before or results, key=lambda p: p.stat().st_mtime)
    rows = [r for task in json.loads(path.read_text())["eval"].values() for r in task]
    base = [r["base_status"] == "pass" for r in rows]
    plus = [b and r["plus_status"] == "pass" for b, r in zip(base, rows, strict=True)]
    return sum(base) / len(rows), sum(plus) / len(rows)
