"""The solved tasks that operators show: right, and no evaluated task among them."""

from __future__ import annotations

from pathlib import Path

from promptrl_plugin.suites.examples import ExampleSuite
from promptrl_plugin.suites.registry import load_suite
from promptrl_plugin.suites.splits import find_near_duplicates, fingerprint


def test_every_solution_is_right_on_its_own_asserts():
    suite = ExampleSuite()
    hidden = suite.hidden()
    assert len({t.content_hash for t in suite.tasks()}) == 50
    for task in suite.tasks():
        tests = hidden[task.id]
        namespace: dict[str, object] = {}
        exec(tests.reference, namespace)
        for source in task.visible.asserts:
            exec(source, namespace)


def test_they_stay_as_they_are():
    """Another example is another prompt: trained policies and cached completions go with this version."""
    assert ExampleSuite().version == "7916b602cfee"


def test_no_evaluated_task_is_shown_nor_a_near_duplicate_of_one(shared_data: Path):
    examples = ExampleSuite()
    shown = [fingerprint(t, examples.hidden()[t.id].reference) for t in examples.tasks()]
    for name in ("mbpp", "humaneval", "mbpp500"):
        suite = load_suite(name)
        tests = [fingerprint(t, suite.hidden()[t.id].reference) for t in suite.tasks()]
        assert find_near_duplicates(shown, tests) == []


def test_no_test_task_of_the_starter_suite_is_shown():
    examples, test = ExampleSuite(), load_suite("starter-test")
    shown = [fingerprint(t, examples.hidden()[t.id].reference) for t in examples.tasks()]
    tests = [fingerprint(t, test.hidden()[t.id].reference) for t in test.tasks()]
    assert find_near_duplicates(shown, tests) == []
