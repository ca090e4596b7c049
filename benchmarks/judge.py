#!/usr/bin/env python3
"""Programs judged a second: promptrl's judge against EvalPlus 0.3.1's, on the same samples, in one run.

    python benchmarks/judge.py [--dataset mbpp|humaneval] [--limit N] [--samples FILE …] [--kinds KIND …]
                               [--rounds 3] [--out FILE]
    python benchmarks/judge.py --cpu [--against CHECKOUT …] [--dataset mbpp|humaneval] [--limit N] [--rounds 3]

The samples are, for every task, its canonical solution and a broken program (syntax error, wrong constant,
exception, no function, in turn), then endless loops, and the model-written programs of `--samples` (EvalPlus
samples; default: those under benchmarks/results); `--limit` takes that many tasks, evenly spaced. Tasks whose
reference needs 0.3 s or more are left out on both sides, since their time is the program's own. So is that of a
program that meets its time limit, a second a test on both sides: of the 1,456 model-written programs 10 do (0.7%,
one of them an endless loop), and one endless loop for every 150 broken programs is that share. Three comparisons,
each the median over the rounds, sides taken in turn:

* end to end: `promptrl judge --fail-fast` against `evalplus.evaluate`, whole processes, both with their
  expected outputs cached by a run before the first round;
* checking: the phase after start and expected outputs, in total and by kind of program;
* trainer: programs of all kinds, checked one after the other by EvalPlus, in one batch by promptrl, from a process
  that holds 1.2 GB; both have had these tasks before (promptrl a first batch that does not count, EvalPlus its
  expected outputs), as in a training run, which judges hundreds of programs a task. Once with and once without the
  endless loops, of which one in 80 programs is half of the time or more.

`--kinds model-written --samples FILE` is what a user has: one strategy's samples, one for every task.

Statuses of every sample are compared and the differences listed.

With `--cpu` seconds of processor are compared instead, which other work on the machine changes less: of the canonical
programs alone, checked one after the other by EvalPlus's `check_correctness` and by one worker of promptrl, all
processes of each side together; the judge of other checkouts of this repository (`--against`) takes its turn, too. So
do the programs without any judge, in one process: what a judge takes beyond that is its own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HELD_MB = 1200
TRAINER_PROGRAMS = 80
SLOW_SECONDS = 0.3
ENDLESS = "endless loop"
TRAINER = "trainer of 1.2 GB"
ALONE = "programs alone"
BROKEN = (
    "def {name}(*args):\n    return None\n",
    "def {name}(*args)\n    return 1\n",
    "def {name}(*args):\n    return args[0] / 0\n",
    "def another(*args):\n    return 1\n",
    "def {name}(*args):\n    return 7\n",
)
LOOPS = "def {name}(*args):\n    while True:\n        pass\n"
LOOP_EVERY = 150
CPU_PASSES = {"evalplus": 1, "promptrl": 4, ALONE: 4}  # over all programs, after one that does not count

Samples = dict[str, list[dict[str, str]]]  #: by kind of program


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of one side.

    Attributes:
        whole: Seconds of the whole process.
        checking: Seconds of the checking phase.
        kinds: Seconds of it by kind of program.
        statuses: Of every sample.
    """

    whole: float
    checking: float
    kinds: dict[str, float]
    statuses: list[list[str]]


def problems_of(dataset: str) -> dict[str, dict[str, Any]]:
    from evalplus.data import get_human_eval_plus, get_mbpp_plus

    problems = get_mbpp_plus() if dataset == "mbpp" else get_human_eval_plus()
    return {k: p for k, p in problems.items() if reference_seconds(p) < SLOW_SECONDS}


def evenly(problems: dict[Any, Any], limit: int) -> dict[Any, Any]:
    """`limit` of the entries, evenly spaced; all for 0."""
    keys = list(problems)
    count = min(limit, len(keys)) or len(keys)
    return {k: problems[k] for k in (keys[i * len(keys) // count] for i in range(count))}


def reference_seconds(problem: dict[str, Any]) -> float:
    """How long the reference takes for all inputs; infinity when it is stopped at `SLOW_SECONDS`."""
    namespace: dict[str, Any] = {}
    source = problem["prompt"] + problem["canonical_solution"]
    inputs = deepcopy([*problem["base_input"], *problem["plus_input"]])  # one task has {} for no plus inputs
    exec(source, namespace)

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    begin = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, SLOW_SECONDS)
        for arguments in inputs:
            namespace[problem["entry_point"]](*arguments)
    except TimeoutError:
        return math.inf
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return time.perf_counter() - begin


def make_samples(problems: dict[str, dict[str, Any]], written: Sequence[Path]) -> Samples:
    def rows(programs: Sequence[str], every: int = 1) -> list[dict[str, str]]:
        chosen = [(n, t, p) for n, (t, p) in enumerate(problems.items()) if n % every == 0]
        return [
            {"task_id": t, "solution": programs[n % len(programs)].format(name=p["entry_point"])} for n, t, p in chosen
        ]

    canonical = [{"task_id": t, "solution": p["prompt"] + p["canonical_solution"]} for t, p in problems.items()]
    lines = [json.loads(line) for path in written for line in path.read_text().splitlines() if line.strip()]
    model = [{"task_id": r["task_id"], "solution": r["solution"]} for r in lines if r["task_id"] in problems]
    samples = {"canonical": canonical, "broken": rows(BROKEN), ENDLESS: rows([LOOPS], LOOP_EVERY)}
    return {**samples, "model-written": model} if model else samples


def of_kinds(samples: Samples, kinds: Sequence[str]) -> Samples:
    """Those kinds of programs; all if none is named."""
    if missing := [kind for kind in kinds if kind not in samples]:
        sys.exit(f"judge.py: no programs of kind {missing[0]!r} here; choose among {', '.join(samples)}")
    return {kind: rows for kind, rows in samples.items() if not kinds or kind in kinds}


def write_problems(dataset: str, problems: dict[str, dict[str, Any]], folder: Path) -> dict[str, str]:
    """A data file of the chosen tasks, and the environment in which both judges read it."""
    from evalplus.data.mbpp import mbpp_serialize_inputs

    path = folder / f"{dataset}.jsonl"
    with path.open("w") as f:
        for task_id, p in problems.items():
            row = dict(p)
            if dataset == "mbpp":
                row |= {k: mbpp_serialize_inputs(task_id, row[k]) for k in ("base_input", "plus_input")}
            f.write(json.dumps(row) + "\n")
    return {**os.environ, f"{dataset.upper()}_OVERRIDE_PATH": str(path), "PROMPTRL_NO_HOOK": "1"}


def run(command: Sequence[str], env: dict[str, str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def statuses(path: Path) -> list[list[str]]:
    rows = [r for task in json.loads(path.read_text())["eval"].values() for r in task]
    return sorted([r["task_id"], r["solution"], r["base_status"], r["plus_status"]] for r in rows)


def by_kind(finished: Sequence[float], samples: Samples) -> dict[str, float]:
    """Seconds that each kind took, given when each program was finished; kinds are one after the other."""
    seconds, begin, at = {}, 0.0, 0
    for kind, rows in samples.items():
        end = max(finished[at : at + len(rows)])
        seconds[kind] = max(end - begin, 1e-3)
        begin, at = max(begin, end), at + len(rows)
    return seconds


def evalplus_side(dataset: str, path: Path, samples: Samples, workers: int, env: dict[str, str]) -> Timed:
    out = path.with_name("evalplus.json")
    script = str(HERE / "evalplus_timed.py")
    results = path.with_name(path.name.replace(".jsonl", "_eval_results.json"))
    results.unlink(missing_ok=True)  # else EvalPlus asks whether to use them
    whole = run([script, "evaluate", dataset, str(path), str(out), str(workers)], env)
    timed = json.loads(out.read_text())
    return Timed(whole, timed["seconds"], by_kind(timed["finished"], samples), statuses(results))


def promptrl_side(dataset: str, path: Path, samples: Samples, workers: int, env: dict[str, str]) -> Timed:
    results, out = path.with_name("promptrl.json"), path.with_name("timed.json")
    judge = ["-m", "promptrl_plugin.cli.main", "judge", "--suite", dataset, "--samples", str(path)]
    whole = run([*judge, "--out", str(results), "--fail-fast", "--workers", str(workers)], env)
    run([__file__, "--timed", dataset, str(path), str(out), str(workers), "0"], env)
    timed = json.loads(out.read_text())
    return Timed(whole, timed["seconds"], by_kind(timed["finished"], samples), statuses(results))


def timed_judge(dataset: str, samples: str, out: str, workers: str, held_mb: str) -> None:
    """Our judge in a process, which as a trainer holds memory and has judged before (the inner half of this script)."""
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.evaluation.judging import judge_samples, read_samples
    from promptrl_plugin.suites.registry import load_suite

    held = bytearray(int(held_mb) * 1024**2)
    held[::4096] = b"\1" * len(held[::4096])
    suite = load_suite(dataset)
    submissions = read_samples(Path(samples), suite, partial=True)
    hidden = suite.hidden()
    finished = [0.0] * len(submissions)
    with IsolatedJudge(JudgeConfig(workers=int(workers))) as judge:
        judge.warm_up()
        if held:
            judge_samples(submissions, hidden, judge, fail_fast=True)
        begin = time.perf_counter()

        def note(position: int) -> None:
            finished[position] = time.perf_counter() - begin

        judge_samples(submissions, hidden, judge, fail_fast=True, on_progress=note)
        seconds = time.perf_counter() - begin
    Path(out).write_text(json.dumps({"seconds": seconds, "programs": len(submissions), "finished": finished}))


def trainer(dataset: str, path: Path, workers: int, env: dict[str, str]) -> tuple[float, float]:
    """Programs a second from a process that holds 1.2 GB: EvalPlus, promptrl."""
    theirs, ours = path.with_name("t.json"), path.with_name("o.json")
    run([str(HERE / "evalplus_timed.py"), "trainer", dataset, str(path), str(theirs), str(HELD_MB)], env)
    run([__file__, "--timed", dataset, str(path), str(ours), str(workers), str(HELD_MB)], env)
    rates = [(d := json.loads(p.read_text()))["programs"] / d["seconds"] for p in (theirs, ours)]
    return rates[0], rates[1]


def processor_seconds() -> float:
    """Seconds of processor of this process and all below it, ended or not."""
    t = os.times()
    waiting, seconds = _children(os.getpid()), t.user + t.system + t.children_user + t.children_system
    while waiting:
        pid = waiting.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own and its ended children's
        waiting += _children(pid)
    return seconds


def _children(pid: int) -> list[int]:
    return [int(n) for path in Path(f"/proc/{pid}/task").glob("*/children") for n in path.read_text().split()]


def cpu_seconds(dataset: str, samples: str, out: str, side: str) -> None:
    """Seconds of processor a program on one side (the inner half of this script)."""
    checks = {"evalplus": evalplus_check, "promptrl": promptrl_check, ALONE: no_check}
    with checks[side](dataset, Path(samples)) as (count, check):
        check()
        begin = processor_seconds()
        for _ in range(CPU_PASSES[side]):
            check()
        seconds = processor_seconds() - begin
    Path(out).write_text(json.dumps(seconds / CPU_PASSES[side] / count))


@contextmanager
def evalplus_check(dataset: str, samples: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    from evalplus import evaluate as module

    problems = module.get_mbpp_plus() if dataset == "mbpp" else module.get_human_eval_plus()
    digest = module.get_mbpp_plus_hash() if dataset == "mbpp" else module.get_human_eval_plus_hash()
    not_none = module.MBPP_OUTPUT_NOT_NONE_TASKS if dataset == "mbpp" else []
    expected = module.get_groundtruth(problems, digest, not_none)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]

    def check() -> None:
        for row in rows:
            task = row["task_id"]
            module.check_correctness(dataset, 0, problems[task], row["solution"], expected[task], fast_check=True)

    yield len(rows), check


@contextmanager
def promptrl_check(dataset: str, samples: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.evaluation.judging import judge_samples, read_samples
    from promptrl_plugin.suites.registry import load_suite

    suite = load_suite(dataset)
    submissions, hidden = read_samples(samples, suite, partial=True), suite.hidden()
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:

        def check() -> None:
            judge_samples(submissions, hidden, judge, fail_fast=True)

        yield len(submissions), check


@contextmanager
def no_check(dataset: str, samples: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    problems = problems_of(dataset)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    jobs = [
        (row["solution"], p["entry_point"], [pickle.dumps([*p[inputs]]) for inputs in ("base_input", "plus_input")])
        for row in rows
        for p in (problems[row["task_id"]],)
    ]

    def check() -> None:
        for source, entry_point, groups in jobs:
            code = compile(source, "<string>", "exec")
            for inputs in groups:
                namespace: dict[str, Any] = {}
                exec(code, namespace)
                for arguments in pickle.loads(inputs):
                    namespace[entry_point](*arguments)

    yield len(rows), check


def compare_cpu(args: argparse.Namespace, folder: Path) -> None:
    """Print milliseconds of processor a program, by side, and how many times EvalPlus's each takes less.

    The last column is the same of what a side takes beyond the programs themselves.
    """
    problems = evenly(problems_of(args.dataset), args.limit)
    path = write_samples(folder / "samples.jsonl", make_samples(problems, [])["canonical"])
    env = write_problems(args.dataset, problems, folder)
    checkouts = {"promptrl": HERE.parent, **{str(p): p.resolve() for p in args.against}}
    ours = {name: env | {"PYTHONPATH": str(p)} for name, p in checkouts.items()}
    sides = {"evalplus": env, **ours, ALONE: env}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            out = folder / "cpu.json"
            side = "promptrl" if name in ours else name
            run([__file__, "--cpu-of", args.dataset, str(path), str(out), side], sides[name])
            taken[name].append(1000 * json.loads(out.read_text()))
    print(f"{len(problems)} canonical programs, {args.rounds} rounds, milliseconds of processor a program")
    for name, each in taken.items():
        turns = list(zip(taken["evalplus"], each, taken[ALONE], strict=True))
        ratio = statistics.median(e / n for e, n, _ in turns)
        own = "" if name == ALONE else f"{statistics.median((e - a) / (n - a) for e, n, a in turns):6.2f}x"
        print(f"{name:20s} {statistics.median(each):8.2f} ({min(each):.2f} to {max(each):.2f}) {ratio:6.2f}x {own}")


def write_samples(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    problems = evenly(problems_of(args.dataset), args.limit)
    samples = of_kinds(make_samples(problems, args.samples), args.kinds)
    rows = [row for kind in samples.values() for row in kind]
    path = write_samples(folder / "samples.jsonl", rows)
    ends = [row for kind, of_kind in samples.items() if kind != ENDLESS for row in of_kind]
    chosen = {
        name: write_samples(folder / f"{i}.jsonl", list(evenly(dict(enumerate(some)), TRAINER_PROGRAMS).values()))
        for i, (name, some) in enumerate({TRAINER: rows, "  without endless loops": ends}.items())
        if some
    }
    env = write_problems(args.dataset, problems, folder)
    sides: dict[str, Callable[..., Timed]] = {"evalplus": evalplus_side, "promptrl": promptrl_side}
    for side in sides.values():  # expected outputs are cached from here on
        side(args.dataset, path, samples, args.workers, env)
    times: dict[str, list[Timed]] = {name: [] for name in sides}
    held: list[dict[str, tuple[float, float]]] = []
    for _ in range(args.rounds):
        for name, side in sides.items():
            times[name].append(side(args.dataset, path, samples, args.workers, env))
        held.append({name: trainer(args.dataset, some, args.workers, env) for name, some in chosen.items()})
    return summary(len(problems), samples, times, held)


def summary(
    tasks: int, samples: Samples, times: dict[str, list[Timed]], held: list[dict[str, tuple[float, float]]]
) -> dict[str, Any]:
    programs = sum(map(len, samples.values()))

    def phases(timed: Timed, trained: dict[str, float]) -> dict[str, float]:
        """Programs a second."""
        kinds = {f"  {kind}": len(rows) / timed.kinds[kind] for kind, rows in samples.items()}
        return {
            "end to end": programs / timed.whole,
            "checking": programs / timed.checking,
            **kinds,
            **trained,
        }

    rounds = {
        name: [phases(t, {k: rates[i] for k, rates in h.items()}) for t, h in zip(timed, held, strict=True)]
        for i, (name, timed) in enumerate(times.items())
    }
    ratios = [{k: p[k] / e[k] for k in e} for e, p in zip(rounds["evalplus"], rounds["promptrl"], strict=True)]
    theirs, ours = times["evalplus"][-1].statuses, times["promptrl"][-1].statuses
    return {
        "tasks": tasks,
        "programs": {kind: len(rows) for kind, rows in samples.items()},
        "rounds": len(held),
        "cores": len(os.sched_getaffinity(0)),
        "programs_a_second": {name: medians(rates) for name, rates in rounds.items()},
        "ratio": medians(ratios),
        "different_statuses": [[a[0], a[1], a[2:], b[2:]] for a, b in zip(theirs, ours, strict=True) if a != b],
    }


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}


def show(result: dict[str, Any]) -> None:
    programs = sum(result["programs"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in result["programs"].items())
    print(f"{result['tasks']} tasks, {programs} programs ({kinds}), {result['rounds']} rounds, {result['cores']} cores")
    print(f"{'programs a second':20s} {'evalplus':>10s} {'promptrl':>10s} {'ratio':>8s}")
    rates = result["programs_a_second"]
    for phase, ratio in result["ratio"].items():
        print(f"{phase:20s} {rates['evalplus'][phase]:10.1f} {rates['promptrl'][phase]:10.1f} {ratio:7.1f}x")
    differing = result["different_statuses"]
    print(f"{len(differing)} of {programs} statuses differ" + (":" if differing else ""))
    for task, solution, theirs, ours in differing:
        print(f"  {task}: EvalPlus {theirs}, promptrl {ours}: {solution.strip().splitlines()[-1][:60]}")


def main() -> None:
    if sys.argv[1:2] == ["--timed"]:
        timed_judge(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--cpu-of"]:
        cpu_seconds(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("mbpp", "humaneval"), default="mbpp")
    parser.add_argument("--limit", type=int, default=0, help="tasks (0: all)")
    parser.add_argument("--samples", type=Path, nargs="*", default=None)
    parser.add_argument("--kinds", nargs="*", default=[], metavar="KIND", help="of programs (none named: all)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cpu", action="store_true", help="compare seconds of processor instead")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="other checkouts, for --cpu")
    args = parser.parse_args()
    if args.samples is None:
        args.samples = sorted((HERE / "results").glob(f"**/*{args.dataset}*.samples.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        if args.cpu:
            compare_cpu(args, Path(folder))
            return
        result = compare(args, Path(folder))
    show(result)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
