#!/usr/bin/env python3
"""What the paper's nine cells (three models, three suites) would cost: generations, tokens, GPU and judge hours.

    python benchmarks/sizing.py [--tokens-per-second 2000] [--seeds 3]

Measured: generations a task of each strategy, and tokens a generation, on MBPP+ with Qwen2.5-Coder-0.5B-Instruct
(`results/qwen2.5-coder-0.5b/mbpp-tasks.csv.xz`); what the recipes' training runs ask for (`promptrl_plugin/recipes`).
Given by you: new tokens a second that your GPU writes with the model, all requests together. Assumed, and printed
as such: that other models and suites spend generations as that one does, longer programs on APPS, and the judge's
seconds a program. The defaults of what is assumed are options.
"""

from __future__ import annotations

import argparse
import csv
import io
import lzma
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from promptrl_plugin.config import TrainConfig, load

HERE = Path(__file__).resolve().parent
TASKS = HERE / "results" / "qwen2.5-coder-0.5b" / "mbpp-tasks.csv.xz"
MODELS = ("codet5p-770m", "codellama-7b-instruct", "deepseek-coder-6.7b-instruct")
SUITES = {"mbpp": 378, "humaneval": 164, "apps": 5000}  #: test tasks
TRAIN_TASKS = {"mbpp": 251, "humaneval": 251, "apps": 5000}
STRATEGIES = (
    "direct", "best-of-k", "greedy-best-of-k", "random-hybrid", "epic", "reflexion", "best-fixed", "linucb", "gepa",
    "promptrl",
)  # fmt: skip
LEARNERS = 4  #: that train: promptrl, and three at as many generations


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over what was measured.

    Attributes:
        generations: A task, by strategy; strategies that were not measured count as `best-of-k`.
        prompt_tokens, new_tokens: A generation.
    """

    generations: dict[str, float]
    prompt_tokens: float
    new_tokens: float

    @classmethod
    def read(cls, path: Path) -> Measured:
        rows = list(csv.DictReader(io.StringIO(lzma.decompress(path.read_bytes()).decode())))
        spent: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            spent[row["strategy"]].append(int(row["generations"]))
        total = sum(map(sum, spent.values()))
        prompt, new = (sum(int(r[k]) for r in rows) / total for k in ("prompt_tokens", "completion_tokens"))
        return cls({s: sum(n) / len(n) for s, n in spent.items()}, prompt, new)

    def of(self, strategy: str) -> float:
        return self.generations.get(strategy, self.generations["best-of-k"])


def training_generations(config: TrainConfig, tasks: int, per_task: float) -> float:
    """At most, of one run: its steps, and its validations."""
    rollouts = config.ppo.total_steps // (config.ppo.n_envs * config.ppo.n_steps)
    validated = tasks * config.validation_fraction * per_task * (1 + rollouts // config.validate_every)
    return config.ppo.total_steps + validated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens-per-second", type=float, default=2000.0, help="of new tokens, all requests together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--apps-factor", type=float, default=3.0, help="tokens on APPS for one on MBPP+ (assumed)")
    parser.add_argument("--judge-seconds", type=float, default=0.03, help="of a core for a program (assumed)")
    parser.add_argument("--apps-judge-seconds", type=float, default=2.0, help="the same on APPS (assumed)")
    args = parser.parse_args()
    measured = Measured.read(TASKS)
    print(
        f"measured: {measured.prompt_tokens:.0f} prompt and {measured.new_tokens:.0f} new tokens a generation; "
        + ", ".join(f"{s} {g:.2f}" for s, g in measured.generations.items())
        + " generations a task\n"
        f"given or assumed: {args.tokens_per_second:.0f} new tokens a second, {args.seeds} seeds, on APPS "
        f"{args.apps_factor:g} times the tokens; {args.judge_seconds:g} s of a core a program, on APPS "
        f"{args.apps_judge_seconds:g}\n"
    )
    print("| model | suite | train generations | test generations | new tokens (M) | GPU hours | judge core hours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    sums = [0.0] * 5
    for model in MODELS:
        config = load(Path(model))
        for suite, tasks in SUITES.items():
            longer, seconds = (
                (args.apps_factor, args.apps_judge_seconds) if suite == "apps" else (1, args.judge_seconds)
            )
            per_task = measured.of("promptrl")
            # One training serves both of EvalPlus's suites; it is counted with MBPP+.
            once = training_generations(config, TRAIN_TASKS[suite], per_task) if suite != "humaneval" else 0.0
            train = args.seeds * LEARNERS * once
            test = tasks * sum(measured.of(s) * (1 if s == "direct" else args.seeds) for s in STRATEGIES)
            new = (train + test) * measured.new_tokens * longer
            row = [train, test, new / 1e6, new / args.tokens_per_second / 3600, (train + test) * seconds / 3600]
            sums = [a + b for a, b in zip(sums, row, strict=True)]
            print(line(model, suite, row))
    print(line("all", "", sums))


def line(model: str, suite: str, row: list[float]) -> str:
    train, test, new, gpu, judge = row
    return f"| {model} | {suite} | {train:,.0f} | {test:,.0f} | {new:.1f} | {gpu:.1f} | {judge:.1f} |"


if __name__ == "__main__":
    main()
