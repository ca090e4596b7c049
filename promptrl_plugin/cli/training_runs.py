"""Training runs on the terminal: one, or several side by side, begun or gone on with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from promptrl_plugin import config as defaults
from promptrl_plugin.cli.console import TrainProgress, console
from promptrl_plugin.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from promptrl_plugin.agent.progress import TrainResult
    from promptrl_plugin.suites.base import Suite

__all__ = ["run_training", "run_trainings"]


def run_training(resolved: defaults.TrainConfig, folder: Path, *, resume: bool) -> Path:
    """Train with a progress display; returns the bundle's folder.

    Raises:
        UnknownNameError: There is no such learner or suite.
        ConfigError: The suite is one that is evaluated, or the feedback would be oracle.
        DataError: It has no data, or no task that can train.
    """
    return run_trainings([(resolved, folder)], resume=resume)[0]


def _as_typed(words: Sequence[str], _run: defaults.TrainConfig) -> str:
    return "promptrl " + shlex.join(words)


def run_trainings(
    runs: Sequence[tuple[defaults.TrainConfig, Path]],
    *,
    resume: bool,
    command: Callable[[Sequence[str], defaults.TrainConfig], str] = _as_typed,
) -> list[Path]:
    """As `run_training`, several side by side; `command` makes of what was typed and a run what its bundle says."""
    from promptrl_plugin.agent.parts import build
    from promptrl_plugin.agent.side_by_side import SharedParts, run_side_by_side
    from promptrl_plugin.agent.train import train as train_agent
    from promptrl_plugin.storage.runs import RunFolder

    checked = [_checked(resolved, folder, resume=resume) for resolved, folder in runs]  # before a model is loaded
    several, alike = len(runs) > 1, len({config.learner for config, _, _ in checked}) == 1
    with TrainProgress() as progress, ExitStack() as opened:
        shared = opened.enter_context(SharedParts()) if several else None
        trainings: list[Callable[[], TrainResult]] = []
        for (config, begun, suite), (_, folder) in zip(checked, runs, strict=True):
            which = f"seed {config.seed}" if alike else f"{config.learner}, seed {config.seed}"
            listener = TrainProgress(which, progress) if several else progress
            parts = build(config, listener, command=command(sys.argv[1:], config), suite=suite, shared=shared)
            opened.callback(parts.close)
            run = RunFolder.open(folder) if begun else RunFolder.create(folder, config)
            console.print(parts.description(), highlight=False)
            trainings.append(partial(train_agent, parts, run, listener, resume=resume))
        results = run_side_by_side(trainings, shared) if shared is not None else [trainings[0]()]
    for result in results:
        console.print(f"policy bundle: {result.bundle}", highlight=False, soft_wrap=True)
        console.print(f"learning curve: {result.curve}", highlight=False, soft_wrap=True)
        if result.learned:
            console.print(result.learned, highlight=False, markup=False, soft_wrap=True)
        console.print(f"validation tasks solved by what was selected: {result.best_validation:.3f}", highlight=False)
    return [result.bundle for result in results]


def _checked(resolved: defaults.TrainConfig, folder: Path, *, resume: bool) -> tuple[defaults.TrainConfig, bool, Suite]:
    """Whether a run can begin or go on: its settings, whether it was begun, and the suite of its tasks."""
    from promptrl_plugin.storage.runs import RunFolder, changed_settings
    from promptrl_plugin.suites.registry import load_train_suite

    if resolved.env.feedback == "oracle":
        raise ConfigError("training already rewards with all tests of the train tasks; use feedback visible or none")
    if resolved.learner not in defaults.LEARNED.values():
        raise UnknownNameError("learner", resolved.learner, defaults.LEARNED.values())
    begun = RunFolder(folder).config_path.exists()
    if begun:
        # refuses to start over in a folder that holds a run
        run = RunFolder.open(folder) if resume else RunFolder.create(folder, resolved)
        begun_with = defaults.from_dict(defaults.TrainConfig, run.config())
        if other := changed_settings(defaults.to_dict(begun_with), defaults.to_dict(resolved)):
            more = f" and {len(other) - 6} more" if len(other) > 6 else ""
            console.print(
                f"{folder} goes on with the settings that it was begun with; these would differ: "
                f"{', '.join(other[:6])}{more}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        resolved = begun_with
    elif resume:
        console.print(f"{folder} holds no run yet: beginning one", highlight=False, soft_wrap=True)
    return resolved, begun, load_train_suite(resolved.suite)
