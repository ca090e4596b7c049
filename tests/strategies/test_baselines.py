"""EPiC and Reflexion on a scripted backbone: what they ask for, in which order, and what they submit."""

from __future__ import annotations

import pytest
from test_strategies import RIGHT, TASK, WRONG, right_at, solve

from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render
from promptrl_plugin.records import Decoding, Feedback, GenerationRequest, Status
from promptrl_plugin.strategies.epic import Epic, parse_rewrites
from promptrl_plugin.strategies.reflexion import Reflexion
from promptrl_plugin.strategies.registry import make_strategy

REWRITES = """Write a function that increments its argument.
2. Return the given number plus one.
3) **Give back x and one more.**
4. ```python
def f(x): return x + 1
```
5. Write a function to make the next number."""


class Model(ScriptedBackbone):
    """Right once `hint` occurs in the prompt; lists rewrites and reflects when asked to."""

    def __init__(self, hint: str) -> None:
        super().__init__(self._answer)
        self.hint = hint

    def _answer(self, request: GenerationRequest) -> str:
        said = request.prompt.messages[-1].content
        if "different rewrites" in said:
            return REWRITES
        if "explain why" in said:
            return "it forgets to\nadd one."
        return RIGHT if self.hint in said else WRONG

    def asked(self) -> list[str]:
        """Kind of each request, in order."""
        kinds = {"different rewrites": "rewrites", "explain why": "reflection", "Find the mistake": "repair"}
        said = [r.prompt.messages[-1].content for r in self.requests]
        return [next((kind for text, kind in kinds.items() if text in s), "code") for s in said]


# --- EPiC -----------------------------------------------------------------------------------------


def test_epic_accepts_an_original_that_passes():
    backbone = ScriptedBackbone({"": RIGHT})
    assert solve(Epic(), backbone).generations == 1
    (request,) = backbone.requests
    assert request.prompt == render(TASK, PromptState.initial(TASK))
    assert request.decoding == Decoding(0.0, 1.0, 768)


def test_epic_runs_the_rewrites_of_one_request_in_turn_until_one_passes():
    backbone = Model("plus one.\nassert")
    sample = solve(Epic(), backbone)
    assert backbone.asked() == ["code", "rewrites", "code", "code"]
    assert backbone.requests[1].decoding.temperature == 0.9
    assert sample.solution == RIGHT.strip()
    assert sample.generations == 4
    assert sample.visible_status is Status.PASS
    assert "Return the given number plus one.\nassert f(1) == 2" in sample.prompt.text


def test_epic_mutates_when_no_rewrite_passes_and_falls_back_to_the_original():
    backbone = Model("never said")
    sample = solve(Epic(), backbone, budget=9)
    assert backbone.asked() == ["code", "rewrites"] + 7 * ["code"]
    prompts = [r.prompt.messages[-1].content for r in backbone.requests]
    assert all("assert f(1) == 2" in p for p in prompts)
    assert len(set(prompts[2:6])) == 4, "four of the five rewrites are fit to use"
    assert set(prompts[6:]) - set(prompts[:6]), "mutants are new prompts"
    assert sample.solution == WRONG.strip()
    assert sample.prompt.text == TASK.prompt
    assert sample.generations == 9


def test_epic_is_a_function_of_its_seed():
    first, second = Model("never said"), Model("never said")
    solve(Epic(), first, budget=12)
    solve(Epic(), second, budget=12)
    assert first.requests == second.requests


def test_epic_ends_after_its_generations_though_budget_is_left():
    backbone = Model("never said")
    solve(Epic(), backbone, budget=60)
    assert len(backbone.requests) == 1 + 1 + 4 + 3 * 4


@pytest.mark.parametrize("budget", [1, 2])
def test_epic_does_not_ask_for_rewrites_that_it_could_not_run(budget: int):
    backbone = Model("never said")
    assert solve(Epic(), backbone, budget=budget).generations == 1


def test_rewrites_are_read_from_a_numbered_list():
    assert parse_rewrites(REWRITES) == [
        "Write a function that increments its argument.",
        "Return the given number plus one.",
        "Give back x and one more.",
        "Write a function to make the next number.",
    ]
    assert parse_rewrites("") == []
    assert parse_rewrites("only this one here") == ["only this one here"]
    assert parse_rewrites("same text here\n2. same text here") == ["same text here"]


# --- Reflexion ------------------------------------------------------------------------------------


def test_reflexion_reflects_on_the_failure_and_tries_again_with_the_reflection():
    backbone = Model("it forgets to add one")
    sample = solve(Reflexion(), backbone)
    assert backbone.asked() == ["code", "reflection", "repair"]
    assert {r.decoding.greedy for r in backbone.requests} == {True}
    reflection, repair = backbone.requests[1].prompt, backbone.requests[2].prompt
    assert WRONG.strip() in reflection.messages[1].content
    assert WRONG.strip() in repair.messages[1].content
    assert sample.solution == RIGHT.strip()
    assert sample.generations == 3


def test_reflexion_goes_on_in_pairs_until_the_budget_is_spent():
    backbone = Model("never said")
    sample = solve(Reflexion(), backbone, budget=6)
    assert backbone.asked() == ["code", "reflection", "repair", "reflection", "repair"]
    assert sample.generations == 5
    assert sample.solution == WRONG.strip()


@pytest.mark.parametrize("strategy", [Epic(), Reflexion()])
def test_without_feedback_the_first_program_is_submitted(strategy: Epic | Reflexion):
    from promptrl_plugin.strategies.runner import solve_tasks

    backbone = Model("never said")
    (sample,) = solve_tasks([TASK], strategy, backbone, lambda p: [None] * len(p), feedback=Feedback.NONE, budget=6)
    assert sample.generations == 1


@pytest.mark.parametrize("name", ["epic", "reflexion"])
def test_they_are_strategies_by_name(name: str):
    assert make_strategy(name, backbone=right_at(0)).name == name
