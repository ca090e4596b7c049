"""The search for the best fixed sequence, on scripted tasks and a judge without isolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from doubles import answers_with_examples, make_rollout, name_of

from promptrl_plugin.agent.best_fixed import Arm, Search, follow
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.env.rollout import Rollout
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.records import GenerationRequest


def plan_then_examples(request: GenerationRequest) -> str:
    """Even tasks are solved by examples, odd ones once a plan is asked for; nothing else solves any."""
    name = name_of(request)
    number = int(name[1:])
    right = (
        len(request.prompt.messages) > 1
        if number % 2 == 0
        else "write the steps" in request.prompt.messages[-1].content
    )
    return f"def {name}(x):\n    return x + {number}\n" if right else f"def {name}(x):\n    return -1\n"


def plan_or_examples(request: GenerationRequest) -> str:
    """The same, but a plan and examples together solve nothing, nor does a program to repair."""
    shown = [m.content for m in request.prompt.messages]
    repair = any("return -1" in content for content in shown)
    both = len(shown) > 1 and "write the steps" in shown[-1]
    return "def nothing():\n    pass\n" if repair or both else plan_then_examples(request)


def name_of_arm(arm: Arm) -> str:
    return "+".join(a.name for a in arm)


def never() -> bool:
    return False


def search(rollout: Rollout) -> Search:
    return Search(rollout, list(range(len(rollout.tasks))))


def extend(
    found: Search, backbone: ScriptedBackbone, generations: int, spent: Callable[[], bool] = never
) -> Arm | None:
    return found.extend(generations, lambda: len(set(backbone.requests)), spent)


def test_each_position_takes_the_operator_that_solves_most_of_what_is_left() -> None:
    rollout, _, backbone = make_rollout(12, plan_then_examples, budget=2)
    found = search(rollout)
    first, second = extend(found, backbone, 600), extend(found, backbone, 600)
    assert first is not None
    assert second is not None
    names = {a.name for a in found.sequence}
    assert "plan_first" in names
    assert names & {"fixed_examples", "nearest_examples"}
    assert found.candidates() == []
    assert found.solved() == 1.0
    assert [next(iter(position)) for position in found.trials] == [name_of_arm(first), name_of_arm(second)]
    assert found.trials[0]["sample_hot"]["right"] == 0
    assert found.trials[1][name_of_arm(second)]["right"] == found.trials[1][name_of_arm(second)]["tasks"] > 0


def test_what_wants_the_untouched_prompt_follows_a_reset() -> None:
    rollout, _, backbone = make_rollout(12, plan_or_examples, budget=2)
    found = search(rollout)
    for _ in range(2):
        assert extend(found, backbone, 2000) is not None
    names = [a.name for a in found.sequence]
    assert names[1] == "reset"
    assert len(names) == 3
    assert found.solved() == 1.0
    assert name_of_arm(tuple(found.sequence[1:])) in found.trials[1]


def test_where_nothing_is_solved_every_operator_of_the_sequence_still_generates() -> None:
    rollout, _, backbone = make_rollout(6, lambda request: f"def {name_of(request)}(x):\n    return -1\n", budget=4)
    found = search(rollout)
    while extend(found, backbone, 200) is not None:
        assert len(found.trials) <= 4
    assert found.candidates() == []
    assert found.positions() == 4, "no episode is unfinished"
    act = follow(rollout.context.table, [a.name for a in found.sequence])
    e = rollout.start(0)
    while not e.episode.done:
        rollout.step([(e, act(np.zeros(1, dtype=np.float32), e.episode.mask()))])
    assert e.episode.spent == 4


def test_what_no_task_can_take_is_no_candidate() -> None:
    rollout, _, _ = make_rollout(6, plan_or_examples, budget=2)
    found = search(rollout)
    assert "generate" in map(name_of_arm, found.candidates())
    found = search(rollout)
    found.sequence = [a for a in rollout.context.table.actions if a.name == "generate"]
    assert "generate" not in map(name_of_arm, found.candidates()), "greedy, it would repeat itself"
    assert "sample_hot" in map(name_of_arm, found.candidates())
    assert found.positions() == 1


def test_no_task_is_looked_for_once_the_generations_are_spent() -> None:
    """Few tasks may be left unfinished by a long sequence: finding one more could cost more than all the search."""
    rollout, _, backbone = make_rollout(12, answers_with_examples, budget=3)
    table = {a.name: a for a in rollout.context.table.actions}
    found = search(rollout)
    found.sequence = [table["generate"], table["fixed_examples"]]  # which solves every task, so none is unfinished
    found.over = lambda: len(backbone.requests) >= 4
    assert extend(found, backbone, 1000) is None
    assert 4 <= len(backbone.requests) < 2 * len(rollout.tasks)


def test_nothing_is_searched_where_every_task_is_solved() -> None:
    rollout, _, backbone = make_rollout(6, answers_with_examples, budget=3)
    found = search(rollout)
    assert extend(found, backbone, 300) is not None
    assert found.solved() == 1.0
    assert extend(found, backbone, 300) is None
    assert len(found.sequence) == 1


def test_few_generations_are_tried_on_few_tasks() -> None:
    few, _, few_backbone = make_rollout(12, plan_then_examples, budget=2)
    many, _, many_backbone = make_rollout(12, plan_then_examples, budget=2)
    extend(search(few), few_backbone, 1)
    extend(search(many), many_backbone, 600)
    assert len(few_backbone.requests) < len(many_backbone.requests) / 2


def test_what_tasks_share_is_spent_on_more_of_them_and_on_other_draws() -> None:
    """Most trials repeat what was generated; a position still uses about the distinct generations that it may."""
    rollout, _, backbone = make_rollout(12, plan_then_examples, budget=4)
    found = search(rollout)
    assert extend(found, backbone, 400) is not None
    assert 300 < len(set(backbone.requests)) < 520
    assert max(trial["tasks"] for trial in found.trials[0].values()) > 12


def test_a_search_that_is_out_of_generations_keeps_the_best_so_far() -> None:
    rollout, _, backbone = make_rollout(12, plan_then_examples, budget=2)
    found = search(rollout)
    assert extend(found, backbone, 60, lambda: True) is not None
    assert len(found.sequence) == 1
    assert backbone.requests


def test_a_sequence_is_followed_without_what_is_masked_and_then_stops() -> None:
    table = ActionTable.default()
    act = follow(table, ["plan_first", "clarify", "generate"])
    observation, mask = np.zeros(1, dtype=np.float32), np.ones(table.n, dtype=bool)
    mask[table.names.index("clarify")] = False
    names = [table.names[act(observation, mask)] for _ in range(4)]
    assert names == ["plan_first", "generate", "stop", "stop"]


def test_where_nothing_of_the_sequence_can_be_applied_a_program_is_still_made() -> None:
    table = ActionTable.default()
    mask = np.zeros(table.n, dtype=bool)
    mask[[table.names.index("generate"), table.names.index("sample_hot")]] = True
    assert table.names[follow(table, ["clarify"])(np.zeros(1, dtype=np.float32), mask)] == "generate"


@pytest.mark.parametrize("budget", [1, 3])
def test_candidates_generate_and_fit_the_budget(budget: int) -> None:
    rollout, _, _ = make_rollout(6, plan_then_examples, budget=budget)
    candidates = search(rollout).candidates()
    assert all(len(arm) == 1 for arm in candidates)  # nothing is edited yet
    assert {arm[0].name for arm in candidates}.isdisjoint({"stop", "revert", "reset"})
    assert all(arm[0].operator.generations <= budget for arm in candidates)
    assert any(arm[0].operator.generations == 2 for arm in candidates) is (budget > 1)
