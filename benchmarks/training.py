#!/usr/bin/env python3
"""What a training run costs beside generating and judging: share of wall time, and memory beside the models.

    python benchmarks/training.py RUN [--out FILE]

RUN is the folder of a finished `promptrl train` that generated its completions (not a repeated one). The same run is
made once more in a process that has no model: every completion and verdict comes from the cache. All that
is left then is the environment, features, PPO's updates, replays and the log, so

* share = wall time of the repeated run / wall time of RUN (loading left out on both sides);
* memory = the largest sum of resident memory over that process and its judge, which has just judged every
  reference of the train tasks.

It also tells how long two warm judge workers take to start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ALIVE = 0.05  #: seconds between two looks at the memory


class Silent:
    """A training run that nobody watches."""

    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int) -> None: ...
    def generation(self) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...


def resident_mb(root: int) -> float:
    """Resident megabytes of a process and all its descendants (Linux)."""
    table: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                pages = int((entry / "statm").read_text().split()[1])
            except (OSError, ValueError):
                continue  # it has just ended
            table[int(entry.name)] = parent, pages
    family, more = {root}, True
    while more:
        found = {pid for pid, (parent, _) in table.items() if parent in family} - family
        family |= found
        more = bool(found)
    return sum(table[pid][1] for pid in family if pid in table) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(threading.Thread):
    """Keeps the largest memory of this process and its descendants."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(ALIVE):
            self.peak = max(self.peak, resident_mb(os.getpid()))


def repeat(run: Path, folder: Path) -> dict[str, float]:
    """The inner half: the run once more, without a model."""
    from promptrl_plugin.agent import parts as module
    from promptrl_plugin.agent.bundle import PolicyBundle
    from promptrl_plugin.agent.train import train
    from promptrl_plugin.backbones.scripted import ScriptedBackbone
    from promptrl_plugin.checking.base import JudgeRequest
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig, TrainConfig, from_dict
    from promptrl_plugin.storage.runs import RunFolder

    config: TrainConfig = from_dict(TrainConfig, RunFolder.open(run).config())
    fingerprint = PolicyBundle.load(run / "bundle").backbone_fingerprint

    def absent(name: str, **_: Any) -> ScriptedBackbone:
        return ScriptedBackbone({}, fingerprint=fingerprint, name=name, completes=True)  # as models of transformers do

    module.load_backbone = absent  # type: ignore[assignment]
    with IsolatedJudge(JudgeConfig(workers=2)) as judge:
        begin = time.perf_counter()
        judge.warm_up()
        start = time.perf_counter() - begin
    watch = Watch()
    parts = module.build(config, Silent())
    inner = parts.judge.inner
    hidden = [(t.hidden.reference, t.hidden.groups) for t in parts.rollout.tasks]
    watch.start()
    inner.check([JudgeRequest(reference, groups) for reference, groups in hidden])
    begin = time.perf_counter()
    train(parts, RunFolder.create(folder, config), Silent())
    seconds = time.perf_counter() - begin
    watch.over.set()
    missed = parts.backbone.stats.misses
    parts.close()
    if missed:
        sys.exit(f"{missed} completions of {run} are not in the cache; import them, or train there anew")
    return {"seconds": seconds, "peak_mb": watch.peak, "judge_start_seconds": start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--inner", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner is not None:
        args.inner.write_text(json.dumps(repeat(args.run, args.inner.with_name("run"))))
        return
    rows = [json.loads(line) for line in (args.run / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    if not last["cache/misses"]:
        sys.exit(f"{args.run} generated nothing: its completions came from the cache, so its time says nothing")
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "inner.json"
        subprocess.run([sys.executable, __file__, str(args.run), "--inner", str(inner)], check=True)
        again = json.loads(inner.read_text())
    wall = 60 * last["time/minutes"]
    result = {
        "steps": last["steps"], "generations": last["generations/distinct"], "wall_seconds": wall,
        "beside_seconds": again["seconds"], "share": again["seconds"] / wall, "peak_mb": again["peak_mb"],
        "judge_start_seconds": again["judge_start_seconds"],
    }  # fmt: skip
    print(f"{last['steps']:.0f} steps, {last['generations/distinct']:.0f} generations in {wall / 60:.1f} minutes")
    print(f"beside generating and judging: {again['seconds']:.1f} s, {100 * result['share']:.1f} % of wall time")
    print(f"memory of trainer and judge beside the models: {again['peak_mb']:.0f} MB")
    print(f"start of two judge workers: {again['judge_start_seconds']:.2f} s")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
