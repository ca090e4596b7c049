"""Strategies on a scripted backbone: what they ask, spend and submit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BudgetError, ConfigError, UnknownNameError
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render
from promptrl_plugin.records import (
    AssertGroup,
    Candidate,
    Decoding,
    FailureKind,
    Feedback,
    Generate,
    GenerationRequest,
    GroupVerdict,
    Sample,
    Status,
    Task,
)
from promptrl_plugin.strategies.base import Solve, Strategy, StrategyContext
from promptrl_plugin.strategies.best_of_k import BestOfK
from promptrl_plugin.strategies.direct import Direct
from promptrl_plugin.strategies.registry import STRATEGIES, make_strategy
from promptrl_plugin.strategies.runner import solve_tasks

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"
TASK = Task(
    "Test/1",
    "test",
    "mbpp",
    '"""\nWrite a function to add one.\nassert f(1) == 2\n"""\n',
    "f",
    AssertGroup(("assert f(1) == 2",)),
)


def visible(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
    """Passes programs that add one."""
    return [
        GroupVerdict(Status.PASS, (True,), 1)
        if "x + 1" in p
        else GroupVerdict(Status.FAIL, (False,), 1, FailureKind.WRONG_VALUE)
        for _, p in programs
    ]


def right_at(index: int) -> ScriptedBackbone:
    """A backbone whose sample number `index` is right, and whose greedy program is wrong."""

    def rule(request: GenerationRequest) -> str:
        return RIGHT if not request.decoding.greedy and request.index == index else WRONG

    return ScriptedBackbone(rule)


def solve(
    strategy: Strategy, backbone: ScriptedBackbone, budget: int = 6, feedback: Feedback = Feedback.VISIBLE
) -> Sample:
    (sample,) = solve_tasks([TASK], strategy, backbone, visible, feedback=feedback, budget=budget, seed=5)
    return sample


def test_direct_is_one_greedy_generation_from_evalplus_prompt():
    backbone = right_at(0)
    sample = solve(Direct(), backbone)
    (request,) = backbone.requests
    assert request == GenerationRequest(render(TASK, PromptState.initial(TASK)), Decoding(0.0, 1.0, 768))
    assert sample.solution == WRONG.strip()
    assert sample.generations == 1


def test_best_of_k_submits_the_first_sample_that_passes_and_stops_there():
    backbone = right_at(2)
    sample = solve(BestOfK(), backbone)
    assert sample.solution == RIGHT.strip()
    assert sample.visible_status is Status.PASS
    assert sample.generations == 3
    assert [r.index for r in backbone.requests] == [0, 1, 2]
    assert {r.seed for r in backbone.requests} == {5}
    assert {r.decoding.temperature for r in backbone.requests} == {0.8}


def test_best_of_k_submits_the_first_sample_when_none_passes():
    backbone = right_at(99)
    sample = solve(BestOfK(), backbone, budget=4)
    assert sample.solution == WRONG.strip()
    assert sample.generations == 4
    assert sample.visible_status is Status.FAIL


def test_best_of_k_without_feedback_draws_once():
    assert solve(BestOfK(), right_at(2), feedback=Feedback.NONE).generations == 1


def test_the_runner_refuses_a_budget_of_nothing_and_a_strategy_that_overspends():
    with pytest.raises(ConfigError, match="--budget 1 or more"):
        solve(Direct(), right_at(0), budget=0)

    class Spendthrift(Direct):
        def solve(self, task: Task, context: StrategyContext) -> Solve:
            request = GenerationRequest(render(task, PromptState.initial(task)), Decoding())
            yield Generate((request,) * (context.budget + 1))
            return Sample(task.id, "", "")

    with pytest.raises(BudgetError, match="the budget is 6"):
        solve(Spendthrift(), right_at(0))


def test_samples_are_announced_with_what_they_cost():
    seen: list[Sample] = []
    backbone = right_at(1)
    solve_tasks([TASK], BestOfK(), backbone, visible, feedback=Feedback.VISIBLE, budget=3, on_sample=seen.append)
    assert [(s.task_id, s.generations) for s in seen] == [("Test/1", 2)]
    assert seen[0].prompt_tokens > 0
    assert seen[0].completion_tokens > 0
    wrong = Candidate(WRONG.strip(), 1, 0.0, FailureKind.WRONG_VALUE)
    assert seen[0].candidates == (wrong, Candidate(RIGHT.strip(), 2, 1.0))


def test_unknown_strategies_are_refused_with_near_names():
    with pytest.raises(UnknownNameError, match="best-of-k"):
        make_strategy("best-of-n", backbone=right_at(0))
    assert set(STRATEGIES) >= {"direct", "best-of-k", "random-hybrid", "promptrl"}


UNTESTED = Task("Test/2", "test", "mbpp", '"""\nWrite a function f to add one.\n"""\n', "f", AssertGroup(()))


@pytest.mark.parametrize("name", ["best-of-k", "epic", "reflexion"])
def test_a_task_without_a_visible_test_runs_as_at_none(name: str) -> None:
    def told(task: Task, feedback: Feedback) -> tuple[list[GenerationRequest], Sample]:
        backbone = right_at(1)
        shown = [task, TASK] if task is UNTESTED else [task]

        def checker(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
            if feedback is Feedback.NONE:
                return [None] * len(programs)
            verdicts = visible(programs)
            return [v if t.visible.count else None for (t, _), v in zip(programs, verdicts, strict=True)]

        samples = solve_tasks(
            shown, make_strategy(name, backbone=backbone), backbone, checker, feedback=feedback, budget=4
        )
        return [r for r in backbone.requests if "f(1)" not in r.prompt.plain], samples[0]

    assert told(UNTESTED, Feedback.VISIBLE) == told(UNTESTED, Feedback.NONE)
    spent = told(TASK, Feedback.VISIBLE)[1].generations
    assert spent > 1, "the other tasks keep their feedback"
    if name == "best-of-k":
        assert told(UNTESTED, Feedback.VISIBLE)[1].generations == 1
