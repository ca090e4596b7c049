"""``promptrl reproduce``: one cell of the paper's matrix, from training to the report."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from promptrl_plugin.cli.compare import compare
from promptrl_plugin.cli.console import console
from promptrl_plugin.cli.evaluate import (
    Backend,
    BaseUrl,
    Budget,
    Dtype,
    Protocol,
    RayAddress,
    joined_urls,
    seed_numbers,
)
from promptrl_plugin.cli.report import report
from promptrl_plugin.cli.training import learner_names, like_run, under
from promptrl_plugin.cli.training_runs import run_trainings
from promptrl_plugin.config import DEFAULT_SUITE, LEARNED, PROTOCOLS, TrainConfig, load, recipes
from promptrl_plugin.errors import ConfigError

__all__ = ["Plan", "Step", "reproduce"]

_LAST = "bundle/manifest.json"  # of a run folder that is finished
_UNTRAINED = ("direct", "best-of-k", "greedy-best-of-k", "random-hybrid", "epic", "reflexion")


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a reproduction.

    Attributes:
        command: What does the same by hand.
        generations: At most so many LLM generations.
        done: Whether it need not be run (again).
        run: Runs it, or goes on with it; not of a training.
        training: Of a training, its run folder and what makes its settings, once what it depends on is done.
        stage: Trainings of one stage do not depend on each other: they run side by side.
    """

    command: str
    generations: int
    done: bool
    run: Callable[[], Any] | None = None
    training: tuple[Path, Callable[[], TrainConfig]] | None = None
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reproduction trains, evaluates and reports.

    Attributes:
        config: Settings of PPO's runs, but for the seed.
        suite: What is evaluated.
        protocol: One of `config.PROTOCOLS`.
        seeds: Of training and sampling.
        budget: LLM generations per task.
        learners: Strategies that are trained beside `promptrl`, each on the tasks and at the train generations of
            the run of the same seed.
        out: Folder of everything.
        recipe: What `config` was read from, as ``--config`` takes it; empty for the defaults.
        ray: Address of a Ray cluster that does it, None for this machine.
    """

    config: TrainConfig
    suite: str
    protocol: str
    seeds: tuple[int, ...]
    budget: int
    learners: tuple[str, ...]
    out: Path
    recipe: str = ""
    ray: str | None = None

    def folder(self, strategy: str, seed: int | str) -> Path:
        """Run folder of a training; ``{seed}`` for all of a strategy."""
        return self.out / "train" / f"{strategy}-seed{seed}"

    def steps(self) -> list[Step]:
        """In order; every step goes on where an earlier call of it was broken off.

        Raises:
            DataError: The suite's data is not at hand.
        """
        trained = [self._train(seed) for seed in self.seeds]
        trained += [self._learn(learner, seed) for seed in self.seeds for learner in self.learners]
        return [*trained, self._compare(), self._report()]

    def _train(self, seed: int) -> Step:
        folder, config = self.folder("promptrl", seed), replace(self.config, seed=seed)
        given = {"suite": config.suite, **({"config": self.recipe} if self.recipe else {})}
        given |= {} if self.protocol == PROTOCOLS[0] else {"protocol": self.protocol}
        command = self._words("train", **given, seed=seed, budget=self.budget, out=folder, resume="")
        return self._training(command, folder, lambda: config, stage=0)

    def _learn(self, strategy: str, seed: int) -> Step:
        folder, like = self.folder(strategy, seed), self.folder("promptrl", seed)
        learner = LEARNED[strategy]
        command = self._words("train", learner=learner, like=like, out=folder, resume="")
        return self._training(command, folder, lambda: replace(like_run(like), learner=learner), stage=1)

    def _training(self, command: str, folder: Path, settings: Callable[[], TrainConfig], stage: int) -> Step:
        return Step(command, self.config.ppo.total_steps, _finished(folder), None, (folder, settings), stage)

    def _compare(self) -> Step:
        from promptrl_plugin.suites.registry import load_suite

        config = self.config
        names = (*_UNTRAINED, *self.learners, "promptrl")
        policies = [f"{name}={self.folder(name, '{seed}')}/bundle" for name in (*self.learners, "promptrl")]
        given: dict[str, Any] = {
            "suite": self.suite, "strategies": ",".join(names), "seeds": ",".join(map(str, self.seeds)),
            "budget": self.budget, "protocol": self.protocol, "selector": config.env.selector, "policy": policies,
            "out": self.out / "compare",
        }  # fmt: skip
        model: dict[str, Any] = {"model": config.backbone, "backend": config.backend, "dtype": config.dtype}
        urls = config.base_url.split(",") if config.base_url else None
        tasks = len(load_suite(self.suite).tasks())
        most = tasks * (1 + (len(names) - 1) * len(self.seeds) * self.budget)
        command = self._words("compare", **given, **({"ray": self.ray} if self.ray is not None else {}))
        return Step(command, most, False, lambda: compare(**given, **model, base_url=urls, ray=self.ray))

    def _report(self) -> Step:
        folder = self.out / "compare"
        return Step(f"promptrl report {shlex.quote(str(folder))}", 0, False, lambda: report(folder))

    def _words(self, name: str, **options: Any) -> str:
        """A command of promptrl, with the model of the plan where no other run gives it."""
        config = self.config
        if "like" not in options:
            options = {"model": config.backbone, "backend": config.backend, "dtype": config.dtype} | options
        if config.base_url and "like" not in options:
            options["base-url"] = config.base_url.split(",")
        words = ["promptrl", name]
        for option, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{option}", *([str(one)] if one != "" else [])]
        return shlex.join(words)


def reproduce(
    backbone: Annotated[str, typer.Option(help=f"Model; recipes ship for {', '.join(recipes())}.")],
    suite: Annotated[str, typer.Option(help="Suite to evaluate, see `promptrl suites`.")] = DEFAULT_SUITE,
    protocol: Protocol = PROTOCOLS[0],
    seeds: Annotated[str, typer.Option(help="Training seeds, separated by commas.")] = "0,1,2",
    budget: Budget = None,
    learners: Annotated[
        str | None,
        typer.Option(
            help="Baselines to train, separated by commas (default: best-fixed, linucb, and gepa if it is installed)."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of training settings, or a recipe's name (default: the backbone's).")
    ] = None,
    backend: Backend = "hf",
    dtype: Dtype = "",
    base_url: BaseUrl = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of everything (default: `runs/<backbone>-<suite>-<protocol>`).")
    ] = None,
    ray: RayAddress = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and run nothing.")] = False,
) -> None:
    """Train the agent and the baselines for one backbone, evaluate every strategy on one suite, and report.

    With protocol heldout, training is on tasks that no evaluated suite contains, and strategies see the visible tests.
    Protocol paper is the source paper's (oracle feedback, at most 10 generations); its results are marked and not
    eligible for a leaderboard. Killed at any moment, the same command goes on.
    """
    from promptrl_plugin.backbones.registry import check_base_url

    recipe = str(config) if config is not None else backbone if backbone in recipes() else ""
    settings = _settings(backbone, recipe, protocol, budget)
    settings = replace(
        settings, backend=backend, dtype=dtype or settings.dtype, base_url=joined_urls(base_url) or "",
        suite=_train_suite(suite, settings.suite),
    )  # fmt: skip
    check_base_url(backend, settings.base_url)
    folder = out or Path("runs") / f"{Path(backbone).name.lower()}-{suite}-{protocol}"
    plan = Plan(
        settings, suite, protocol, seed_numbers(seeds), settings.env.budget, _learners(learners), folder, recipe, ray
    )
    steps = plan.steps()
    for number, step in enumerate(steps, 1):
        most = f", at most {step.generations:,} generations" if step.generations else ""
        state = "done" if step.done else f"{number} of {len(steps)}{most}"
        console.print(f"[bold]{state}[/bold]", highlight=False)
        console.print(step.command, highlight=False, markup=False, soft_wrap=True)
        if dry_run or step.done:
            continue
        if step.run is not None:
            step.run()
        elif step is (together := [s for s in steps if s.stage == step.stage and s.training and not s.done])[-1]:
            trainings = [s.training for s in together if s.training is not None]
            if ray is not None:
                _train_there(ray, trainings)
            else:
                run_trainings([(settings(), folder) for folder, settings in trainings], resume=True)


def _settings(backbone: str, recipe: str, protocol: str, budget: int | None) -> TrainConfig:
    """A recipe for a backbone (the defaults without one), at the budget and sampling of a protocol.

    Raises:
        ConfigError: There is no such configuration or protocol, or the budget is none or not the protocol's.
    """
    from promptrl_plugin.harnesses.options import check_budget

    base = load(Path(recipe)) if recipe else TrainConfig()
    if protocol != PROTOCOLS[0]:
        base = under(base, protocol)
    chosen = base.env.budget if budget is None else budget
    if chosen < 1:
        raise ConfigError(f"a budget of {chosen} generations solves nothing; use --budget 1 or more")
    check_budget(protocol, chosen)
    return replace(base, backbone=backbone, env=replace(base.env, budget=chosen))


def _train_suite(suite: str, usual: str) -> str:
    """The suite to train on where `suite` is evaluated, `usual` unless its tasks are of another kind.

    Raises:
        ConfigError: `suite` is one that trains.
    """
    from promptrl_plugin.suites.registry import TRAIN_SUITES, check_evaluated

    check_evaluated(suite)
    instead = TRAIN_SUITES.get(suite, "")
    chosen = instead if instead in ("apps-train", "starter-train") else usual
    if chosen == suite:  # another package's, that the configuration names
        raise ConfigError(
            f"the agent would train on suite {suite}; evaluate another with --suite, e.g. {DEFAULT_SUITE}"
        )
    return chosen


def _learners(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ("best-fixed", "linucb", *(["gepa"] if importlib.util.find_spec("gepa") else []))
    return learner_names(text, [name for name in LEARNED if name != "promptrl"]) if text else ()


def _finished(folder: Path) -> bool:
    return (folder / _LAST).exists()


def _train_there(address: str, trainings: Sequence[tuple[Path, Callable[[], TrainConfig]]]) -> None:
    """Run trainings that do not depend on each other on a cluster; each folder is here as soon as it is done."""
    from promptrl_plugin.evaluation.cluster import Cluster
    from promptrl_plugin.evaluation.cluster_jobs import Files, read_files, train_run, write_files

    command = "promptrl " + shlex.join(sys.argv[1:])

    def done(i: int, files: Files) -> None:
        write_files(trainings[i][0], files, last=[_LAST])
        console.print(f"trained: {trainings[i][0]}", highlight=False, soft_wrap=True)

    with Cluster(address) as cluster:
        cluster.run(train_run, [(settings(), read_files(folder), command) for folder, settings in trainings], done)
