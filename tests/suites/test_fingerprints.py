"""What counts as the same content."""

from __future__ import annotations

import json
import random

import pytest
from suite_rows import make_task

from promptrl_plugin.records import AssertGroup, Task
from promptrl_plugin.suites.fingerprints import describe, find_near_duplicates, fingerprint, first_leak, leaks

BASE = "Write a function to convert a date of yyyy-mm-dd format to dd-mm-yyyy format."


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        BASE.upper().replace(" ", "\n  "),
        "Write a python function to convert given dates of yyyy-mm-dd format into dd-mm-yyyy formats by using regex.",
    ],
)
def test_a_description_is_recognised_in_other_clothes(text: str) -> None:
    train = [fingerprint(make_task(BASE, "assert f(1) == 1", task_id="A"))]
    reason = leaks(train, make_task(text, "assert other(2) == 3", "other", "B"))
    assert reason is not None
    assert reason.startswith("nearly the same description")
    assert reason.endswith("train task A")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Write a function to find the lcm of two integers.", "Write a function to find the gcd of two integers."),
        ("Write a function to find the volume of a cone.", "Write a function to find the volume of a cuboid."),
        ("Write a python function to find the first repeated word.", "Write a python function to remove odd numbers."),
    ],
)  # fmt: skip
def test_different_tasks_are_told_apart(one: str, two: str) -> None:
    assert find_near_duplicates([make_task(one, task_id="A")], [make_task(two, task_id="B")]) == []


def test_a_task_is_its_own_duplicate_whatever_its_id() -> None:
    one, two = make_task("Do.", "assert f(1) == 1", task_id="A"), make_task("DO.", "assert f(1) == 1", task_id="B")
    (pair,) = find_near_duplicates([one], [two])
    assert (pair.candidate, pair.other, pair.reason) == ("A", "B", "the same prompt")
    assert leaks([fingerprint(one)], make_task("Quite another.", task_id="A")) == "the same id as train task A"


def test_same_reference_up_to_names_comments_and_annotations() -> None:
    one = "import math\ndef f(a, b):\n  '''Doc.'''\n  c = math.gcd(a, b)  # remark\n  return [c for x in a]"
    two = "from math import *\ndef g(x: int, y) -> int:\n  z = math.gcd(x, y)\n  return [z for i in x]"
    other = two.replace("gcd(x, y)", "gcd(y, x)")
    a, b, c = (fingerprint(make_task(t, task_id=t), r) for t, r in (("One", one), ("Two", two), ("Three", other)))
    assert [p.other for p in find_near_duplicates([a], [b, c])] == ["Two"]


def test_a_reference_that_does_not_parse_matches_nothing() -> None:
    a, b = (fingerprint(make_task(t, task_id=t), "def f(:") for t in ("One", "Two"))
    assert find_near_duplicates([a], [b]) == []


@pytest.mark.parametrize(
    ("text", "mine", "theirs", "found"),
    [
        ("Count unique lists within lists.", "assert g([1, 2, 3, 4]) == 5", "assert f([1,2,3,4])==5", True),
        ("Count unique lists within lists.", "assert g([1, 2, 3, 4]) == 6", "assert f([1,2,3,4])==5", False),
        ("Count unique lists within lists.", "assert g(2) == 2", "assert f(2) == 2", False),  # tells too little
        ("Paint a fence.", "assert g([1, 2, 3, 4]) == 5", "assert f([1,2,3,4])==5", False),  # coincidence
    ],
)
def test_a_shared_example_counts_with_some_likeness(text: str, mine: str, theirs: str, found: bool) -> None:
    train = fingerprint(make_task("Count the lists of a nested thing.", task_id="A"), asserts=[theirs])
    assert (leaks([train], make_task(text, mine, "g", "B")) is not None) == found


def test_fingerprints_are_json_and_hold_no_text() -> None:
    print_ = fingerprint(make_task(BASE, "assert f([1, 2, 3, 4]) == 5"), "def f(secret): return secret")
    text = json.dumps(print_)
    assert json.loads(text) == print_
    assert not any(word in text for word in ("yyyy", "convert", "secret", "assert"))


def test_fingerprint_does_not_depend_on_the_order_of_asserts() -> None:
    task = make_task(BASE)
    asserts = ["assert f([1, 2, 3, 4]) == 5", "assert f([5, 6, 7, 8]) == 9"]
    assert fingerprint(task, "", asserts) == fingerprint(task, "", asserts[::-1])


def test_describe_leaves_the_prose_of_a_humaneval_prompt() -> None:
    prompt = (
        'def helper(x):\n    """ Not this. """\n    return x\n\n\n'
        'def strlen(string: str) -> int:\n    """ Return length of given string\n    More: strlen("b") == 1\n'
        '    >>> strlen(\'\')\n    0\n\n    The end.\n    """\n'
    )
    task = Task("H/1", "s", "humaneval", prompt, "strlen", AssertGroup(()))
    assert " ".join(describe(task).split()) == "Return length of given string The end."
    assert leaks([fingerprint(make_task("Write a function to find length of the string. The end."))], task)


def test_the_first_leak_is_the_one_that_asking_task_by_task_finds() -> None:
    rng = random.Random(0)
    words = [f"word{i}" for i in range(30)]
    sentences = [" ".join(rng.sample(words, 6)) for _ in range(60)]
    # Most pairs share something, some nearly everything.
    near = [" ".join([*s.split()[:5], rng.choice(words)]) for s in sentences]
    found = 0
    for _ in range(40):
        train = [fingerprint(make_task(s, task_id=f"T/{n}")) for n, s in enumerate(rng.sample(sentences, 8))]
        tasks = [make_task(s, task_id=f"E/{n}") for n, s in enumerate(rng.sample(near, 8))]
        one_by_one = next(((i, why) for i, task in enumerate(tasks) if (why := leaks(train, task))), None)
        assert first_leak(train, tasks) == one_by_one
        found += one_by_one is not None
    assert 5 < found < 40
    assert first_leak([], [make_task("sum")]) is None
