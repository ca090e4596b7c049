"""The rule that ends a search and chooses its program, and episodes and training under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import ExecJudge, make_rollout, name_of, train_task
from hypothesis import given
from hypothesis import strategies as st

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import RecordingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.env.feedback import NoFeedback, VisibleFeedback, as_executor, probe_group
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.env.recall import Recall
from promptrl_plugin.env.rollout import RewardedEpisode
from promptrl_plugin.env.scheduler import Job, Scheduler
from promptrl_plugin.env.selection import Selector, choose, clusters, select
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.errors import ConfigError, JudgeError
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.records import (
    AssertGroup,
    Check,
    Decoding,
    Execute,
    Feedback,
    Generate,
    GenerationRequest,
    GroupVerdict,
    Prompt,
    Status,
    Task,
)
from promptrl_plugin.storage.cache import Cache

PASS, FAIL = GroupVerdict(Status.PASS, (True,), 1), GroupVerdict(Status.FAIL, (False,), 1)
HOT, GREEDY = Decoding(0.8), Decoding()


def made(
    program: str, outcomes: tuple[str, ...] | None = None, verdict: GroupVerdict | None = PASS, prompt: str = "p"
) -> Attempt:
    return Attempt(PromptState((prompt,)), program, program, verdict, HOT, outcomes)


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "agreeing"), [("first", 1), ("agreement", 2), ("agreement:2", 2), ("agreement:5", 5)])
def test_selectors_are_read(text: str, agreeing: int):
    assert Selector.parse(text).agreeing == agreeing
    assert Selector.parse(str(Selector.parse(text))) == Selector.parse(text)
    assert str(Selector.parse("agreement:2")) == "agreement"


@pytest.mark.parametrize("text", ["", "best", "agreement:1", "agreement:", "agreement:x", "first:2"])
def test_other_selectors_are_refused(text: str):
    with pytest.raises(ConfigError, match="use first, agreement, or agreement:K"):
        Selector.parse(text)


def test_the_first_rule_ends_with_the_first_that_passes_and_asks_for_nothing():
    first, bad, good = Selector(), made("b", verdict=FAIL), made("g")
    assert not first.settled([bad])
    assert first.settled([bad, good])
    assert list(first.weigh(good, [bad])) == []
    assert select([bad, good, made("h")]) is good


def test_agreement_ends_when_enough_programs_do_the_same():
    rule = Selector(2)
    a, b, c = made("a", ("1",)), made("b", ("2",)), made("c", ("1",))
    assert not rule.settled([a, b])
    assert rule.settled([a, b, c])
    assert not Selector(3).settled([a, b, c])
    assert select([b, a, c]) is a
    assert select([b, a]) is b, "of equal clusters the one that came first"


def test_without_inputs_the_first_that_passes_settles_it():
    nothing = made("a", ())
    assert Selector(2).settled([made("x", verdict=FAIL), nothing])
    assert select([made("x", verdict=FAIL), nothing, made("b", ())]) is nothing


def test_where_nothing_passes_the_old_rule_holds():
    half = GroupVerdict(Status.FAIL, (True, False), 2)
    attempts = [made("", verdict=None), made("x", verdict=FAIL), made("y", verdict=half), made("z", verdict=half)]
    assert select(attempts) is attempts[2]
    assert select(attempts[:2]) is attempts[1]
    assert not Selector(2).settled(attempts)
    assert select([]) is None


def asked(rule: Selector, attempt: Attempt, earlier: list[Attempt]) -> bool:
    effects = rule.weigh(attempt, earlier)
    if (effect := next(effects, None)) is None:
        return False
    assert effect == Execute((attempt.program,))
    with pytest.raises(StopIteration) as stopped:
        effects.send([("1",)])
    assert stopped.value.value.outcomes == ("1",)
    return True


def test_only_passing_programs_are_run_and_a_repeated_greedy_request_is_no_second_vote():
    rule = Selector(2)
    greedy = [Attempt(PromptState((p,)), "x", "x", PASS, GREEDY) for p in ("p", "q")]
    assert not asked(rule, made("x", verdict=FAIL), [])
    assert not asked(rule, made("x", verdict=None), [])
    assert asked(rule, made("x"), [made("x", ("1",))]), "another draw of the same program is"
    assert asked(rule, greedy[0], [made("x", ("1",)), greedy[1]]), "so is the same program from another prompt"
    assert not asked(rule, greedy[0], [greedy[0]])


_OUTCOMES = st.lists(st.none() | st.sampled_from("abc"), min_size=1, max_size=12)


@given(_OUTCOMES, st.data())
def test_the_chosen_is_the_first_of_a_largest_cluster(outcomes: list[str | None], data: st.DataObject):
    passing = [o is not None or data.draw(st.booleans()) for o in outcomes]
    chosen = choose([float(p) for p in passing], ["x"] * len(outcomes), outcomes)
    sizes = Counter(o for o in outcomes if o is not None)
    if sizes:
        assert sizes[outcomes[chosen]] == max(sizes.values())
        assert chosen == outcomes.index(outcomes[chosen])
        assert all(
            outcomes.index(o) > chosen for o, n in sizes.items() if n == max(sizes.values()) and o != outcomes[chosen]
        )
    else:
        assert chosen == (passing.index(True) if any(passing) else 0)


@given(_OUTCOMES, st.integers(2, 4))
def test_a_search_that_stops_when_settled_submits_from_the_settling_cluster(outcomes: list[str | None], agreeing: int):
    attempts: list[Attempt] = []
    for i, o in enumerate(outcomes):
        attempts.append(made(f"p{i}", None if o is None else (o,), PASS if o is not None else FAIL))
        if Selector(agreeing).settled(attempts):
            break
    best = select(attempts)
    assert best is not None
    if Selector(agreeing).settled(attempts):
        assert best.outcomes == attempts[-1].outcomes
        assert clusters(a.outcomes for a in attempts)[best.outcomes] == agreeing


# --- execution ------------------------------------------------------------------------------------


def task(*asserts: str, name: str = "f") -> Task:
    return Task("T/1", "t", "mbpp", "p", name, AssertGroup(asserts))


def test_inputs_come_from_the_visible_calls_and_outputs_are_seen_as_there():
    group = probe_group(task("assert set(f([1, 2])) == set([1])", "assert set(f([3])) == {3}"))
    assert group is not None
    assert (group.calls, group.view) == (("([1, 2],)", "([3],)"), "set")
    mixed = probe_group(task("assert set(f([1, 2])) == set([1])", "assert f([3]) == [3]"))
    assert mixed is not None
    assert mixed.view == ""
    assert probe_group(task("assert f(x) == 1", "assert g(1) == 2", "assert f() == 3")) is None
    assert probe_group(task()) is None


def test_programs_that_differ_in_layout_are_one_and_nothing_runs_without_inputs():
    judge = ExecJudge()
    shown = VisibleFeedback(judge)
    one, other = "def f(x): return x+1", "# a comment\ndef f(x):\n\n    return (x + 1)\n"
    visible = task("assert f(1) == 2")
    first, second, blind = shown.execute([(visible, one), (visible, other), (task(), one)])
    assert first == second != ()
    assert blind == ()
    assert len(judge.executed) == 2
    assert len(set(judge.executed)) == 1
    assert as_executor(NoFeedback()).execute([(visible, one)]) == [()]


def test_a_program_that_could_not_be_run_is_an_error():
    class Broken(ExecJudge):
        def execute(self, requests: Any) -> Any:
            return [None] * len(requests)

    with pytest.raises(JudgeError, match="T/1: a program could not be run"):
        VisibleFeedback(Broken()).execute([(task("assert f(1) == 2"), "def f(x): return 2")])


def test_the_scheduler_answers_and_notes_what_a_candidate_did():
    def job() -> Generator[Any, Any, list[Any]]:
        yield Generate((GenerationRequest(Prompt((), "", "x"), Decoding()),))
        seen = []
        for program in ("def f1(x): return x + 1", "def f1(x): return 2"):
            (verdict,) = yield Check((program,))
            (did,) = yield Execute((program,))
            seen += [verdict.status, did]
        return seen

    backbone = ScriptedBackbone({"": "x"})
    jobs = [Job(train_task(1).task, job(), 1) for _ in range(2)]
    results = Scheduler(backbone, VisibleFeedback(ExecJudge())).run(jobs)
    assert results[0] == results[1]
    assert [results[0][i] for i in (0, 2)] == [Status.PASS, Status.PASS]
    assert results[0][1] != results[0][3] == ("=2",) * len(results[0][3])
    assert [c.outcomes for c in jobs[0].candidates] == [c.outcomes for c in jobs[1].candidates]
    assert len({c.outcomes for c in jobs[0].candidates} - {None, ""}) == 2
    assert jobs[0].usage.generations == 1
    blind = Job(train_task(1).task, job(), 1)
    Scheduler(backbone, lambda programs: [PASS] * len(programs)).run([blind])
    assert [c.outcomes for c in blind.candidates] == ["", ""]


# --- episodes -------------------------------------------------------------------------------------


def cheats_once(request: GenerationRequest) -> str:
    """Passes the visible test only at the first draw; right in two ways with a plan or with examples, else wrong."""
    name, said = name_of(request), request.prompt.messages
    number = int(name[1:])
    if not request.decoding.greedy:
        return f"def {name}(x):\n    return {1 + number}\n"
    if len(said) > 1:
        return f"def {name}(x):\n    return {number} + x\n"
    if "step" in said[-1].content:
        return f"def {name}(x):\n    y = x\n    return y + {number}\n"
    return f"def {name}(x):\n    return -1\n"


def play(selector: str, *names: str, **options: Any) -> tuple[RewardedEpisode, list[float], ObservationLayout]:
    rollout, setup, _ = make_rollout(rule=cheats_once, budget=6, selector=selector, **options)
    e = rollout.start(2)
    rewards = []
    for name in names:
        rewards += rollout.step([(e, setup.table.names.index(name))])
    return e, rewards, setup.layout


def test_an_episode_goes_on_until_two_agree_and_submits_the_first_of_them():
    e, rewards, layout = play("agreement", "sample_hot", "plan_first")
    assert e.episode.solved
    assert not e.episode.done
    seen = dict(zip(layout.names, layout.observe(e.episode), strict=True))
    assert seen["agreement.passing"] == pytest.approx(2 / 6)
    assert seen["agreement.largest_cluster"] == 0.5
    e, rewards, layout = play("agreement", "sample_hot", "plan_first", "fixed_examples")
    assert e.episode.done
    assert e.solved, "the bonus is for what the selector submits"
    assert rewards[-1] > 0.9
    assert e.episode.sample().solution.startswith("def f2(x):\n    y = x")
    assert layout.observe(e.episode)[layout.names.index("agreement.largest_cluster")] == 1.0


def test_the_same_episode_under_the_first_rule_ends_with_the_wrong_program():
    e, _, layout = play("first", "sample_hot")
    assert e.episode.done
    assert not e.solved
    assert not any(n.startswith("agreement.") for n in layout.names)


def test_two_that_cheat_in_the_same_way_agree():
    e, _, _ = play("agreement", "sample_hot", "sample_hot")
    assert e.episode.done
    assert not e.solved
    assert e.episode.spent == 2


def test_stop_submits_the_largest_cluster_so_far():
    e, _, _ = play("agreement:3", "sample_hot", "plan_first", "fixed_examples", "stop")
    assert e.episode.done
    assert e.solved


def test_without_feedback_agreement_changes_nothing():
    episodes = [play(s, "sample_hot", "stop", feedback=Feedback.NONE)[0] for s in ("first", "agreement")]
    assert episodes[0].episode.sample() == episodes[1].episode.sample()
    assert {a.outcomes for e in episodes for a in e.episode.attempts} == {None}


def test_a_layout_under_agreement_is_that_of_the_first_rule_and_two_features_more():
    _, setup, _ = make_rollout()
    _, agreeing, _ = make_rollout(selector="agreement")
    more = [n for n in agreeing.layout.names if n not in setup.layout.names]
    assert more == ["agreement.passing", "agreement.largest_cluster"]
    assert [n for n in agreeing.layout.names if n not in more] == list(setup.layout.names)


def test_replayed_and_resumed_episodes_are_the_same_under_agreement(tmp_path: Path):
    """Execution needs no generation, so memory ends where it ended before."""
    recorders: list[RecordingBackbone] = []

    def record(backbone: Backbone) -> Backbone:
        recorders.append(RecordingBackbone(backbone, Cache(tmp_path / "cache.sqlite")))
        return recorders[0]

    rollout, setup, backbone = make_rollout(n_tasks=3, rule=cheats_once, budget=6, selector="agreement", wrap=record)
    names, recall = setup.table.names, Recall(recorders[0])

    def known(e: RewardedEpisode) -> set[str]:
        return {names[i] for i in np.flatnonzero(recall.mask(e.episode))}

    e = rollout.start(1)
    for name in ("sample_hot", "plan_first", "fixed_examples"):
        rollout.step([(e, names.index(name))])
    assert e.episode.done
    backbone_calls = len(backbone.requests)
    again = rollout.start(1)
    for name in ("sample_hot", "plan_first", "fixed_examples"):
        assert name in known(again)
        rollout.step([(again, names.index(name))])
    assert (again.episode.sample(), again.total) == (e.episode.sample(), e.total)
    assert again.episode.attempts == e.episode.attempts
    assert known(again) == set()
    assert len(backbone.requests) == backbone_calls

    env = VectorPromptEnv(rollout, setup.layout, 2, seed=1)
    env.reset(seed=1)
    env.step(np.array([names.index("sample_hot")] * 2))
    other = VectorPromptEnv(rollout, setup.layout, 2, seed=5)
    other.set_state(env.get_state())
    np.testing.assert_array_equal(env.action_masks(), other.action_masks())
    moves = np.array([names.index("plan_first")] * 2)
    for one, two in zip(env.step(moves)[:4], other.step(moves)[:4], strict=True):
        np.testing.assert_array_equal(one, two)
