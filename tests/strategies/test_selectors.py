"""One selector for every strategy: what each asks for after a program that passes, and what it submits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_baselines import REWRITES
from test_strategies import TASK

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.config import EnvConfig
from promptrl_plugin.records import Feedback, GenerationRequest, GroupVerdict, Sample, Status, Task
from promptrl_plugin.strategies.base import Strategy
from promptrl_plugin.strategies.best_of_k import BestOfK, GreedyBestOfK
from promptrl_plugin.strategies.direct import Direct
from promptrl_plugin.strategies.epic import Epic
from promptrl_plugin.strategies.gepa import Gepa
from promptrl_plugin.strategies.reflexion import Reflexion
from promptrl_plugin.strategies.registry import shipped_policies
from promptrl_plugin.strategies.runner import solve_tasks

CHEAT, WRONG = "def f(x):\n    return 2", "def f(x):\n    return x"
RIGHT = ("def f(x):\n    return x + 1", "def f(x):\n    return 1 + x")


class Shown:
    """Passes programs that return 2 for 1; executes on 1 to 3. (Trusted programs only.)"""

    def __call__(self, programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        passes = [did[0] == "2" for did in self.execute(programs)]
        return [GroupVerdict(Status.PASS if p else Status.FAIL, (p,), 1, detail="f(1) is wrong") for p in passes]

    def execute(self, programs: Sequence[tuple[Task, str]]) -> list[tuple[str, ...]]:
        outcomes = []
        for _, program in programs:
            namespace: dict[str, Callable[[int], int]] = {}
            exec(program, namespace)
            outcomes.append(tuple(str(namespace["f"](n)) for n in (1, 2, 3)))
        return outcomes


def in_order(*programs: str) -> ScriptedBackbone:
    """Writes these programs one after another, then the last for ever; rewrites and reflects when asked to."""
    left = list(programs)

    def rule(request: GenerationRequest) -> str:
        said = request.prompt.messages[-1].content
        if "different rewrites" in said:
            return REWRITES
        if "explain why" in said:
            return "it is off by one."
        return left.pop(0) if len(left) > 1 else left[0]

    return ScriptedBackbone(rule)


def solve(strategy: Strategy, backbone: ScriptedBackbone, selector: str = "agreement", budget: int = 6) -> Sample:
    (sample,) = solve_tasks(
        [TASK], strategy, backbone, Shown(), feedback=Feedback.VISIBLE, budget=budget, seed=5,
        env=EnvConfig(budget=budget, selector=selector),
    )  # fmt: skip
    return sample


def gepa() -> Gepa:
    """An instruction of no training."""
    made = PolicyBundle.load(shipped_policies()[0])
    network = {**made.network, "instruction": "Think."}
    return Gepa(replace(made, config={"learner": "gepa"}, network=network, train_hashes=(), train_fingerprints=()))


@pytest.mark.filterwarnings("ignore:the policy was trained at")
@pytest.mark.parametrize(
    ("strategy", "generations", "first"),
    [(BestOfK(), 4, 1), (GreedyBestOfK(), 4, 1), (Epic(), 5, 1), (Reflexion(), 4, 1), (gepa(), 4, 1)],
    ids=["best-of-k", "greedy-best-of-k", "epic", "reflexion", "gepa"],
)
def test_a_program_that_cheats_loses_to_two_that_agree(strategy: Strategy, generations: int, first: int):
    sample = solve(strategy, in_order(CHEAT, RIGHT[0], WRONG, RIGHT[1], CHEAT))
    assert sample.solution == RIGHT[0]
    assert sample.visible_status is Status.PASS
    assert sample.generations == generations
    assert [c.outcomes is None for c in sample.candidates] == [False, False, True, False]
    assert sample.candidates[1].outcomes == sample.candidates[3].outcomes != sample.candidates[0].outcomes
    alone = solve(strategy, in_order(CHEAT, RIGHT[0]), "first")
    assert (alone.solution, alone.generations) == (CHEAT, first)
    assert alone.candidates[0].outcomes is None


@pytest.mark.parametrize("strategy", [BestOfK(), Epic(), Reflexion()], ids=["best-of-k", "epic", "reflexion"])
def test_at_the_end_of_the_budget_the_largest_cluster_wins_and_ties_go_to_the_first(strategy: Strategy):
    assert solve(strategy, in_order(CHEAT, *RIGHT), "agreement:3", budget=4).solution == RIGHT[0]
    assert solve(strategy, in_order(CHEAT, RIGHT[0], WRONG), budget=3).solution == CHEAT


def test_reflexion_samples_the_prompt_that_led_to_a_passing_program():
    backbone = in_order(WRONG, *RIGHT)
    sample = solve(Reflexion(), backbone)
    assert sample.solution == RIGHT[0]
    assert sample.generations == 4
    repair, again = backbone.requests[2:]
    assert again.prompt == repair.prompt
    assert (repair.decoding.temperature, again.decoding.temperature) == (0.0, 0.8)


def test_direct_has_nothing_to_select_from():
    assert solve(Direct(), in_order(CHEAT, RIGHT[0])).generations == 1


@pytest.mark.parametrize("budget", [2, 3])
def test_the_budget_holds_under_agreement(budget: int):
    for strategy in (BestOfK(), Epic(), Reflexion()):
        assert solve(strategy, in_order(CHEAT, RIGHT[0], WRONG), budget=budget).generations <= budget


def test_epic_does_not_take_its_own_greedy_repetition_for_agreement():
    """Greedy decoding: each prompt gives one program, so a mutant equal to its parent proves nothing."""
    by_prompt: dict[str, str] = {}
    rng = np.random.default_rng(0)

    def rule(request: GenerationRequest) -> str:
        said = request.prompt.messages[-1].content
        if "different rewrites" in said:
            return "Short one here."
        return by_prompt.setdefault(said, f"def f(x):\n    return 2 + (x - 1) * {rng.integers(10**9)}")

    backbone = ScriptedBackbone(rule)
    sample = solve(Epic(), backbone, budget=20)
    asked = [r.prompt.messages[-1].content for r in backbone.requests]
    assert len(set(asked)) < len(asked), "some prompt was asked for again"
    assert len(asked) > 5, "and was not taken for agreement"
    assert sample.solution == by_prompt[asked[0]]


def test_greedy_first_then_the_samples_of_best_of_k():
    backbone, other = in_order(WRONG, WRONG, RIGHT[0]), in_order(WRONG, RIGHT[0])
    assert solve(GreedyBestOfK(), backbone, "first").generations == 3
    solve(BestOfK(), other, "first")
    first, *samples = backbone.requests
    assert first.decoding.greedy
    assert samples == other.requests
