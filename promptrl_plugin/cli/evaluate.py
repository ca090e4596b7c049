"""``promptrl solve``, ``judge`` and ``suites``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from promptrl_plugin.cli.console import GenerationProgress, console, print_whole
from promptrl_plugin.config import DEFAULT_BACKBONE, DEFAULT_BUDGET, DEFAULT_SUITE, PROTOCOLS
from promptrl_plugin.errors import ConfigError

if TYPE_CHECKING:
    from promptrl_plugin.checking.base import Judge
    from promptrl_plugin.checking.results import Scores

__all__ = [
    "Backend",
    "BaseUrl",
    "Budget",
    "Dtype",
    "Model",
    "Protocol",
    "RayAddress",
    "Selector",
    "SolveProgress",
    "joined_urls",
    "judge",
    "seed_numbers",
    "solve",
    "suites",
]


Model = Annotated[str, typer.Option(help="Backbone: alias, hub id, folder, .gguf file or server model.")]
Backend = Annotated[str, typer.Option(help="hf, openai, vllm, ollama, anthropic, google or bedrock.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or int8.")]
Selector = Annotated[
    str,
    typer.Option(
        help="Which program is submitted: the first that passes (first), or by agreement of outputs on generated inputs (agreement, agreement:K)."
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(help="Of an OpenAI-compatible server; repeatable for replicas of one, which share the work."),
]


def joined_urls(base_url: list[str] | None) -> str | None:
    """Addresses as the library takes them: one text, with commas between them."""
    return ",".join(base_url) if base_url else None


def seed_numbers(text: str) -> tuple[int, ...]:
    """The seeds of ``"0,1,2"``.

    Raises:
        ConfigError: They are not numbers of 0 or more, or there is none.
    """
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise ConfigError(f"--seeds must be whole numbers of 0 or more separated by commas, not {text!r}")
    return found


Budget = Annotated[
    int | None,
    typer.Option(help=f"LLM generations per task, every call counted (default: {DEFAULT_BUDGET}; protocol paper: 10)."),
]
Protocol = Annotated[
    str,
    typer.Option(
        help="heldout, or paper: the source paper's (oracle feedback, at most 10 generations, T 0.7, top-p 0.9)."
    ),
]


SplitOption = Annotated[
    str | None, typer.Option("--split", help="crossfit:K trains on K-1 folds and solves the other.")
]
SplitConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="How --split trains: a TOML file of settings, or a recipe that ships (default: those of promptrl train).",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Address of a Ray cluster to do it on, or auto (pip install 'promptrl-plugin[ray]')."),
]


class SolveProgress:
    """Shows a run of `promptrl_plugin.harnesses.session` (a `Listener`)."""

    def __init__(self) -> None:
        self._bar: GenerationProgress | None = None

    def begin(self, label: str, done: int, total: int, samples: Path) -> None:
        if done:
            console.print(f"{done} of {total} tasks have a sample already", highlight=False)
        self._bar = GenerationProgress(label, total - done)
        self._bar.__enter__()

    def sample(self) -> None:
        if self._bar is not None:
            self._bar.sample()

    def generation(self) -> None:
        if self._bar is not None:
            self._bar.generation()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def solve(
    strategy: Annotated[
        str,
        typer.Option(
            help="direct, best-of-k, greedy-best-of-k, epic, reflexion, random-hybrid, best-fixed, linucb, gepa or "
            "promptrl."
        ),
    ] = "promptrl",
    suite: Annotated[str, typer.Option(help="Suite to solve, see `promptrl suites`.")] = DEFAULT_SUITE,
    model: Model = DEFAULT_BACKBONE,
    backend: Backend = "hf",
    dtype: Dtype = "auto",
    base_url: BaseUrl = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Policy bundle of a strategy that is trained, see promptrl train (default: the shipped one); "
            "random-hybrid chooses among its operators."
        ),
    ] = None,
    budget: Budget = None,
    feedback: Annotated[
        str | None, typer.Option(help="Execution that the strategy may see: none, visible (default) or oracle.")
    ] = None,
    selector: Selector = "first",
    split: SplitOption = None,
    config: SplitConfig = None,
    seed: Annotated[int, typer.Option(help="Seed of all sampling.")] = 0,
    protocol: Protocol = PROTOCOLS[0],
    root: Annotated[Path, typer.Option(help="Folder of results.")] = Path("evalplus_results"),
    out: Annotated[
        Path | None, typer.Option(help="Samples file (default: named by the configuration, under --root).")
    ] = None,
) -> None:
    """Solve a suite with a strategy and write EvalPlus samples; run it again to go on where it stopped."""
    from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
    from promptrl_plugin.harnesses.session import run

    given: dict[str, Any] = {"strategy": strategy, "policy": policy, "budget": budget, "feedback": feedback,
                             "selector": selector, "split": split, "config": config, "seed": seed,
                             "protocol": protocol}  # fmt: skip
    options = SolveOptions(
        StrategyOptions.parse(given),
        BackboneOptions(model, backend, dtype, joined_urls(base_url)),
        suite=suite,
        root=root,
        out=out,
    )
    path = run(options, SolveProgress())
    console.print(f"samples: {path}", highlight=False, soft_wrap=True)


def judge(
    samples: Annotated[Path, typer.Option(help="Samples file: JSON Lines of task_id and solution.")],
    suite: Annotated[str, typer.Option(help="Suite that they are of.")] = DEFAULT_SUITE,
    out: Annotated[
        Path | None, typer.Option(help="Where EvalPlus's result JSON goes (default: `<samples>_eval_results.json`).")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failing test: faster, no soft scores.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept samples that leave out tasks of the suite.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Worker processes (0: one per core; with --ray: of every node).")] = 0,
    verdicts: Annotated[str, typer.Option(help="strict, or evalplus to reproduce EvalPlus's known errors.")] = "strict",
    ray: RayAddress = None,
) -> None:
    """Judge samples in isolation and write EvalPlus's result format, strict and soft pass@1."""
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.checking.results import evalplus_results, score, write_results
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.evaluation.judging import data_hash, judge_samples, read_samples
    from promptrl_plugin.suites.registry import load_suite

    if workers < 0:
        raise ConfigError(f"--workers must be 0 or more, not {workers}")
    with ExitStack() as stack:
        judge_: Judge
        if ray is not None:
            from promptrl_plugin.evaluation.cluster import Cluster
            from promptrl_plugin.evaluation.cluster_judge import ClusterJudge

            judge_ = ClusterJudge(stack.enter_context(Cluster(ray)), JudgeConfig(verdicts=verdicts))
            stack.callback(judge_.close)
        else:
            judge_ = local = stack.enter_context(IsolatedJudge(JudgeConfig(workers=workers, verdicts=verdicts)))
            local.start()
        loaded = load_suite(suite)
        submissions = read_samples(samples, loaded, partial=partial)
        hidden = loaded.hidden()
        with GenerationProgress("judge", len(submissions)) as bar:
            judged = judge_samples(
                submissions, hidden, judge_, fail_fast=fail_fast, on_progress=lambda _i: bar.sample()
            )
    target = out or samples.with_name(samples.name.removesuffix(".jsonl") + "_eval_results.json")
    write_results(target, evalplus_results(judged, hidden, data_hash(loaded)))
    console.print(scores_table({suite: score(judged)}, soft=not fail_fast))
    console.print(f"results: {target}", highlight=False, soft_wrap=True)


def suites() -> None:
    """List the suites, their size and whether their data is at hand."""
    from promptrl_plugin.errors import DataError
    from promptrl_plugin.suites.registry import load_suite, not_at_hand, suite_names

    table = Table("suite", "tasks", "version", "note")
    for name in suite_names():
        if why := not_at_hand(name):
            table.add_row(name, "–", "–", why)
            continue
        try:
            suite = load_suite(name)
        except DataError as error:
            table.add_row(name, "–", "–", str(error))
            continue
        table.add_row(name, str(len(suite.tasks())), suite.version, _note(suite))
    print_whole(table)


def scores_table(rows: dict[str, Scores], *, soft: bool = True) -> Table:
    """Strict and soft pass@1 of several runs, in per cent."""
    table = Table("", "tasks", "base", "base + plus", "soft base", "soft")
    for name, s in rows.items():
        softs = (f"{100 * s.soft_base:.1f}", f"{100 * s.soft:.1f}") if soft else ("–", "–")
        table.add_row(name, str(s.tasks), f"{100 * s.base:.1f}", f"{100 * s.strict:.1f}", *softs)
    return table


def _note(suite: Any) -> str:
    """What `mbpp-train` or APPS left out; nothing for other suites."""
    report = getattr(suite, "report", None)
    if report is None:
        return str(getattr(suite, "note", ""))
    r = report()
    return (
        f"of {r.found} MBPP tasks: {r.excluded_by_id} evaluated, {len(r.near_duplicates)} near-duplicates of those, "
        f"{len(r.broken)} broken"
    )
