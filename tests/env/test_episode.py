"""Episodes, observations and both environments, on a scripted backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles import make_rollout, name_of, train_task
from gymnasium.utils.env_checker import check_env

from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.config import RewardConfig
from promptrl_plugin.env.prompt_env import PromptEnv
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.errors import UnknownNameError
from promptrl_plugin.records import Feedback
from promptrl_plugin.storage.cache import Cache


def action(setup, name: str) -> int:
    return setup.table.names.index(name)


def test_examples_solve_the_task_and_end_the_episode():
    rollout, setup, backbone = make_rollout()
    e = rollout.start(2)
    (first,) = rollout.step([(e, action(setup, "generate"))])
    assert not e.episode.done
    (second,) = rollout.step([(e, action(setup, "fixed_examples"))])
    assert e.episode.done
    assert e.episode.solved
    assert e.solved
    c = RewardConfig()
    # first: compiles and defines the entry point, no test passes; second: the rest of Φ, and the bonus
    assert first == pytest.approx(c.w_compiles + c.w_entry_point - c.generation_cost)
    assert second == pytest.approx(c.w_fraction + c.success_bonus - c.generation_cost)
    sample = e.episode.sample()
    assert sample.solution == "def f2(x):\n    return x + 2"
    assert sample.prompt.operators == ("fixed_examples",)
    assert len(backbone.requests) == 2


def test_passing_the_visible_test_only_ends_the_episode_without_bonus():
    rollout, setup, _ = make_rollout()
    e = rollout.start(1)
    rollout.step([(e, action(setup, "sample_hot"))])
    (last,) = rollout.step([(e, action(setup, "sample_hot"))])
    assert e.episode.done
    assert e.episode.solved
    assert not e.solved
    assert e.fraction == 0.5
    assert last == pytest.approx(0.5 * RewardConfig().w_fraction - RewardConfig().generation_cost)


def test_budget_is_spent_to_the_last_generation_and_no_further():
    rollout, _setup, backbone = make_rollout(rule=lambda r: "def nothing(): return 0", budget=3)
    e = rollout.start(0)
    while not e.episode.done:
        rollout.step([(e, int(np.flatnonzero(e.episode.mask())[-1]))])
    assert e.episode.spent <= 3
    assert len(backbone.requests) == e.episode.spent
    assert not e.solved


def test_masks_leave_out_what_makes_no_sense():
    rollout, setup, _ = make_rollout()
    e = rollout.start(0)
    mask = e.episode.mask()
    for name in ("stop", "revert", "reflect_repair"):
        assert not mask[action(setup, name)], f"{name} before any attempt"
    rollout.step([(e, action(setup, "generate"))])
    mask = e.episode.mask()
    assert not mask[action(setup, "generate")], "greedy twice from the same prompt"
    assert mask[action(setup, "stop")]
    assert mask[action(setup, "reflect_repair")]
    with pytest.raises(ValueError, match="cannot be taken"):
        rollout.step([(e, action(setup, "generate"))])


def test_a_completion_is_asked_for_once_and_leaves_the_prompt_as_it_was():
    def rule(request):  # right by completion only, which goes on from the prompt
        name = name_of(request)
        return f"def {name}(x):\n    return {'x + ' + name[1:] if not request.prompt.messages else -1}\n"

    rollout, setup, backbone = make_rollout(rule=rule, completes=True)
    e = rollout.start(2)
    before = e.episode.state
    rollout.step([(e, action(setup, "generate"))])
    rollout.step([(e, action(setup, "complete"))])
    assert e.solved
    assert [bool(r.prompt.messages) for r in backbone.requests] == [True, False]
    assert e.episode.state == before
    assert e.episode.population == [before]
    assert "def f2(x):\n    return x + 2" in e.episode.sample().solution
    assert not e.episode.mask()[action(setup, "complete")]
    assert not e.episode.mask()[action(setup, "revert")], "the best program's prompt is the one at hand"
    assert make_rollout()[0].start(2).episode.mask()[action(setup, "complete")] == np.False_


def test_rewrites_count_two_generations_and_need_the_budget_for_both():
    rollout, setup, _ = make_rollout(budget=3)
    e = rollout.start(0)
    rollout.step([(e, action(setup, "clarify"))])
    assert e.episode.spent == 2
    assert not e.episode.mask()[action(setup, "simplify")]
    assert e.episode.mask()[action(setup, "sample_hot")]


def test_execution_features_are_zero_without_feedback():
    seen, setup, _ = make_rollout()
    blind, _, _ = make_rollout(feedback=Feedback.NONE)
    exec_features = [i for i, n in enumerate(setup.layout.names) if n.startswith("exec.")]
    observations = []
    for rollout in (seen, blind):
        e = rollout.start(3)
        rollout.step([(e, action(setup, "generate"))])
        observations.append(setup.layout.observe(e.episode))
    assert observations[0][exec_features].any()
    assert not observations[1][exec_features].any()
    others = [i for i in range(setup.layout.size) if i not in exec_features]
    np.testing.assert_array_equal(observations[0][others], observations[1][others])


def test_without_feedback_an_episode_does_not_end_by_itself_on_success():
    rollout, setup, _ = make_rollout(feedback=Feedback.NONE, budget=4)
    e = rollout.start(1)
    rollout.step([(e, action(setup, "fixed_examples"))])
    assert not e.episode.done
    rollout.step([(e, action(setup, "stop"))])
    assert e.episode.done
    assert e.solved


def test_oracle_feedback_ends_only_when_all_tests_pass():
    rollout, setup, _ = make_rollout(feedback=Feedback.ORACLE, budget=4)
    e = rollout.start(1)
    rollout.step([(e, action(setup, "sample_hot"))])
    rollout.step([(e, action(setup, "sample_hot"))])  # passes the visible test only
    assert not e.episode.done
    rollout.step([(e, action(setup, "nearest_examples"))])
    assert e.episode.done
    assert e.solved


def test_a_sample_tells_the_prompt_after_each_action():
    rollout, setup, _ = make_rollout(budget=6)
    e = rollout.start(2)
    original = e.episode.task.prompt
    for name in ("generate", "plan_first", "revert", "nearest_examples"):
        rollout.step([(e, action(setup, name))])
    sample = e.episode.sample()
    generated, planned, reverted, exemplified = sample.steps
    assert [s.generations for s in sample.steps] == [1, 2, 2, 3]
    assert [s.candidate for s in sample.steps] == [0, 1, None, 2]
    assert (generated.text, generated.examples, generated.repair) == (original, (), False)
    assert len(planned.text) > len(original)
    assert (reverted.text, reverted.examples) == (original, ())
    assert exemplified.examples == tuple(x.task_id for x in rollout.contexts[2].nearest_examples)


def test_the_steps_of_an_oracle_episode_quote_no_hidden_test():
    rollout, setup, _ = make_rollout(feedback=Feedback.ORACLE, budget=6)
    e = rollout.start(1)
    for name in ("generate", "reflect_repair"):
        rollout.step([(e, action(setup, name))])
    assert e.episode.state.repair.detail == "it is wrong"
    steps = e.episode.sample().steps
    assert [s.repair for s in steps] == [False, True]
    assert "it is wrong" not in str(steps)


def test_examples_never_show_the_task_itself():
    rollout, _, _ = make_rollout(n_tasks=6)
    for context in rollout.contexts:
        shown = {e.task_id for e in (*context.fixed_examples, *context.nearest_examples)}
        assert shown
        assert context.task.id not in shown


def test_layout_names_every_feature_once():
    _, setup, _ = make_rollout()
    assert len(set(setup.layout.names)) == setup.layout.size
    assert all("." in name for name in setup.layout.names)


def test_gymnasium_accepts_the_environment():
    rollout, setup, _ = make_rollout()
    check_env(PromptEnv(rollout, setup.layout), skip_render_check=True)


def test_prompt_env_plays_an_episode():
    rollout, setup, _ = make_rollout()
    env = PromptEnv(rollout, setup.layout, strict_mask=True)
    _, info = env.reset(seed=1, options={"task": 4})
    assert info == {"task": "Test/4"}
    assert env.action_masks().shape == (env.action_space.n,)
    _, reward, terminated, truncated, info = env.step(np.int64(action(setup, "fixed_examples")))
    assert terminated
    assert not truncated
    assert reward > 1.0
    assert info["episode_summary"]["solved"]
    assert train_task(4).task.visible.asserts[0] in env.render()


def play(env: VectorPromptEnv, steps: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    trace = []
    for _ in range(steps):
        actions = np.array([rng.choice(np.flatnonzero(m)) for m in env.action_masks()])
        observations, rewards, *_ = env.step(actions)
        trace.append(np.concatenate([observations.ravel(), rewards]))
    return trace


def test_vector_env_makes_one_batch_a_step_and_deals_every_task():
    rollout, setup, backbone = make_rollout(n_tasks=6)
    env = VectorPromptEnv(rollout, setup.layout, 3, seed=0)
    observations, _ = env.reset(seed=0)
    assert observations.shape == (3, setup.layout.size)
    examples = action(setup, "fixed_examples")
    seen = []
    for _ in range(2):
        _, rewards, terminated, truncated, infos = env.step(np.array([examples] * 3))
        assert terminated.all()
        assert not truncated.any()
        assert (rewards > 1).all()
        assert all(o is not None for o in infos["final_observation"])
        seen += [e["task"] for e in infos["episode"]]
    assert [len(call) for call in backbone.calls] == [3, 3]
    assert sorted(seen) == [f"Test/{i}" for i in range(6)]


def test_vector_env_resumes_exactly():
    rollout, setup, _ = make_rollout(n_tasks=5)
    env = VectorPromptEnv(rollout, setup.layout, 3, seed=7, variants=2)
    env.reset(seed=7)
    play(env, 5, seed=1)
    state = env.get_state()
    expected = play(env, 6, seed=2)
    again = VectorPromptEnv(rollout, setup.layout, 3, seed=99, variants=2)
    again.set_state(state)
    for a, b in zip(expected, play(again, 6, seed=2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_task_comes_equally_often_in_every_sub_environment():
    rollout, setup, _ = make_rollout(n_tasks=6)
    env = VectorPromptEnv(rollout, setup.layout, 4, seed=3, variants=2)
    dealt = [(env._start(i, k).index, env._start(i, k).episode.variant) for k in range(6) for i in range(4)]
    for deck in range(4):
        assert sorted(dealt[6 * deck : 6 * deck + 6]) == [(i, deck % 2) for i in range(6)]
    assert dealt[:6] != dealt[12:18]


@pytest.mark.parametrize("budget", [2, 4])
def test_a_rehearsal_generates_what_the_steps_then_ask_for_and_changes_nothing_else(tmp_path: Path, budget: int):
    noise = np.random.default_rng(5).random((5, 3, 100))

    def choose(i, t, _observation, mask):
        return int(np.flatnonzero(mask)[int(noise[t, i, 0] * mask.sum())])

    def steps(env: VectorPromptEnv) -> list[np.ndarray]:
        trace = []
        for t in range(5):
            actions = np.array([choose(i, t, None, m) for i, m in enumerate(env.action_masks())])
            observations, rewards, *_ = env.step(actions)
            trace.append(np.concatenate([observations.ravel(), rewards]))
        return trace

    def environment(cache: Cache) -> tuple[VectorPromptEnv, ScriptedBackbone]:
        rollout, setup, backbone = make_rollout(n_tasks=5, budget=budget, wrap=lambda b: CachingBackbone(b, cache))
        env = VectorPromptEnv(rollout, setup.layout, 3, seed=7, variants=2)
        env.reset(seed=7)
        return env, backbone

    plain, _ = environment(Cache(tmp_path / "plain.sqlite"))
    expected = steps(plain)
    rehearsed, backbone = environment(Cache(tmp_path / "rehearsed.sqlite"))
    rehearsed.rehearse(5, choose)
    assert rehearsed.get_state() == environment(Cache(tmp_path / "fresh.sqlite"))[0].get_state()
    made = len(backbone.requests)
    assert made > 0
    for a, b in zip(expected, steps(rehearsed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(backbone.requests) == made
    assert rehearsed.get_state() == plain.get_state()


def test_vector_env_demonstrates_a_sequence_operator_by_operator():
    rollout, setup, _ = make_rollout()
    env = VectorPromptEnv(rollout, setup.layout, 3, seed=0)
    env.reset(seed=0)
    sequence = ["reflect_repair", "generate", "sample_hot"]
    generate, hot = action(setup, "generate"), action(setup, "sample_hot")
    assert env.demonstration(sequence).tolist() == [generate] * 3, "there is nothing to repair yet"
    env.step(np.array([generate, generate, action(setup, "sample_warm")]))
    begun = [len(e.episode.steps) == 1 for e in env._episodes]
    assert any(begun)
    assert env.demonstration(sequence).tolist() == [hot if running else generate for running in begun]
    env.step(np.array([hot if running else generate for running in begun]))
    past = [running and len(e.episode.steps) == 2 for running, e in zip(begun, env._episodes, strict=True)]
    assert any(past)
    assert [a == -1 for a in env.demonstration(sequence)] == past, "every operator has had its turn"
    assert env.demonstration([]).tolist() == [-1] * 3
    with pytest.raises(UnknownNameError, match="sample_hot"):
        env.demonstration(["sample_hott"])


def test_played_episodes_are_as_stepped_ones_and_need_not_wait_for_each_other():
    def chooser(seed: int):
        rng = np.random.default_rng(seed)
        return lambda episode: int(rng.choice(np.flatnonzero(episode.mask())))

    played, _, backbone = make_rollout(n_tasks=5)
    episodes = [played.start(i) for i in range(5)]
    played.play([(e, chooser(i)) for i, e in enumerate(episodes)])
    stepped, _, other = make_rollout(n_tasks=5)
    for i, e in enumerate(episodes):
        twin, act = stepped.start(i), chooser(i)
        while not twin.episode.done:
            stepped.step([(twin, act(twin.episode))])
        assert [s.action for s in e.episode.steps] == [s.action for s in twin.episode.steps]
        assert (e.total, e.solved, e.fraction, e.right) == (twin.total, twin.solved, twin.fraction, twin.right)
    assert {e.solved for e in episodes} == {True, False}
    assert len(backbone.requests) == len(other.requests)
