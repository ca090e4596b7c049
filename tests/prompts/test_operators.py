"""Every operator on every prompt: what must survive survives, and the edit is what its name says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import pytest
from prompt_samples import EXAMPLES, apply, attempt, humaneval_task, make_task, mbpp_task, view

from promptrl_plugin import plugins
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.operators import builtin_operators, find_operator
from promptrl_plugin.prompts.operators.base import Operator
from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.prompts.state import PromptState, Repair
from promptrl_plugin.prompts.task_text import protected_names, split
from promptrl_plugin.prompts.template import render, text
from promptrl_plugin.prompts.tokens import protected_tokens
from promptrl_plugin.records import FailureKind, GroupVerdict, Status, Task

LEXICAL = [op for op in builtin_operators() if op.kind == "lexical"]
SEMANTIC = [op for op in builtin_operators() if op.kind == "semantic"]
IN_ORDER = ("synonym", "deletion", "swap")  # these leave protected tokens where they are


def facts(task: Task, prose: tuple[str, ...]) -> list[str]:
    names = protected_names(task.prompt, task.entry_point)
    return [t for p in prose for t in protected_tokens(p, names)]


def assert_task_survives(task: Task, state: PromptState) -> None:
    """Everything protected is still there, in order, and the render shows tests and signature verbatim."""
    edited = text(task, state)
    at = 0
    for segment in split(task.prompt):
        if not segment.prose:
            for line in (line.strip().removeprefix('"""').strip() for line in segment.text.splitlines()):
                assert line in edited[at:], (task.id, line)
                at = edited.index(line, at) + len(line) if line else at
    prompt = render(task, state)
    shown = [edited.strip() in prompt.plain, any(edited.strip() in m.content for m in prompt.messages)]
    assert shown == [True, True]
    if task.dialect == "humaneval":
        assert parsed(edited) is not None


@pytest.mark.parametrize("operator", LEXICAL, ids=lambda op: op.name)
def test_lexical_edits_keep_protected_tokens(operator: Operator, all_tasks: list[Task]) -> None:
    applied = 0
    for number, task in enumerate(all_tasks):
        first = PromptState.initial(task)
        other = replace(first, notes=("One.", "Two."))
        if deletion := apply(find_operator("deletion_strong"), view(task))[0] if first.prose else None:
            other = (
                replace(other, prose=deletion.prose)
                if facts(task, deletion.prose) == facts(task, first.prose)
                else other
            )
        episode = view(task, population=(first, other))
        if not operator.available(episode):
            continue
        state, asked = apply(operator, episode, seed=number)
        applied += 1
        assert not asked
        assert state.operators == (operator.name,)
        assert_task_survives(task, state)
        assert Counter(facts(task, state.prose)) == Counter(facts(task, first.prose)), task.id
        if operator.name.startswith(IN_ORDER):
            assert facts(task, state.prose) == facts(task, first.prose), task.id
            assert state.prose != first.prose
        assert number % 10 or apply(operator, episode, seed=number)[0] == state
    assert applied > 0


@pytest.mark.parametrize("operator", SEMANTIC, ids=lambda op: op.name)
@pytest.mark.parametrize(
    "answer", ["takes two lists and returns what they share.", "", "```python\ndef f(): pass", "9" * 9]
)
def test_semantic_edits_keep_the_facts(operator: Operator, answer: str, all_tasks: list[Task]) -> None:
    for task in (t for i, t in enumerate(all_tasks) if t.dialect == "humaneval" or i < 20 or i % 5 == 0):
        first = PromptState.initial(task)
        episode = view(task, last=attempt(first))
        if not operator.available(episode):
            continue
        state, _ = apply(operator, episode, rewriter=lambda request: answer)
        assert_task_survives(task, state)
        numbers = {t for t in facts(task, first.prose) if any(c.isdigit() for c in t) or t[0] in "'\"`"}
        assert numbers <= set(facts(task, state.prose)), task.id


def test_synonyms_replace_words_of_the_same_inflection() -> None:
    task = make_task('"""\nWrite a function that finds the largest cost.\nassert f(1) == 2\n"""\n', "f", "mbpp")
    seen = {apply(find_operator("synonym_strong"), view(task), seed)[0].prose[0] for seed in range(30)}
    assert any("determines" in p or "discovers" in p for p in seen)
    assert any("biggest" in p or "greatest" in p for p in seen)
    assert all(p.startswith(("Write a function that", "Compose a function that")) for p in seen)


def test_stronger_edits_change_more(benchmark_tasks: list[Task]) -> None:
    def changed(name: str) -> float:
        operator, sizes = find_operator(name), []
        for task in (t for t in benchmark_tasks[:200] if operator.available(view(t))):
            before = PromptState.initial(task).prose[0].split()
            after = apply(operator, view(task))[0].prose[0].split()
            sizes.append(1 - SequenceMatcher(None, before, after).ratio())
        return float(np.mean(sizes))

    for name in ("synonym", "deletion", "swap"):
        assert changed(f"{name}_strong") > changed(f"{name}_light") > 0


def test_deletion_never_takes_logic() -> None:
    prompt = '"""\nCheck whether the given thing is not less than any of them.\nassert f(1)\n"""\n'
    task = make_task(prompt, "f", "mbpp")
    for seed in range(20):
        state, _ = apply(find_operator("deletion_strong"), view(task), seed)
        assert {"not", "less", "than", "any", "whether"} <= set(state.prose[0].split())
        assert "  " not in state.prose[0]


def test_shuffle_moves_whole_sentences_and_their_followers() -> None:
    task = humaneval_task()
    state, _ = apply(find_operator("shuffle_light"), view(task))
    (prose,) = state.prose
    assert prose.startswith("Ignore values above 100.")
    assert "`limit`. Otherwise the function" in prose


def test_shuffle_needs_two_sentences_or_notes() -> None:
    task = mbpp_task()
    assert not find_operator("shuffle_light").available(view(task))
    noted = replace(PromptState.initial(task), notes=("One.", "Two."))
    state, _ = apply(find_operator("shuffle_light"), view(task, noted))
    assert state.notes == ("Two.", "One.")


def test_crossover_mixes_two_parents() -> None:
    task = make_task('"""\nFind the largest thing and remove the smallest part of it.\nassert f(1)\n"""\n', "f", "mbpp")
    first = PromptState.initial(task)
    mother = replace(first, prose=("Determine the biggest thing and remove the smallest part of it.",))
    father = replace(first, prose=("Find the largest thing and remove smallest portion of it.",))
    children = set()
    for seed in range(20):
        state, _ = apply(find_operator("crossover_light"), view(task, mother, population=(mother, father)), seed)
        children.add(state.prose[0])
    assert "Determine the biggest thing and remove smallest portion of it." in children
    assert not find_operator("crossover_light").available(view(task, mother, population=(mother,)))


def test_clarify_takes_a_valid_rewrite() -> None:
    task = mbpp_task()
    answer = " takes two tuples and returns a tuple of the elements in both.\nMore text"
    state, (request,) = apply(find_operator("clarify"), view(task), rewriter=lambda r: answer)
    assert state.prose == (
        "Write a Python function named `common` that takes two tuples and returns a tuple of the elements in both.",
    )
    assert request.decoding.greedy
    assert "assert common((3, 4), (4, 5)) == (4,)" in request.prompt.messages[-1].content
    assert request.prompt.prefix == "Write a Python function named `common` that"
    assert request.prompt.plain.endswith("Answer: Write a Python function named `common` that")


@pytest.mark.parametrize(
    "answer",
    ["", " ", " runs ```x```", " takes (3, 4) and (4, 5).", " returns x == y.", " word" * 300, " def f(x) is code"],
)
def test_an_invalid_rewrite_falls_back(answer: str) -> None:
    task = mbpp_task()
    state, _ = apply(find_operator("clarify"), view(task), rewriter=lambda r: answer)
    expected = "Write a Python function named `common` to find the shared elements from the given two lists."
    assert state.prose == (expected,)
    state, _ = apply(find_operator("simplify"), view(task), rewriter=lambda r: answer)
    assert state.prose == PromptState.initial(task).prose


def test_a_rewrite_that_was_cut_off_or_loses_a_number_is_refused() -> None:
    task = make_task('"""\nCheck whether a number is below 31.\nassert f(1)\n"""\n', "f", "mbpp")
    good, cut = " checks whether a number is below 31.", " checks whether a number is below some limit."
    simplify = find_operator("simplify")
    assert apply(simplify, view(task), rewriter=lambda r: good)[0].prose == (f"Write a function that{good}",)
    assert apply(simplify, view(task), rewriter=lambda r: cut)[0].prose == PromptState.initial(task).prose
    lists = make_task('"""\nMake N lists.\nassert f(1)\n"""\n', "f", "mbpp")
    assert apply(simplify, view(lists), rewriter=lambda r: " makes some lists.")[0].prose == ("Make N lists.",)
    assert apply(simplify, view(lists), rewriter=lambda r: " gives N lists.")[0].prose != ("Make N lists.",)
    state, _ = apply(simplify, view(task), rewriter=lambda r: good, finish_reason="length")
    assert state.prose == PromptState.initial(task).prose


def test_a_rewrite_happens_once_in_a_lineage() -> None:
    task = mbpp_task()
    clarify = find_operator("clarify")
    state, _ = apply(clarify, view(task), rewriter=lambda r: " returns what two tuples share.")
    assert not clarify.available(view(task, state))
    assert not clarify.available(view(task, population=(PromptState.initial(task), state)))


def test_notes() -> None:
    task = mbpp_task()
    state, _ = apply(find_operator("contract"), view(task))
    assert state.notes == (
        "The function `common` takes 2 arguments: a tuple of integers and a tuple of integers. "
        "It returns a tuple of integers.",
    )
    assert not find_operator("contract").available(view(task, state))
    state, _ = apply(find_operator("edge_cases"), view(task, state))
    assert len(state.notes) == 2
    assert "an empty tuple" in state.notes[1]


@pytest.mark.parametrize(
    ("assertion", "phrase"),
    [
        ("assert f([[1, 2]], 'x') == {'a': 1}", "and a string. It returns a dictionary from strings to integers."),
        ("assert f([[1, 2], [3]]) == 1", "1 argument: a list of lists of integers. It returns an integer."),
        ("assert set(f([1.5, 2])) == set([1])", "returns a collection of integers, compared without regard to order."),
        ("assert not f(3)", "an integer. It returns a boolean (True or False)."),
        ("assert f(()) is None", "1 argument: a tuple. It returns None."),
        ("assert math.isclose(f(2), 1.5)", "an integer. It returns a float."),
        ("assert f(x) == y", "The function `f` takes 1 argument."),
    ],
)  # fmt: skip
def test_contract_of_visible_tests(assertion: str, phrase: str) -> None:
    task = make_task(f'"""\nDo it.\n{assertion}\n"""\n', "f", "mbpp")
    state, _ = apply(find_operator("contract"), view(task))
    assert state.notes[0].endswith(phrase)


def test_contract_names_the_parameters_of_a_signature() -> None:
    state, _ = apply(find_operator("contract"), view(humaneval_task()))
    assert "`numbers` (a list of floats) and `limit` (a float). It returns a boolean" in state.notes[0]


def test_examples_replace_each_other() -> None:
    task = mbpp_task()
    fixed, nearest = find_operator("fixed_examples"), find_operator("nearest_examples")
    state, _ = apply(fixed, view(task))
    assert state.examples == EXAMPLES[:3]
    assert not fixed.available(view(task, state))
    assert apply(nearest, view(task, state))[0].examples == EXAMPLES[1:]
    assert not fixed.available(view(task, fixed_examples=()))


def test_other_examples_are_others_at_every_use() -> None:
    task, other = mbpp_task(), find_operator("other_examples")
    first, _ = apply(other, view(task))
    assert first.examples == EXAMPLES[:1]
    tried = frozenset({f"{first.key}:greedy"})
    second, _ = apply(other, view(task, tried=tried))
    assert second.examples == EXAMPLES[1:2]
    assert not other.available(view(task, tried=tried | {f"{second.key}:greedy"}))


def test_repair_only_after_a_visible_failure() -> None:
    task, repair = mbpp_task(), find_operator("reflect_repair")
    first = PromptState.initial(task)
    assert not repair.available(view(task))
    assert not repair.available(view(task, last=attempt(first, passed=True)))
    assert not repair.available(view(task, last=replace(attempt(first), verdict=None)))
    assert not repair.available(view(task, last=attempt(first, program=" ")))
    failed = attempt(first, "def common(a, b):\n    return 1")
    state, _ = apply(repair, view(task, last=failed))
    assert state.repair == Repair(failed.program, failed.verdict.detail)  # type: ignore[union-attr]
    same_again = attempt(state, failed.program)
    assert not repair.available(view(task, state, last=same_again))
    assert repair.available(view(task, state, last=attempt(state, "def common(a, b):\n    return 2")))
    assert apply(find_operator("plan_first"), view(task, state))[0].repair is None


@pytest.mark.parametrize(
    ("failure", "detail", "note"),
    [
        (FailureKind.WRONG_VALUE, "common((3, 4), (4, 5)) returned [4], expected (4,)",
         "Return a tuple of integers, not a list of integers."),
        (FailureKind.WRONG_VALUE, "common(…) returned [4, 5, 6, …", "Return a tuple of integers, not a list."),
        (FailureKind.WRONG_VALUE, "common((3, 4), (4, 5)) returned None, expected (4,)",
         "Return a tuple of integers, not None."),
        (FailureKind.WRONG_VALUE, "common((3, 4), (4, 5)) returned (3,), expected (4,)", None),
        (FailureKind.WRONG_VALUE, "common((3, 4), (4, 5)) returned (), expected (4,)", None),
        (FailureKind.WRONG_VALUE, "common((3, 4), (4, 5)) returned <object>, expected (4,)", None),
        (FailureKind.WRONG_VALUE, "the returned value takes too long to compare", None),
        (FailureKind.NAME, "common((3, 4), (4, 5)) raised NameError: name 'math' is not defined",
         "Import the module `math`."),
        (FailureKind.NAME, "common is not defined by the program", "The function must be named `common`."),
        (FailureKind.NAME, "raised NameError: name 'helper' is not defined", None),
        (FailureKind.NAME, "raised UnboundLocalError: cannot access local variable 'x'", None),
        (FailureKind.EXCEPTION, "raised TypeError: common() takes 1 positional argument but 2 were given",
         "The function must take 2 arguments."),
        (FailureKind.EXCEPTION, "raised TypeError: common() missing 1 required positional argument: 'c'",
         "The function must take 2 arguments."),
        (FailureKind.EXCEPTION, "raised TypeError: helper() takes 1 positional argument but 2 were given", None),
        (FailureKind.EXCEPTION, "raised IndexError: list index out of range", None),
        (FailureKind.TIMEOUT, "common((3, 4), (4, 5)) did not end", None),
    ],
)  # fmt: skip
def test_a_failure_is_noted_where_a_prompt_can_mend_it(failure: FailureKind, detail: str, note: str | None) -> None:
    task, operator = mbpp_task(), find_operator("failure_note")
    first = PromptState.initial(task)
    failed = replace(attempt(first), verdict=GroupVerdict(Status.FAIL, (False,), 1, failure, detail))
    assert not operator.available(view(task))
    assert operator.available(view(task, last=failed)) == (note is not None)
    state, _ = apply(operator, view(task, last=failed))
    assert state.notes == (() if note is None else (note,))
    assert not operator.available(view(task, state, last=replace(failed, state=state)))
    assert not operator.available(view(task, last=attempt(first, passed=True)))


def test_a_test_that_hides_the_type_says_nothing_of_it() -> None:
    task = make_task('"""\nDo it.\nassert set(f(1)) == {1}\n"""\n', "f", "mbpp")
    detail = "f(1) returned [2], expected {1}"
    failed = replace(
        attempt(PromptState.initial(task)),
        verdict=GroupVerdict(Status.FAIL, (False,), 1, FailureKind.WRONG_VALUE, detail),
    )
    assert not find_operator("failure_note").available(view(task, last=failed))


def test_direct_operators() -> None:
    task = mbpp_task()
    first = PromptState.initial(task)
    other = replace(first, notes=("Mind.",))
    tried = frozenset({f"{first.key}:greedy"})
    assert find_operator("generate").available(view(task))
    assert not find_operator("generate").available(view(task, tried=tried))
    assert find_operator("sample_hot").available(view(task, tried=tried))
    assert not find_operator("stop").available(view(task))
    assert not find_operator("revert").available(view(task, other))
    begun = view(task, other, last=attempt(other), best=attempt(first), best_state=first)
    assert apply(find_operator("revert"), begun)[0] == first
    assert find_operator("stop").available(begun)
    assert not find_operator("reset").available(view(task))
    assert apply(find_operator("reset"), replace(begun, best_state=other))[0] == first
    for name in ("revert", "reset"):
        assert find_operator(name).available(begun)
        assert not find_operator(name).available(replace(begun, moved=True))  # else an agent could go in circles


def test_completion_asks_for_the_plain_form_where_a_chat_model_takes_it() -> None:
    task = mbpp_task()
    both = view(task, completes=True)
    complete = find_operator("complete")
    state, _ = apply(complete, both)
    assert state == replace(both.state, completion=True)
    prompt = render(task, state)
    assert not prompt.messages
    assert prompt.plain == render(task, both.state).plain
    assert [prompt.stops(chat) for chat in (True, False)] == [prompt.plain_stop] * 2
    assert complete.available(replace(both, tried=frozenset({f"{both.state.key}:greedy"})))
    assert not complete.available(replace(both, tried=frozenset({f"{state.key}:greedy"})))
    for other in (view(task), view(task, completes=True, chat=False)):  # by chat only, or never by chat
        assert not complete.available(other)
    assert apply(find_operator("generate"), view(task, state))[0] == both.state


# --- the action table ------------------------------------------------------------------------------


def test_default_table_has_every_kind() -> None:
    table = ActionTable.default()
    assert table.n == len(table.names) == 29
    assert [a.index for a in table.actions] == list(range(29))
    assert {a.operator.kind for a in table.actions} == {"direct", "lexical", "semantic"}
    assert {a.operator.kind for a in ActionTable.default(("semantic",)).actions if a.operator.generates} == {"semantic"}
    assert ActionTable.of(table.names) == table


def test_digest_knows_names_order_and_versions() -> None:
    table = ActionTable.default()
    names = list(table.names)
    assert ActionTable.of(names).digest == table.digest
    assert ActionTable.of(names[::-1]).digest != table.digest
    first = table.actions[0]
    newer = replace(first.operator, version=2)  # type: ignore[type-var]
    assert ActionTable((replace(first, operator=newer), *table.actions[1:])).digest != table.digest


def test_bad_tables_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="synonym_light"):
        ActionTable.of(["synonym_lite"])
    with pytest.raises(ConfigError, match="'stop' is listed twice"):
        ActionTable.of(["stop", "generate", "stop"])
    with pytest.raises(ConfigError, match="unknown operator kind 'magic'"):
        ActionTable.default(("magic",))
    with pytest.raises(UnknownNameError, match="fixed_examples"):
        ActionTable.default(only=("fixed_example",))
    with pytest.raises(ConfigError, match="begin an episode"):
        ActionTable.default(only=("swap_light",))


def test_a_table_of_some_operators_keeps_those_that_generate_nothing() -> None:
    table = ActionTable.default(only=("sample_hot", "swap_light"))
    assert table.names == ("sample_hot", "revert", "reset", "stop", "swap_light")
    assert ActionTable.default(("direct",), ("sample_hot", "swap_light")).names == (
        "sample_hot",
        "revert",
        "reset",
        "stop",
    )


def test_mask_respects_budget_and_what_was_tried() -> None:
    task, table = mbpp_task(), ActionTable.default()
    first = PromptState.initial(task)

    def allowed(**changes) -> set[str]:
        mask = table.mask(view(task, **changes))
        assert mask.dtype == bool
        assert mask.shape == (table.n,)
        return {a.name for a, m in zip(table.actions, mask, strict=True) if m}

    fresh = allowed()
    assert {"generate", "clarify", "fixed_examples", "synonym_light"} <= fresh
    assert not fresh & {"stop", "revert", "reset", "reflect_repair", "crossover_light", "shuffle_strong"}
    assert not allowed(budget_left=1) & {"clarify", "simplify"}
    begun = {"last": attempt(first), "best": attempt(first)}
    assert allowed(budget_left=0, **begun) == {"stop"}
    noted, _ = apply(find_operator("plan_first"), view(task))
    assert "plan_first" not in allowed(tried=frozenset({f"{noted.key}:greedy"}))
    assert "generate" not in allowed(tried=frozenset({f"{first.key}:greedy"}))


def test_operators_of_the_entry_point_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from promptrl_plugin.prompts import operators
    from promptrl_plugin.prompts.operators.direct import Stop

    monkeypatch.setattr(Stop, "made_by_test", staticmethod(lambda: Stop(name="halt")), raising=False)
    value = "promptrl_plugin.prompts.operators.direct:Stop.made_by_test"
    found = {"halt": value, "bad": "no_such_module:x", "liar": value}
    entries = [EntryPoint(name, v, operators.GROUP) for name, v in found.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == operators.GROUP else [])
    assert ActionTable.of(["generate", "halt"]).names == ("generate", "halt")
    with pytest.raises(ConfigError, match=r"'bad'.*cannot be loaded"):
        find_operator("bad")
    with pytest.raises(ConfigError, match=r"'liar'.*is not an Operator of that name"):
        find_operator("liar")


def test_random_choice_does_not_stop_while_it_can_do_something_else():
    table = ActionTable.default()
    stop, rng = table.names.index("stop"), np.random.default_rng(0)
    allowed = np.zeros(table.n, dtype=bool)
    allowed[[0, 3, stop]] = True
    drawn = [table.draw(allowed, rng) for _ in range(200)]
    assert set(drawn) == {0, 3}
    assert 60 < drawn.count(0) < 140
    allowed[[0, 3]] = False
    assert table.draw(allowed, rng) == stop
