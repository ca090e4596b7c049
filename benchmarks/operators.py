#!/usr/bin/env python3
"""What each operator is worth alone: on train tasks, from the task's own prompt.

    python benchmarks/operators.py --model qwen2.5-coder-0.5b-instruct [--limit 120] [--out FILE]
    python benchmarks/operators.py --operators generate,fixed_examples,nearest_examples --examples mbpp-train
    python benchmarks/operators.py --operators generate,fixed_examples+complete   # one after the other, the last counts
    python benchmarks/operators.py --seeds 0,1,2 --no-best-of-k   # several draws, each on the train tasks of that seed
    python benchmarks/operators.py --replay FILE --order generate,deletion_light,complete   # without a model

Every operator of the default action table that can be applied to an untouched prompt is applied once, and every
way of showing examples is followed by two samples under it. For each the table tells the share of tasks whose
program passes the visible tests, the share that passes all tests (strict) and the share that also returns what the
reference does on generated inputs (robust, `env.grader`), what share of those that pass the visible tests is robust
(trust), how many tasks it alone solves, what it adds to the greedy program of the plain prompt, and what one hot
sample makes of the tasks that it applies to. Then it replays searches of at most six programs, by operators in
random order and by the best order, chosen greedily on one half of the tasks and scored on the other (means over
five random halvings, both ways), and by hot samples of the plain prompt alone (best-of-k), under every selector;
*perfect* would pick a robust program wherever one of the six passes the visible tests, which no selector can
beat. With several seeds a task counts once for each whose train tasks it is among;
halvings are of tasks. Train tasks only: nothing here looks at an evaluated suite.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from promptrl_plugin.agent.parts import TrainingParts, build
from promptrl_plugin.config import TrainConfig
from promptrl_plugin.env.feedback import JudgeExecutor
from promptrl_plugin.env.grader import TrainGrader
from promptrl_plugin.env.reward import all_pass
from promptrl_plugin.env.rollout import RewardedEpisode
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.records import Execute, content_hash

BUDGET = 6
PERFECT = "perfect"  #: no selector: knows which programs are robust
REWRITES = ("clarify", "simplify")  # two generations each
BEST_OF_K = [("sample_hot",) * k for k in range(1, BUDGET + 1)]
AFTER_FAILURE = "generate+failure_note"
FOLLOWED = ("generate", "fixed_examples", "nearest_examples", "other_examples", "contract")
SAMPLES = 2


class Silent:
    """Progress that nobody watches but the count of generations."""

    def __init__(self) -> None:
        self.count = 0

    def stage(self, name: str, total: int | None = None) -> None:
        print(name, flush=True)

    def advance(self, steps: int) -> None: ...

    def generation(self) -> None:
        self.count += 1
        if self.count % 100 == 0:
            print(self.count, "generations", flush=True)

    def metrics(self, values: dict[str, float]) -> None: ...


def apply(parts: TrainingParts, sequences: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Outcome of each sequence's last program, by task id: visible, strict, and what it spent."""
    rollout, names = parts.rollout, parts.setup.table.names
    episodes = {s: [_open_ended(rollout.start(i)) for i in range(len(rollout.tasks))] for s in map(tuple, sequences)}
    for step in range(max(map(len, sequences))):
        moves = [
            (e, names.index(s[step]))
            for s, started in episodes.items()
            for e in started
            if step < len(s) and not e.episode.done and e.episode.mask()[names.index(s[step])]
        ]
        rollout.step(moves)
    return {
        "+".join(s): {
            e.episode.task.id: _outcome(e) for e in started if len([r for r in e.episode.steps if r.attempt]) == len(s)
        }
        for s, started in episodes.items()
    }


class OpenEnded(Selector):
    """An episode goes on after a program that passes, and nothing is run on generated inputs."""

    def weigh(self, attempt: Attempt, earlier: Iterable[Attempt]) -> Generator[Execute, Any, Attempt]:
        return attempt
        yield  # makes this a generator

    def settled(self, attempts: Sequence[Attempt]) -> bool:
        return False


def _open_ended(e: RewardedEpisode) -> RewardedEpisode:
    e.episode.selector = OpenEnded()
    return e


def _outcome(e: RewardedEpisode) -> dict[str, Any]:
    attempt = e.episode.attempts[-1]
    assert attempt.verdict is not None
    return {"visible": attempt.verdict.fraction == 1.0, "program": attempt.program}


def grade(parts: TrainingParts, outcomes: dict[str, dict[str, Any]]) -> None:
    """Add ``strict`` and ``robust`` to every outcome, in the place of its program."""
    tasks = {t.task.id: t for t in parts.rollout.tasks}
    flat = [(tasks[i], found) for by_task in outcomes.values() for i, found in by_task.items()]
    graded = TrainGrader(parts.judge, generated=True).grade([(t, found.pop("program")) for t, found in flat])
    for (_, found), verdicts in zip(flat, graded, strict=True):
        found |= {"strict": all_pass(verdicts[:1]), "robust": all_pass(verdicts)}


def execute(parts: TrainingParts, outcomes: dict[str, dict[str, Any]]) -> None:
    """Add what every program that passes the visible tests does on generated inputs (``outs``)."""
    tasks = {t.task.id: t.task for t in parts.rollout.tasks}
    passing = [(tasks[i], found) for by_task in outcomes.values() for i, found in by_task.items() if found["visible"]]
    ran = JudgeExecutor(parts.judge).execute([(task, found["program"]) for task, found in passing])
    for (_, found), outs in zip(passing, ran, strict=True):
        found["outs"] = content_hash(*outs) if outs else ""


def search(outcomes: dict[str, dict[str, Any]], order: Sequence[str], task: str, selector: str) -> tuple[bool, int]:
    """Whether a search by `order` under `selector` submits a robust program, and the generations spent."""
    spent, passing, votes = 0, [], Counter[str]()
    agreeing = 0 if selector == PERFECT else Selector.parse(selector).agreeing
    for name in order:
        cost = 2 if name in REWRITES else 1
        if task not in outcomes.get(name, {}) or spent + cost > BUDGET:
            continue
        spent += cost
        found = outcomes[name][task]
        if found["visible"]:
            passing.append(found)
            votes[found["outs"]] += 1
            if agreeing == 1 or not found["outs"] or votes[found["outs"]] == agreeing:
                break
    if selector == PERFECT:
        return any(found["robust"] for found in passing), spent
    chosen = max(passing, key=lambda found: votes[found["outs"]], default=None)
    return chosen is not None and bool(chosen["robust"]), spent


def orders(outcomes: dict[str, dict[str, Any]], selector: str) -> str:
    """A row of what random orders and greedily chosen ones reach under a selector."""
    rng, tasks = random.Random(0), sorted(outcomes["generate"])
    ids = sorted({task_of(t) for t in tasks})
    # Operators, not sequences, but for what answers the failure of a program and so needs one.
    names = sorted(n for n, found in outcomes.items() if found and ("+" not in n or n == AFTER_FAILURE))

    def rate(order: Sequence[str], on: Sequence[str]) -> tuple[float, float]:
        ends = [search(outcomes, order, t, selector) for t in on]
        return 100 * sum(e[0] for e in ends) / len(on), sum(e[1] for e in ends) / len(on)

    def best(on: Sequence[str]) -> list[str]:
        order: list[str] = []
        for _ in range(min(BUDGET, len(names))):
            order.append(max((n for n in names if n not in order), key=lambda n: rate([*order, n], on)[0]))
        return order

    chance = [rate(rng.sample(names, min(len(names), BUDGET + 2)), tasks) for _ in range(100)]
    held_out = []
    for _ in range(5):
        rng.shuffle(ids)
        first = set(ids[: len(ids) // 2])
        halves = [t for t in tasks if task_of(t) in first], [t for t in tasks if task_of(t) not in first]
        held_out += [rate(best(halves[i]), halves[1 - i])[0] for i in (0, 1)]
    found = best(tasks)
    samples = ["+".join(s) for s in BEST_OF_K]
    best_of_k = f"{rate(samples, tasks)[0]:9.1f}" if samples[-1] in outcomes else f"{'':9s}"
    mean, spent = (sum(c[k] for c in chance) / len(chance) for k in (0, 1))
    return (
        f"{selector:12s} {best_of_k} {mean:6.1f} {spent:11.2f} {sum(held_out) / len(held_out):10.1f}"
        f" {rate(found, tasks)[0]:10.1f}   {', '.join(found)}"
    )


def task_of(key: str) -> str:
    """The task's id, of a key of outcomes."""
    return key.partition("#")[0]


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Outcomes of all seeds, by task id (of one seed) or ``f"{id}#{seed}"`` (of several)."""
    seeds = [int(seed) for seed in args.seeds.split(",")]
    pooled: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for name, found in measure_once(args, seed).items():
            by_key = pooled.setdefault(name, {})
            by_key |= {t if len(seeds) == 1 else f"{t}#{seed}": outcome for t, outcome in found.items()}
    return pooled


def measure_once(args: argparse.Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """Apply the operators to the train tasks and judge what comes of it."""
    only = args.operators.split(",") if args.operators else None
    config = TrainConfig(
        suite=args.suite,
        backbone=args.model,
        dtype=args.dtype,
        limit=args.limit,
        example_suite=args.examples,
        seed=seed,
    )
    parts = build(config, Silent())
    try:
        generating = [a.name for a in parts.setup.table.actions if a.operator.generates]
        sequences = [(n,) for n in generating if n not in ("reflect_repair", "failure_note")]
        sequences.append(tuple(AFTER_FAILURE.split("+")))
        sequences += [(n, *["sample_hot"] * k) for n in FOLLOWED for k in range(1, SAMPLES + 1)]
        if only is not None:
            sequences = [tuple(names.split("+")) for names in only]
        sequences = list(dict.fromkeys(sequences if args.no_best_of_k else [*sequences, *BEST_OF_K]))
        outcomes = apply(parts, sequences)
        execute(parts, outcomes)
        grade(parts, outcomes)
    finally:
        parts.close()
    return outcomes


def table(outcomes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a sequence: what it makes of the tasks, and what one hot sample of the plain prompt makes of the same."""
    plain, hot = outcomes["generate"], outcomes["sample_hot"]
    rows = []
    for name, found in outcomes.items():
        if not found:
            continue
        others = [o for n, o in outcomes.items() if n != name]
        solved = {t for t, o in found.items() if o["strict"]}
        row = {
            "operator": name,
            "tasks": len(found),
            "visible": sum(o["visible"] for o in found.values()) / len(found),
            "strict": len(solved) / len(found),
            "robust": sum(o["robust"] for o in found.values()) / len(found),
            "adds": sum(not plain[t]["strict"] for t in solved if t in plain),
            "alone": sum(not any(o.get(t, {}).get("strict") for o in others) for t in solved),
            "hot_visible": sum(hot[t]["visible"] for t in found) / len(found),
            "hot_strict": sum(hot[t]["strict"] for t in found) / len(found),
        }
        rows.append(row)
    return sorted(rows, key=lambda r: -r["strict"])


def label(name: str) -> str:
    """A sequence by its name, ``a+a+a`` as ``a x3``."""
    parts = name.split("+")
    return f"{parts[0]} x{len(parts)}" if len(parts) > 1 and len(set(parts)) == 1 else name


def tell(outcomes: dict[str, dict[str, Any]], rows: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
    plain = outcomes["generate"]
    print(f"{'operator':40s} tasks visible strict robust trust  adds alone   hot sample there: visible strict")
    for r in rows:
        print(
            f"{label(r['operator']):40s} {r['tasks']:5d} {100 * r['visible']:7.1f} {100 * r['strict']:6.1f}"
            f" {100 * r['robust']:6.1f} {100 * r['robust'] / max(r['visible'], 1e-9):5.1f} {r['adds']:5d}"
            f" {r['alone']:5d} {100 * r['hot_visible']:26.1f} {100 * r['hot_strict']:6.1f}"
        )
    drawn = f"{len(plain)} draws of {len(set(map(task_of, plain)))} tasks"
    for what in ("visible", "strict", "robust"):
        some = sum(any(o.get(t, {}).get(what) for o in outcomes.values()) for t in plain)
        print(f"{what}: by at least one of them on {some} of {drawn}")
    print("\nrobust, by at most six programs")
    print("selector     best-of-k random generations  best order: of others, of these tasks")
    for selector in ("first", "agreement", "agreement:3", PERFECT):
        print(orders(outcomes, selector))
    if order:
        print(f"\nin the order {', '.join(order)}")
        for selector in ("first", "agreement", "agreement:3", PERFECT):
            ends = [search(outcomes, order, task, selector) for task in plain]
            right, spent = (sum(e[k] for e in ends) / len(ends) for k in (0, 1))
            print(f"{selector:12s} {100 * right:6.1f} {spent:11.2f} generations")
        after = [sum(search(outcomes, order[:k], t, "first")[0] for t in plain) for k in range(1, len(order) + 1)]
        print("first, by 1, 2, … of them:", ", ".join(f"{100 * n / len(plain):.1f}" for n in after))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--suite", default="mbpp-train")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--seeds", default="0", help="of the splits and of sampling, by comma; their draws are pooled")
    parser.add_argument("--no-best-of-k", action="store_true", help="without six hot samples of the plain prompt")
    parser.add_argument("--examples", default=TrainConfig().example_suite, help="suite that solved examples are from")
    parser.add_argument(
        "--operators", default="", help="only these, by comma (generate among them), or sequences a+b; default: all"
    )
    parser.add_argument(
        "--order", default="", help="replay searches in this order, too: what the table names, by comma"
    )
    parser.add_argument("--out", type=Path, default=None, help="keep every outcome in this file")
    parser.add_argument(
        "--replay", type=Path, default=None, help="a file of --out: tell what it holds, without a model"
    )
    args = parser.parse_args()
    outcomes = json.loads(args.replay.read_text())["outcomes"] if args.replay else measure(args)
    rows = table(outcomes)
    tell(outcomes, rows, args.order.split(",") if args.order else [])
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"model": args.model, "rows": rows, "outcomes": outcomes}) + "\n")


if __name__ == "__main__":
    main()
