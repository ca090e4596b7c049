"""Splits: disjoint by content, complete, even, and independent of the order of the tasks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_rows import make_task

from promptrl_plugin.errors import ConfigError, LeakageError
from promptrl_plugin.records import Task
from promptrl_plugin.suites.evalplus import EvalPlusSuite
from promptrl_plugin.suites.splits import (
    assert_disjoint,
    content_groups,
    crossfit,
    find_near_duplicates,
    fingerprint,
    train_test_split,
)

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopq"]


def tasks(count: int) -> list[Task]:
    """`count` tasks; each third one is a near-duplicate of the one before."""
    made = []
    for i in range(count):
        like = i - 1 if i % 3 == 2 else i
        words = random.Random(like).sample(WORDS, 5)
        text = f"Write a function to {' '.join(words)} {like}." + (" Use regex." if like != i else "")
        made.append(make_task(text, task_id=f"T/{i}"))
    return made


def ids(selected: tuple[Task, ...]) -> set[str]:
    return {task.id for task in selected}


def test_groups_join_near_duplicates_only() -> None:
    groups = {frozenset(t.id for t in g) for g in content_groups(tasks(9))}
    assert groups == {frozenset(g) for g in ({"T/0"}, {"T/1", "T/2"}, {"T/3"}, {"T/4", "T/5"}, {"T/6"}, {"T/7", "T/8"})}


def test_groups_are_transitive() -> None:
    chain = ["a1 b1 c1 d1 e1 f1 g1 h1", "a1 b1 c1 d1 e1 f1 g1 x2", "a1 b1 c1 d1 e1 f1 x2 x3"]
    first, second, third = (make_task(text, task_id=text) for text in chain)
    assert find_near_duplicates([first], [third]) == []
    assert len(content_groups([first, third, second])) == 1


@given(count=st.integers(6, 40), k=st.integers(2, 4), seed=st.integers(0, 5))
def test_crossfit_tests_each_task_once_and_trains_on_nothing_like_it(count: int, k: int, seed: int) -> None:
    every = tasks(count)
    folds = crossfit(every, k, seed)
    assert sorted(t.id for fold in folds for t in fold.test) == sorted(t.id for t in every)
    for fold in folds:
        assert ids(fold.train) | ids(fold.test) == ids(tuple(every))
        assert find_near_duplicates(fold.test, fold.train) == []
        assert_disjoint([fingerprint(t) for t in fold.train], fold.test)
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 2


def test_crossfit_depends_on_content_and_seed_only() -> None:
    every = tasks(30)
    shuffled = random.Random(1).sample(every, len(every))
    folds = [ids(f.test) for f in crossfit(every, 5, seed=0)]
    assert folds == [ids(f.test) for f in crossfit(shuffled, 5, seed=0)]
    assert folds != [ids(f.test) for f in crossfit(every, 5, seed=1)]
    assert [t.id for t in crossfit(every, 5, seed=0)[0].train] == [t.id for t in every if t.id not in folds[0]]


@pytest.mark.parametrize("k", [-1, 0, 1, 7])
def test_impossible_numbers_of_folds(k: int) -> None:
    with pytest.raises(ConfigError, match=f"crossfit:{k}"):
        crossfit(tasks(9), k, 0)  # six groups


@given(count=st.integers(6, 40), share=st.floats(0.2, 0.7), seed=st.integers(0, 5))
def test_train_test_split_is_disjoint_complete_and_near_the_share(count: int, share: float, seed: int) -> None:
    every = tasks(count)
    train, test = train_test_split(every, share, seed)
    assert not ids(train) & ids(test)
    assert ids(train) | ids(test) == ids(tuple(every))
    assert find_near_duplicates(test, train) == []
    assert abs(len(test) - share * count) <= 1.5
    shuffled = random.Random(seed).sample(every, count)
    assert ids(train_test_split(shuffled, share, seed)[1]) == ids(test)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0])
def test_a_share_must_leave_both_sides(share: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        train_test_split(tasks(9), share, 0)


def test_one_group_cannot_be_split() -> None:
    twins = [make_task("Sort amber birches.", task_id=f"T/{i}") for i in range(4)]
    with pytest.raises(ConfigError, match="too alike"):
        train_test_split(twins, 0.5, 0)


def test_leakage_names_both_tasks_and_the_remedy() -> None:
    train = [fingerprint(make_task("Write a function to sort amber birches by age.", task_id="Train/1"))]
    fine = make_task("Paint it blue.", task_id="T/1")
    alike = [make_task("Write a function to sort the amber birches by age.", task_id=f"T/{i}") for i in (2, 3)]
    assert_disjoint(train, [fine])
    with pytest.raises(LeakageError, match=r"T/2 has nearly .* train task Train/1.*1 more.*crossfit") as caught:
        assert_disjoint(train, [fine, *alike])
    assert "\n" not in str(caught.value)


def test_real_mbpp_plus_folds_are_even_and_disjoint(shared_data: Path) -> None:
    every = EvalPlusSuite("mbpp").tasks()
    folds = crossfit(every, 5, seed=0)
    assert sorted(len(f.test) for f in folds) == [75, 75, 76, 76, 76]
    for fold in folds:
        assert_disjoint([fingerprint(t) for t in fold.train], fold.test)
    groups = {frozenset(t.id for t in g) for g in content_groups(every) if len(g) > 1}
    assert frozenset({"Mbpp/71", "Mbpp/141"}) in groups, "both read: sort a list of elements"


def test_the_same_program_under_other_words_stays_in_one_fold() -> None:
    every = [t for t in tasks(30) if int(t.id[2:]) % 3 != 2]
    one, other = every[0].id, every[7].id
    references = {t.id: f"def f(a):\n    return a + {i}" for i, t in enumerate(every)}
    references[other] = references[one].replace("a", "value")
    apart = 0
    for seed in range(6):
        apart += any(len({one, other} & ids(fold.test)) == 1 for fold in crossfit(every, 5, seed))
        assert not any(len({one, other} & ids(fold.test)) == 1 for fold in crossfit(every, 5, seed, references))
    assert apart > 0, "without references nothing joins them"
