"""A Ray cluster of two workers, one of which is killed: what comes out is what one machine makes."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from killable import Place, read_records

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.evaluation.cluster import Cluster
from promptrl_plugin.evaluation.cluster_judge import ClusterJudge
from promptrl_plugin.suites.registry import load_suite

pytest.importorskip("ray", reason="needs Ray: pip install 'promptrl-plugin[ray]'")

COMPARE = (
    "compare", "--model", "scripted", "--backend", "scripted", "--strategies", "best-of-k,promptrl",
    "--suite", "starter-test", "--budget", "3", "--seeds", "0,1", "--out", "comparison",
)  # fmt: skip


class Machines:
    """The cluster: a head without CPUs and two workers of one each."""

    def __init__(self, place: Place) -> None:
        from ray.cluster_utils import Cluster as LocalCluster

        self.place = place
        self.cluster = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.workers = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()
        self.address = str(self.cluster.address)

    def kill_one(self) -> None:
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)

    def mend(self) -> None:
        """As many workers as at the beginning."""
        while len(self.workers) < 2:
            self.workers.append(self.cluster.add_node(num_cpus=1))
        self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    place = Place(tmp_path_factory.mktemp("cluster"))
    with pytest.MonkeyPatch.context() as patch:  # nodes and their workers inherit it
        for name, value in place.environment().items():
            if name != "TMPDIR":
                patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place.root / "plugin"), *filter(None, sys.path)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Machines(place)
        yield made
        made.cluster.shutdown()


def requests() -> list[JudgeRequest]:
    """Right, wrong, endless and broken programs."""
    suite = load_suite("starter")
    hidden = suite.hidden()
    programs = []
    for n, task in enumerate(suite.tasks()):
        right = hidden[task.id].reference
        loop = f"def {task.entry_point}(*args):\n    while True:\n        pass\n"
        wrong = f"def {task.entry_point}(*args):\n    return {n}\n"
        program = loop if n == 7 else (right, wrong, "def (")[n % 3]
        programs.append(JudgeRequest(program, hidden[task.id].groups, give_up_after=1, stop_hung=True))
    return programs


def test_a_judge_that_dies_loses_no_program(machines: Machines) -> None:
    asked = requests()
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        alone = judge.check(asked)
    machines.mend()
    seen: Counter[int] = Counter()

    def progress(i: int) -> None:
        seen[i] += 1
        if seen.total() == 1:
            machines.kill_one()

    with Cluster(machines.address) as cluster:
        together = ClusterJudge(cluster, JudgeConfig())
        assert together.check(asked, progress) == alone
        assert seen == Counter(range(len(asked)))
        assert len(machines.workers) == 1
        assert together.check(asked[:5]) == alone[:5], "the other goes on"
        together.close()


def judges() -> list[psutil.Process]:
    """Processes of judges on the nodes, which are all of this machine."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ray::_NodeJudge" in " ".join(p.info["cmdline"] or ())]


def test_a_judge_whose_process_dies_is_replaced(machines: Machines) -> None:
    asked = requests()
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        alone = judge.check(asked)
    machines.mend()
    with Cluster(machines.address) as cluster:
        together = ClusterJudge(cluster, JudgeConfig())
        killed: list[int] = []

        def kill_all(_i: int) -> None:
            if not killed:
                killed.extend(p.pid for p in judges())
                for process in judges():
                    process.kill()

        assert together.check(asked, kill_all) == alone
        assert len(killed) == 2
        assert together.check(asked[:5]) == alone[:5]
        fresh = {p.pid for p in judges()}
        assert len(fresh) == 2, "one on each node again"
        assert fresh.isdisjoint(killed)
        together.close()


@pytest.mark.slow
def test_cells_of_a_comparison_survive_a_worker(machines: Machines, trained: Place, place: Place) -> None:
    command = (*COMPARE, "--policy", str(trained.work / "run" / "bundle"))
    assert place.run_fresh(*command) == 0, place.output
    machines.mend()
    there = Place(place.root / "there")
    begun = len(machines.place.generated())

    def kill() -> None:
        deadline = time.monotonic() + 120
        while len(machines.place.generated()) < begun + 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        machines.kill_one()

    killer = threading.Thread(target=kill)
    killer.start()
    assert there.run_fresh(*command, "--ray", machines.address) == 0, there.output
    killer.join()
    assert len(machines.workers) == 1
    assert there.generated() == [], "nothing was generated here"
    ours, theirs = (json.loads((p.work / "comparison/results.json").read_text()) for p in (place, there))
    assert theirs == ours
    for name in ours["samples"].values():
        for end in (".jsonl", ".raw.jsonl", ".trace.jsonl"):
            file = name.replace(".jsonl", end)
            assert read_records(there.work / "comparison" / file) == read_records(place.work / "comparison" / file)
    before = len(machines.place.generated())
    assert there.run_fresh(*command, "--ray", machines.address) == 0, there.output
    assert len(machines.place.generated()) == before, "what is done is not done again"


@pytest.mark.slow
def test_training_seeds_run_on_the_cluster(machines: Machines, config: Path, place: Place) -> None:
    machines.mend()
    everything = (
        "reproduce", "--backbone", "scripted", "--backend", "scripted", "--suite", "starter-test", "--seeds", "0,1",
        "--config", str(config), "--budget", "2", "--learners", "best-fixed",
    )  # fmt: skip
    assert place.run_fresh(*everything, "--out", "here") == 0, place.output
    assert place.run_fresh(*everything, "--out", "there", "--ray", machines.address) == 0, place.output
    for run in ("promptrl-seed0", "promptrl-seed1", "best-fixed-seed0", "best-fixed-seed1"):
        here, there = (place.work / where / "train" / run / "bundle" for where in ("here", "there"))
        names = sorted(p.name for p in here.iterdir())
        assert sorted(p.name for p in there.iterdir()) == names
        for name in names:
            if name.endswith(".safetensors"):
                assert (there / name).read_bytes() == (here / name).read_bytes(), f"{run}/{name}"
    cells: list[dict[str, Any]] = [
        json.loads((place.work / where / "compare/results.json").read_text())["cells"] for where in ("here", "there")
    ]
    assert cells[0] == cells[1]


def test_a_cluster_that_is_not_there_is_one_line(place: Place) -> None:
    assert place.run_fresh(*COMPARE, "--strategies", "direct", "--ray", "127.0.0.1:1") == 2
    (line,) = [x for x in place.output.splitlines() if x.startswith("promptrl:")]
    assert "no Ray cluster at 127.0.0.1:1" in line
    assert "ray start --head" in line
