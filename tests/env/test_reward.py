"""The reward formula, term by term."""

from __future__ import annotations

import itertools

import pytest

from promptrl_plugin.config import RewardConfig
from promptrl_plugin.env.reward import all_pass, pass_fraction, potential, reward
from promptrl_plugin.records import GroupVerdict, Status

RIGHT = "def f(x):\n    return x\n"


def verdict(passed: tuple[bool, ...], total: int) -> GroupVerdict:
    ok = len(passed) == total and all(passed)
    return GroupVerdict(Status.PASS if ok else Status.FAIL, passed, total)


def test_potential_adds_fraction_compiling_and_entry_point():
    config = RewardConfig(w_fraction=1.0, w_compiles=0.05, w_entry_point=0.07)
    assert potential(config, RIGHT, "f", 0.5) == pytest.approx(0.62)
    assert potential(config, "def g(x): return x", "f", 0.0) == pytest.approx(0.05)
    assert potential(config, "f = lambda x: x", "f", 0.0) == pytest.approx(0.12)
    assert potential(config, "def f(:", "f", 0.0) == 0.0
    assert potential(config, "", "f", 0.0) == 0.0


def test_reward_is_the_formula():
    config = RewardConfig(success_bonus=2.0, generation_cost=0.1)
    # γΦ' − Φ + b·solved − c·generations = 0.9·1.0 − 0.4 + 2 − 0.3
    assert reward(config, 0.9, 0.4, 1.0, True, 3) == pytest.approx(2.2)


def test_shaping_telescopes_at_gamma_one():
    config = RewardConfig()
    phis = [0.0, 0.3, 0.3, 1.1]
    total = sum(reward(config, 1.0, a, b, b == 1.1, 1) for a, b in itertools.pairwise(phis))
    assert total == pytest.approx(1.1 + config.success_bonus - 3 * config.generation_cost)


@pytest.mark.parametrize("term", ["w_fraction", "w_compiles", "w_entry_point", "success_bonus", "generation_cost"])
def test_every_term_can_be_switched_off(term: str):
    full = RewardConfig()
    off = RewardConfig(**{term: 0.0})
    terms = {
        "w_fraction": potential(full, RIGHT, "f", 1.0) - potential(off, RIGHT, "f", 1.0),
        "w_compiles": potential(full, RIGHT, "f", 1.0) - potential(off, RIGHT, "f", 1.0),
        "w_entry_point": potential(full, RIGHT, "f", 1.0) - potential(off, RIGHT, "f", 1.0),
        "success_bonus": reward(full, 1.0, 0, 0, True, 0) - reward(off, 1.0, 0, 0, True, 0),
        "generation_cost": reward(off, 1.0, 0, 0, False, 1) - reward(full, 1.0, 0, 0, False, 1),
    }
    assert terms[term] == pytest.approx(getattr(full, term))


def test_fraction_counts_tests_that_did_not_run_as_failed():
    assert pass_fraction([verdict((True,), 2), verdict((True, True), 2)]) == 0.75
    assert pass_fraction([]) == 0.0
    assert not all_pass([verdict((True,), 2), verdict((True,), 1)])
    assert all_pass([verdict((True, True), 2)])
    assert not all_pass([])
