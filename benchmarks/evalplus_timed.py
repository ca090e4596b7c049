#!/usr/bin/env python3
"""Run EvalPlus's checker on a samples file, unchanged, and tell how long its checking phase took.

    python benchmarks/evalplus_timed.py evaluate DATASET SAMPLES OUT WORKERS
    python benchmarks/evalplus_timed.py trainer DATASET SAMPLES OUT HELD_MB

*evaluate* is `evalplus.evaluate`, with a clock at the end of `get_groundtruth` and after each verdict.
*trainer* calls `check_correctness` program by program, as a training loop would, from a process that holds
HELD_MB megabytes. Both write ``{"seconds", "programs", …}`` to OUT; *evaluate* also ``"finished"``, the second of
the checking phase at which each sample had its verdict. `benchmarks/judge.py` calls this file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from evalplus import evaluate as module


def timed_evaluate(dataset: str, samples: str, workers: int) -> dict[str, Any]:
    clock: dict[str, float] = {}
    finished: dict[int, float] = {}
    expected = module.get_groundtruth

    def get_groundtruth(*args: Any) -> Any:
        result = expected(*args)
        clock["begin"] = time.perf_counter()
        return result

    def timed_as_completed(futures: Iterable[Any]) -> Iterator[Any]:
        position = {future: n for n, future in enumerate(futures)}
        for future in as_completed(position):
            finished[position[future]] = time.perf_counter() - clock["begin"]
            yield future

    module.get_groundtruth, module.as_completed = get_groundtruth, timed_as_completed
    module.evaluate(dataset=dataset, samples=samples, parallel=workers, i_just_wanna_run=True)
    seconds = [finished[n] for n in range(len(finished))]
    return {"seconds": max(seconds), "programs": len(seconds), "finished": seconds}


def as_a_trainer(dataset: str, samples: str, held_mb: int) -> dict[str, Any]:
    held = bytearray(held_mb * 1024**2)
    held[::4096] = b"\1" * len(held[::4096])  # every page is really there
    problems = module.get_mbpp_plus() if dataset == "mbpp" else module.get_human_eval_plus()
    digest = module.get_mbpp_plus_hash() if dataset == "mbpp" else module.get_human_eval_plus_hash()
    not_none = module.MBPP_OUTPUT_NOT_NONE_TASKS if dataset == "mbpp" else []
    expected = module.get_groundtruth(problems, digest, not_none)
    rows = [json.loads(line) for line in Path(samples).read_text().splitlines()]
    begin = time.perf_counter()
    statuses = []
    for row in rows:
        task = row["task_id"]
        result = module.check_correctness(
            dataset, 0, problems[task], row["solution"], expected[task], fast_check=True, identifier=task
        )
        statuses.append([result["base"][0], result["plus"][0]])
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "programs": len(rows), "statuses": statuses, "held_mb": len(held) // 1024**2}


def main() -> None:
    role, dataset, samples, out = sys.argv[1:5]
    numbers = [int(x) for x in sys.argv[5:]]
    result = (timed_evaluate if role == "evaluate" else as_a_trainer)(dataset, samples, *numbers)
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
