#!/usr/bin/env python3
"""What there is to adapt to: whether what the agent sees after a first failure tells what would help, on train tasks.

    python benchmarks/adaptivity.py --model qwen2.5-coder-0.5b-instruct --seeds 0,1,2 [--out FILE]

Every train task is tried greedily. Where that program fails the visible test, the operators of the recipe are each
applied from the task's own prompt (the survey of `promptrl train`; in the cache after such a run). The first table
tells, for each class of failure, on what share of these tasks each operator's program passes the visible test. Then
models that are given all that the agent sees at that moment, and the lengths of prompt and program, predict on tasks
that they were not fitted on whether any operator helps (should the agent go on?) and whether each of them does (which
one?). The area under the ROC curve is 0.5 for a guess and 1 for a perfect order; its interval is a bootstrap over
tasks. The last table tells what stopping early by the best of these predictions would lose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from operators import Silent, task_of
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from promptrl_plugin.agent.parts import build
from promptrl_plugin.config import TrainConfig, load

FOLDS = 10
DRAWS = 1000  # of the bootstrap

Floats = npt.NDArray[np.float64]


def failures(config: TrainConfig) -> list[dict[str, Any]]:
    """One row for each train task whose greedy program fails the visible test."""
    parts = build(config, Silent())
    try:
        rollout, names = parts.rollout, parts.setup.table.names
        generating = [a for a in parts.setup.table.actions if a.operator.generates and a.name != "generate"]
        greedy, rows = names.index("generate"), []
        started = [rollout.start(i) for i in range(len(rollout.tasks))]
        rollout.step([(e, greedy) for e in started])
        failed = [e for e in started if not e.episode.solved]
        others = {a.name: [rollout.start(e.index) for e in failed] for a in generating}
        if "failure_note" in others:  # answers a failure
            others["failure_note"] = failed
        seen = [parts.setup.layout.observe(e.episode) for e in failed]
        kinds = [str(e.episode.attempts[-1].verdict.failure) for e in failed]
        programs = [e.episode.attempts[-1].program for e in failed]
        moves = [(e, a.index) for a in generating for e in others[a.name]]
        rollout.step([(e, a) for e, a in moves if e.episode.mask()[a]])
        for n, e in enumerate(failed):
            task = e.episode.task
            sizes = [len(task.prompt), len(programs[n]), programs[n].count("\n")]
            rows.append(
                {
                    "task": f"{task.id}#{config.seed}",
                    "failure": kinds[n],
                    "observation": [float(x) for x in seen[n]] + [float(np.log1p(s)) for s in sizes],
                    "helps": {name: bool(es[n].episode.solved) for name, es in others.items()},
                }
            )
        return rows
    finally:
        parts.close()


def predicted(features: Floats, helps: npt.NDArray[np.bool_], tasks: npt.NDArray[Any], model: Any) -> Floats:
    """Probabilities by models that were fitted on other tasks."""
    folds = GroupKFold(FOLDS)
    found = cross_val_predict(model, features, helps, groups=tasks, cv=folds, method="predict_proba")[:, 1]
    return np.asarray(found, dtype=np.float64)


def area(helps: npt.NDArray[np.bool_], scores: Floats, tasks: npt.NDArray[Any]) -> tuple[float, float, float]:
    """The area under the ROC curve, and its 95 % interval by a bootstrap over tasks."""
    rng, ids = np.random.default_rng(0), np.unique(tasks)
    rows = {t: np.flatnonzero(tasks == t) for t in ids}
    draws = []
    while len(draws) < DRAWS:
        drawn = np.concatenate([rows[t] for t in rng.choice(ids, len(ids))])
        if 0 < helps[drawn].sum() < len(drawn):
            draws.append(roc_auc_score(helps[drawn], scores[drawn]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(roc_auc_score(helps, scores)), float(low), float(high)


def classes(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    kinds = sorted({r["failure"] for r in rows}, key=lambda k: -sum(r["failure"] == k for r in rows))
    groups = [(kind, [r for r in rows if r["failure"] == kind]) for kind in kinds]
    print(f"{'operator':20s}" + "".join(f"{f'{kind} ({len(some)})':>20s}" for kind, some in groups))
    for name in [*names, "any"]:
        shares = [100 * np.mean([any(r["helps"].values()) if name == "any" else r["helps"][name] for r in some])
                  for _, some in groups]  # fmt: skip
        print(f"{name:20s}" + "".join(f"{share:20.1f}" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="qwen2.5-coder-0.5b-instruct", help="recipe or TOML file: the operators")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--suite", default="mbpp-train")
    parser.add_argument("--seeds", default="0,1,2", help="of the splits and of sampling, by comma")
    parser.add_argument("--out", type=Path, default=None, help="keep the figures in this file")
    args = parser.parse_args()
    config = replace(load(Path(args.config)), backbone=args.model, suite=args.suite, blank_features=())
    rows = [row for seed in map(int, args.seeds.split(",")) for row in failures(replace(config, seed=seed))]
    names = list(rows[0]["helps"])
    print(
        f"\n{len(rows)} greedy programs fail the visible test; a program of the operator passes it on so many % of them"
    )
    classes(rows, names)
    features = np.array([r["observation"] for r in rows])
    features = features[:, features.std(axis=0) > 1e-9]
    tasks = np.array([task_of(r["task"]) for r in rows])
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000)),
        "random forest": RandomForestClassifier(300, min_samples_leaf=5, random_state=0),
    }
    helps = {"any": np.array([any(r["helps"].values()) for r in rows])}
    helps |= {name: np.array([r["helps"][name] for r in rows]) for name in names}
    results: dict[str, Any] = {"failures": len(rows), "features": features.shape[1], "areas": {}}
    print(
        f"\n{'helps':20s}" + "".join(f"{name:>28s}" for name in models) + "   area under the ROC curve, 95 % interval"
    )
    for name, known in helps.items():
        found = {m: area(known, predicted(features, known, tasks, model), tasks) for m, model in models.items()}
        results["areas"][name] = found
        print(
            f"{name:20s}" + "".join(f"{f'{a:.2f} ({low:.2f} to {high:.2f})':>28s}" for a, low, high in found.values())
        )
    best = max(models, key=lambda m: results["areas"]["any"][m][0])
    order = np.argsort(predicted(features, helps["any"], tasks, models[best]))
    print(f"\nstopping after the first failure where {best} sees least hope (a guess loses as many as it stops)")
    results["stopping"] = {}
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        lost = helps["any"][order[: round(share * len(order))]].sum() / helps["any"].sum()
        results["stopping"][f"{share:.1f}"] = float(lost)
        print(f"stops {100 * share:3.0f} % of them, loses {100 * lost:5.1f} % of what would be rescued")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
