"""``promptrl train``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from promptrl_plugin import config as defaults
from promptrl_plugin.cli.console import TrainProgress, console
from promptrl_plugin.errors import ConfigError

__all__ = ["run_training", "train"]


def train(
    model: Annotated[
        str | None, typer.Option(help="Backbone: alias, hub id, folder, .gguf file, or a server's model name.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Train tasks: mbpp-train or starter-train (default: mbpp-train).")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="hf, openai, vllm, ollama, anthropic, google or bedrock.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 or int8.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server.")] = None,
    budget: Annotated[int | None, typer.Option(help="LLM generations an episode may spend.")] = None,
    feedback: Annotated[str | None, typer.Option(help="none or visible: what the agent will see at test.")] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps in all.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only that many train tasks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; options above override it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/<model>-<suite>-seed<seed>).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run folder stopped.")] = False,
) -> None:
    """Train a PPO agent for one frozen backbone and write its policy bundle.

    The run folder holds the resolved configuration, the environment, metrics, TensorBoard logs, the
    learning curve, the last checkpoint and, at the end, the bundle that `--policy` takes.
    """
    base = defaults.load(config) if config is not None else defaults.TrainConfig()
    resolved = _override(
        base, model=model, suite=suite, backend=backend, dtype=dtype, base_url=base_url,
        budget=budget, feedback=feedback, steps=steps, limit=limit, seed=seed,
    )  # fmt: skip
    folder = out or Path("runs") / f"{Path(resolved.backbone).name}-{resolved.suite}-seed{resolved.seed}"
    run_training(resolved, folder, resume=resume)


def run_training(resolved: defaults.TrainConfig, folder: Path, *, resume: bool) -> Path:
    """Train with a progress display; returns the bundle's folder."""
    from promptrl_plugin.agent.parts import build
    from promptrl_plugin.agent.train import train as train_agent
    from promptrl_plugin.storage.runs import RunFolder

    if resume or RunFolder(folder).config_path.exists():
        # refuses, before a model is loaded, to start over in a folder that holds a run
        run = RunFolder.open(folder) if resume else RunFolder.create(folder, resolved)
        resolved = defaults.from_dict(defaults.TrainConfig, run.config())
    command = "promptrl " + shlex.join(sys.argv[1:])
    with TrainProgress() as progress:
        parts = build(resolved, progress, command=command)
        try:
            run = RunFolder.open(folder) if resume else RunFolder.create(folder, resolved)
            console.print(parts.description(), highlight=False)
            result = train_agent(parts, run, progress, resume=resume)
        finally:
            parts.close()
    console.print(f"policy bundle: {result.bundle}", highlight=False, soft_wrap=True)
    console.print(f"learning curve: {result.curve}", highlight=False, soft_wrap=True)
    console.print(f"validation tasks solved by the selected checkpoint: {result.best_validation:.3f}", highlight=False)
    return result.bundle


def _override(base: defaults.TrainConfig, **given: Any) -> defaults.TrainConfig:
    """`base` with the options that were given on the command line."""
    if given["budget"] is not None and given["budget"] < 1:
        raise ConfigError(f"a budget of {given['budget']} generations solves nothing; use --budget 1 or more")
    if given["feedback"] == "oracle":
        raise ConfigError("training already rewards with all tests of the train tasks; use --feedback visible or none")
    top = {"model": "backbone", "suite": "suite", "backend": "backend", "dtype": "dtype", "base_url": "base_url",
           "limit": "limit", "seed": "seed"}  # fmt: skip
    env = {k: given[k] for k in ("budget", "feedback") if given[k] is not None}
    ppo = {"total_steps": given["steps"]} if given["steps"] is not None else {}
    return replace(
        base,
        **{field: given[k] for k, field in top.items() if given[k] is not None},
        env=replace(base.env, **env),
        ppo=replace(base.ppo, **ppo),
    )
