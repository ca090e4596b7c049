"""``promptrl train``."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from promptrl_plugin import config as defaults
from promptrl_plugin.agent.ablations import ABLATIONS
from promptrl_plugin.agent.ablations import ablate as ablated
from promptrl_plugin.cli.console import console
from promptrl_plugin.cli.evaluate import BaseUrl, joined_urls, seed_numbers
from promptrl_plugin.cli.training_runs import run_trainings
from promptrl_plugin.errors import BundleError, ConfigError, UnknownNameError
from promptrl_plugin.harnesses.options import check_budget

__all__ = ["learner_names", "like_run", "train", "under"]

_P = TypeVar("_P", Path, Path | None)


def train(
    learner: Annotated[
        str | None,
        typer.Option(
            help="What is trained: ppo (strategy promptrl), linucb, best-fixed or gepa (default: ppo). Several "
            "(linucb,gepa) are trained side by side, as --seeds are; `{learner}` in --out becomes the name."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone: alias, hub id, folder, .gguf file, or a server's model name.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Train tasks: mbpp-train, apps-train or starter-train (default: mbpp-train).")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="hf, openai, vllm, ollama, anthropic, google or bedrock.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 or int8.")] = None,
    base_url: BaseUrl = None,
    budget: Annotated[int | None, typer.Option(help="LLM generations an episode may spend.")] = None,
    feedback: Annotated[str | None, typer.Option(help="none or visible: what the agent will see at test.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="paper: budget and sampling of the source paper, for evaluation under that protocol."),
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="first, agreement or agreement:K: how the program will be selected at test.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps of PPO in all.")] = None,
    generations: Annotated[
        int | None, typer.Option(help="Train generations of the other learners (default: as many as PPO's steps).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only that many train tasks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Train one run for each of these seeds (0,1,2), side by side with one model, whose batches they share; "
            "`{seed}` in --out, --like and --warm-start becomes the seed."
        ),
    ] = None,
    ablate: Annotated[
        list[str] | None, typer.Option(help=f"Leave something out, repeatable: {', '.join(ABLATIONS)}.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Settings of that finished run folder, and as many train generations as it spent."),
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="Bundle of a best-fixed run on the same train tasks: PPO begins near its sequence."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of settings, or a recipe that ships (`qwen2.5-coder-0.5b-instruct`, …); options above override it."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder (default: `runs/<model>-<suite>-<learner, ablations>-seed<seed>`).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run folder stopped; begin if it was not begun yet.")
    ] = False,
) -> None:
    """Train what a strategy learns for one frozen backbone and write its policy bundle.

    The learner is PPO's agent (strategy promptrl) or one of the baselines that it has to beat: a contextual bandit
    over the same actions (linucb), the best fixed sequence of operators (best-fixed) or one evolved instruction
    (gepa; needs `pip install 'promptrl-plugin[gepa]'`). With --like RUN a baseline gets the tasks, the reward and
    the number of train generations of that run.

    Several learners and several seeds are trained side by side with one model, whose batches they fill together:
    all baselines of three seeds take much less time so than one after another.

    With --warm-start BUNDLE of a best-fixed run PPO does not begin at random: it first learns to take that sequence
    half of the time.

    The run folder holds the resolved configuration, the environment, metrics, TensorBoard logs, the learning curve
    and, at the end, the bundle that --policy takes for the strategy of that name.
    """
    if seeds is not None and seed is not None:
        raise ConfigError("--seeds names all seeds; leave out --seed")
    numbers = (seed,) if seeds is None else seed_numbers(seeds)
    learners = (None,) if learner is None else learner_names(learner, defaults.LEARNED.values())
    _check_folders(out, seed=len(set(numbers)) > 1, learner=len(learners) > 1)
    runs: list[tuple[defaults.TrainConfig, Path]] = []
    for name, number in product(learners, dict.fromkeys(numbers)):
        base = under(_base(config, _of_seed(like, number)), protocol)
        resolved = ablated(
            _override(
                base, learner=name, model=model, suite=suite, backend=backend, dtype=dtype, base_url=joined_urls(base_url),
                budget=budget, feedback=feedback, selector=selector, steps=steps, generations=generations, limit=limit,
                seed=number,
            ),
            ablate or [],
        )  # fmt: skip
        if warm_start is not None:
            resolved = _warm_started(resolved, _of_seed(warm_start, number))
        if protocol is not None:
            check_budget(protocol, resolved.env.budget)
        resolved = defaults.validate(_for_its_learner(resolved, generations, ablate or [], config))
        what = [resolved.suite, *([resolved.learner] if resolved.learner != "ppo" else []), *(ablate or [])]
        usual = Path("runs") / f"{Path(resolved.backbone).name}-{'-'.join(what)}-seed{resolved.seed}"
        folder = usual if out is None else Path(str(_of_seed(out, number)).replace("{learner}", resolved.learner))
        runs.append((resolved, folder))
    if config is None and like is None and resolved.learner == "ppo" and resolved.backbone in defaults.recipes():
        console.print(f"default settings; a recipe ships for this model: --config {resolved.backbone}", highlight=False)
    run_trainings(runs, resume=resume, command=_of_one_run)


def learner_names(text: str, known: Collection[str]) -> tuple[str, ...]:
    """The names of a list with commas, each once.

    Raises:
        UnknownNameError: One is not known.
    """
    named = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in named:
        if name not in known:
            raise UnknownNameError("learner", name, known)
    return named


def _check_folders(out: Path | None, **several: bool) -> None:
    """Refuse one folder for several runs.

    Args:
        out: The folder that was named.
        several: Of ``seed`` and ``learner``, whether there are several.

    Raises:
        ConfigError: A placeholder is missing.
    """
    missing = "".join(f"{{{name}}}" for name, more in several.items() if more and f"{{{name}}}" not in str(out))
    if out is not None and missing:
        raise ConfigError(f"several runs need folders of their own: --out '{out}{missing}'")


def _of_seed(path: _P, seed: int | None) -> _P:
    """`path` with ``{seed}`` replaced, where there is a seed to replace it by."""
    return path if path is None or seed is None else Path(str(path).replace("{seed}", str(seed)))


def _of_one_run(words: Sequence[str], run: defaults.TrainConfig) -> str:
    """The command that trains that run alone, from one that may train several."""
    alone: list[str] = []
    ones = {"--seeds": ("--seed", str(run.seed)), "--learner": ("--learner", run.learner)}
    for word, before in zip(words, ["", *words], strict=False):
        name, equals, _ = word.partition("=")
        if before in ones:
            alone.append(ones[before][1])
        elif name in ones:
            option, value = ones[name]
            alone.append(f"{option}={value}" if equals else option)
        else:
            alone.append(word.replace("{seed}", str(run.seed)).replace("{learner}", run.learner))
    return "promptrl " + shlex.join(alone)


def _for_its_learner(
    resolved: defaults.TrainConfig, generations: int | None, ablate: Sequence[str], config: Path | None
) -> defaults.TrainConfig:
    """The settings, if they and those of a `config` file make sense for their learner.

    Raises:
        ConfigError: They do not.
    """
    if resolved.learner == "ppo":
        if "no-ppo" in ablate and not resolved.warm_start.sequence:
            raise ConfigError("without PPO and without a warm start nothing is learned; add --warm-start BUNDLE")
        if generations is not None:
            raise ConfigError("--generations is for the other learners; what PPO spends follows from its --steps")
        if config is not None and resolved.generations:
            raise ConfigError(
                f"generations = {resolved.generations} in {config} is for the other learners; leave it out, since what "
                "PPO spends follows from ppo.total_steps, or choose one of them with --learner"
            )
        return replace(resolved, generations=0)
    if "no-ppo" in ablate:
        raise ConfigError(f"--ablate no-ppo leaves the warm start of PPO; learner {resolved.learner} has none")
    return resolved


def _base(config: Path | None, like: Path | None) -> defaults.TrainConfig:
    """The settings that the options override.

    Raises:
        ConfigError: Both are given, or `like` is not the folder of a finished run.
    """
    if like is None:
        return defaults.load(config) if config is not None else defaults.TrainConfig()
    if config is not None:
        raise ConfigError("--like takes the settings of that run; leave out --config")
    return like_run(like)


def under(settings: defaults.TrainConfig, protocol: str | None) -> defaults.TrainConfig:
    """Settings at the budget and the sampling of a protocol, None for their own.

    Feedback stays what they say: in training, tests of train tasks are shown, never hidden ones.

    Raises:
        ConfigError: There is no such protocol.
    """
    if protocol is None:
        return settings
    usual = defaults.env_of(protocol)
    sampling = {k: getattr(usual, k) for k in ("budget", "hot_temperature", "warm_temperature", "top_p")}
    return replace(settings, env=replace(settings.env, **sampling))


def like_run(like: Path) -> defaults.TrainConfig:
    """The settings of a finished run, with as many train generations as it spent.

    Raises:
        ConfigError: `like` is not the folder of a finished run.
    """
    from promptrl_plugin.storage.runs import RunFolder

    run = RunFolder.open(like)
    spent = next((r["generations/distinct"] for r in run.metrics()[::-1] if "generations/distinct" in r), None)
    if spent is None or not (like / "bundle").is_dir():
        raise ConfigError(f"{like} is not the folder of a finished run; finish it with --resume, or use --generations")
    settings: defaults.TrainConfig = defaults.from_dict(defaults.TrainConfig, run.config())
    return replace(settings, generations=int(spent))


def _warm_started(resolved: defaults.TrainConfig, path: Path) -> defaults.TrainConfig:
    """The settings with the sequence of a best-fixed bundle to begin with.

    Raises:
        BundleError: It is of another learner or backbone, or was trained on other tasks: then its sequence may
            have been chosen on tasks that are held out here.
    """
    from promptrl_plugin.agent.bundle import PolicyBundle

    bundle = PolicyBundle.load(path)
    bundle.check_strategy("best-fixed")
    theirs = bundle.train_config()
    for name in ("backbone", "suite", "limit", "seed", "validation_fraction"):
        mine, other = getattr(resolved, name), getattr(theirs, name)
        if mine != other:
            raise BundleError(
                f"{path} was trained with {name} {other}, not {mine}; make one that fits: promptrl train "
                f"--learner best-fixed --model {resolved.backbone} --suite {resolved.suite} --seed {resolved.seed}"
            )
    if resolved.learner != "ppo":
        raise ConfigError("--warm-start is for PPO; leave out --learner")
    return replace(resolved, warm_start=replace(resolved.warm_start, sequence=tuple(bundle.network["sequence"])))


def _override(base: defaults.TrainConfig, **given: Any) -> defaults.TrainConfig:
    """`base` with the options that were given on the command line."""
    if given["budget"] is not None and given["budget"] < 1:
        raise ConfigError(f"a budget of {given['budget']} generations solves nothing; use --budget 1 or more")
    if given["generations"] is not None and given["generations"] < 1:
        raise ConfigError(f"{given['generations']} train generations teach nothing; use --generations 1 or more")
    if given["steps"] is not None and given["steps"] < 1:
        raise ConfigError(f"{given['steps']} steps train nothing; use --steps 1 or more")
    if given["limit"] is not None and given["limit"] < 0:
        raise ConfigError(f"--limit {given['limit']} is no number of tasks; use 1 or more, or leave it out")
    if given["feedback"] == "oracle":
        raise ConfigError("training already rewards with all tests of the train tasks; use --feedback visible or none")
    top = {"learner": "learner", "generations": "generations", "model": "backbone", "suite": "suite", "backend": "backend", "dtype": "dtype", "base_url": "base_url",
           "limit": "limit", "seed": "seed"}  # fmt: skip
    if given["selector"] is not None:
        from promptrl_plugin.env.selection import Selector

        given["selector"] = str(Selector.parse(given["selector"]))
    env = {k: given[k] for k in ("budget", "feedback", "selector") if given[k] is not None}
    ppo = {"total_steps": given["steps"]} if given["steps"] is not None else {}
    return replace(
        base,
        **{field: given[k] for k, field in top.items() if given[k] is not None},
        env=replace(base.env, **env),
        ppo=replace(base.ppo, **ppo),
    )
