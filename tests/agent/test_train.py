"""A whole training run on the starter suite with a scripted backbone: bundle, resume, leakage, strategies."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from promptrl_plugin.agent import parts as parts_module
from promptrl_plugin.agent import setup as episode_setup
from promptrl_plugin.agent import side_by_side
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.setup import EpisodeSetup
from promptrl_plugin.agent.survey import survey
from promptrl_plugin.agent.train import train
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import EnvConfig, JudgeConfig, PPOConfig, TrainConfig
from promptrl_plugin.env.feedback import VisibleFeedback
from promptrl_plugin.errors import BackboneError, BundleError, ConfigError, LeakageError
from promptrl_plugin.harnesses.crossfit import FoldSuite
from promptrl_plugin.records import Decoding, Feedback, GenerationRequest, Prompt, Task
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.strategies import registry
from promptrl_plugin.strategies.base import StrategyContext
from promptrl_plugin.strategies.episodes import Act, RandomHybrid
from promptrl_plugin.strategies.registry import make_strategy
from promptrl_plugin.strategies.runner import solve_tasks
from promptrl_plugin.suites.registry import load_suite

CONFIG = TrainConfig(
    suite="starter-train",
    backbone="scripted",
    limit=12,
    validate_every=1,
    variants=1,
    env=EnvConfig(budget=3, embedding_dim=4),
    ppo=PPOConfig(total_steps=96, n_envs=8, n_steps=4, batch_size=16, n_epochs=2, replays=1),
    judge=JudgeConfig(workers=1),
)


class Silent:
    """A listener that hears nothing but generations."""

    def __init__(self) -> None:
        self.generations = 0

    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...

    def generation(self) -> None:
        self.generations += 1


def references() -> dict[str, str]:
    suite = load_suite("starter")
    hidden = suite.hidden()
    return {t.entry_point: hidden[t.id].reference for t in suite.tasks()}


REFERENCES = references()


def rule(request: GenerationRequest) -> str:
    """The right program once examples are shown, else one that returns None."""
    name = next(n for n in re.findall(r"(\w+)\(", request.prompt.plain)[::-1] if n in REFERENCES)
    if len(request.prompt.messages) > 1:
        return REFERENCES[name]
    return f"def {name}(*args):\n    return None\n"


def embed(texts: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(t.encode()).digest()[:16] for t in texts]
    return np.array([[b / 255 for b in d] for d in digests], dtype=np.float32).reshape(len(texts), 16)


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedBackbone:
    backbone = ScriptedBackbone(rule, name="scripted")
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parts_module, "load_backbone", lambda name, cache=None, **_: CachingBackbone(backbone, cache))
    for module in (parts_module, episode_setup):
        monkeypatch.setattr(module, "load_embedder", lambda name, cache: embed)
    return backbone


def run_training(folder: Path, config: TrainConfig = CONFIG, *, resume: bool = False) -> Path:
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, config)
    parts = parts_module.build(config, Silent())
    try:
        return train(parts, run, Silent(), resume=resume).bundle
    finally:
        parts.close()


def test_training_writes_everything_and_the_policy_solves_held_out_tasks(tmp_path: Path, scripted: ScriptedBackbone):
    bundle_path = run_training(tmp_path / "run")
    for name in ("config.json", "environment.json", "metrics.jsonl", "learning_curve.png", "checkpoint.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    rows = RunFolder.open(tmp_path / "run").metrics()
    assert [row["steps"] for row in rows] == [0, 32, 64, 96]
    assert 0 <= rows[0]["random/solved"] <= 1
    assert all(0 <= row["validation/solved"] <= 1 for row in rows), "the untrained policy is the first point"

    bundle = PolicyBundle.load(bundle_path)
    assert len(bundle.train_hashes) == 12
    strategy = make_strategy("promptrl", backbone=scripted, policy=bundle_path)
    tasks = load_suite("starter-test").tasks()[:6]
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        samples = solve_tasks(
            tasks, strategy, scripted, VisibleFeedback(judge), feedback=Feedback.VISIBLE, budget=3, seed=0
        )
    assert [s.task_id for s in samples] == [t.id for t in tasks]
    assert all(1 <= s.generations <= 3 for s in samples)
    assert all(f"def {t.entry_point}" in s.solution for s, t in zip(samples, tasks, strict=True))


@pytest.mark.parametrize("learner", ["ppo", "linucb", "best-fixed"])
def test_runs_side_by_side_learn_what_each_learns_alone(
    learner: str, tmp_path: Path, scripted: ScriptedBackbone, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(side_by_side, "load_backbone", lambda name, **_: scripted)
    configs = [replace(CONFIG, learner=learner, generations=120, seed=seed) for seed in (0, 1, 2)]
    alone = [PolicyBundle.load(run_training(tmp_path / f"alone{c.seed}", c)) for c in configs]
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "another cache"))
    asked = len(scripted.requests)
    with side_by_side.SharedParts() as shared:
        parts = [parts_module.build(c, Silent(), shared=shared) for c in configs]
        runs = [RunFolder.create(tmp_path / f"beside{c.seed}", c) for c in configs]
        results = side_by_side.run_side_by_side(
            [partial(train, p, run, Silent()) for p, run in zip(parts, runs, strict=True)], shared
        )
        for p in parts:
            p.close()
    assert len(scripted.requests) > asked
    for one, result in zip(alone, results, strict=True):
        other = PolicyBundle.load(result.bundle)
        assert other.network == one.network
        assert other.weights.keys() == one.weights.keys()
        assert all(np.array_equal(other.weights[k], one.weights[k]) for k in one.weights)


def test_the_first_run_that_fails_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    never = threading.Event()

    def hold(_request: GenerationRequest) -> str:
        never.wait(30)
        return "x"

    monkeypatch.setattr(side_by_side, "load_backbone", lambda name, **_: ScriptedBackbone(hold))
    with side_by_side.SharedParts() as shared:
        client = shared.backbone("held", backend="hf", dtype="auto", base_url=None)
        ended: list[BaseException] = []

        def waiting() -> None:
            try:
                client.generate([GenerationRequest(Prompt((), "", "p"), Decoding())])
            except BackboneError as e:
                ended.append(e)
                raise

        def failing() -> None:
            raise ConfigError("the disk is full; free some space")

        with pytest.raises(ConfigError, match="free some space"):
            side_by_side.run_side_by_side([waiting, failing], shared)
        assert len(ended) == 1
        assert "--resume" in str(ended[0])
        never.set()


def test_a_model_in_this_process_is_loaded_once_and_a_server_has_a_client_a_run(monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []

    def load(name: str, *, backend: str, **_: object) -> ScriptedBackbone:
        loaded.append(backend)
        return ScriptedBackbone({"": "x"}, name=name)

    monkeypatch.setattr(side_by_side, "load_backbone", load)
    with side_by_side.SharedParts() as shared:
        for backend in ("hf", "hf", "openai", "openai"):
            shared.backbone("m", backend=backend, dtype="auto", base_url=None)
    assert loaded == ["hf", "openai", "openai"]


def test_a_model_is_loaded_by_a_thread_that_is_gone_and_its_error_is_told(monkeypatch: pytest.MonkeyPatch):
    loaders: list[threading.Thread] = []

    def load(name: str, **_: object) -> ScriptedBackbone:
        loaders.append(threading.current_thread())
        if name == "lost":
            raise BackboneError("no such model; see promptrl models")
        return ScriptedBackbone({"": "x"}, name=name)

    monkeypatch.setattr(side_by_side, "load_backbone", load)
    with side_by_side.SharedParts() as shared:
        shared.backbone("m", backend="hf", dtype="auto", base_url=None)
        with pytest.raises(BackboneError, match="promptrl models"):
            shared.backbone("lost", backend="hf", dtype="auto", base_url=None)
    loaders[1].join(10)
    assert not any(thread.is_alive() for thread in loaders)
    assert threading.current_thread() not in loaders


def test_the_model_computes_with_all_threads_and_the_runs_with_one_each(monkeypatch: pytest.MonkeyPatch):
    model: list[int] = []

    def write(_request: GenerationRequest) -> str:
        model.append(torch.get_num_threads())
        return "x"

    monkeypatch.setattr(side_by_side, "load_backbone", lambda name, **_: ScriptedBackbone(write))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with side_by_side.SharedParts() as shared:
            client = shared.backbone("m", backend="hf", dtype="auto", base_url=None)

            def run(text: str) -> int:
                client.generate([GenerationRequest(Prompt((), "", text), Decoding())])
                return torch.get_num_threads()

            assert side_by_side.run_side_by_side([partial(run, "a"), partial(run, "b")], shared) == [1, 1]
        assert model == [3, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_survey_generates_what_every_operator_makes_of_the_tasks_own_prompt(
    tmp_path: Path, scripted: ScriptedBackbone
):
    parts = parts_module.build(replace(CONFIG, survey=2), Silent())
    try:
        survey(parts, Silent())
        recall, table = parts.recall(), parts.setup.table
        taken = []
        for index in range(len(parts.rollout.tasks)):
            e = parts.rollout.start(index)
            generating = {a.index for a in table.actions if a.operator.generates and e.episode.mask()[a.index]}
            assert set(np.flatnonzero(recall.mask(e.episode))) == generating
            taken += generating
        made = len(scripted.requests)
        told: list[tuple[np.ndarray, ...]] = []
        survey(parts, Silent(), lambda *draw: told.append(draw))
        assert len(scripted.requests) == made
        start = parts.setup.layout.observe(parts.rollout.start(0).episode)
        (observations, actions, rewards), (later, _, gained) = told
        assert (observations[actions == actions[0]][0] == start).all()
        assert (later[0] != start).any(), "a generation was spent"
        assert sorted(actions) == sorted(taken)
        assert len(observations) == len(rewards) == len(taken)
        assert rewards.max() > 0.5
        assert gained.max() < rewards.max(), "what is solved already gains nothing"
    finally:
        parts.close()


@pytest.mark.parametrize(("replays", "draws"), [(0, 0), (1, 0), (1, 1)])
def test_a_resumed_run_ends_with_the_parameters_of_an_uninterrupted_one(tmp_path: Path, replays: int, draws: int):
    config = replace(CONFIG, ppo=replace(CONFIG.ppo, replays=replays), survey=draws)
    whole = PolicyBundle.load(run_training(tmp_path / "whole", config))

    class KilledError(Exception):
        pass

    class Killer(Silent):
        def metrics(self, values: dict[str, float]) -> None:
            if values["steps"] >= 64:
                raise KilledError

    run = RunFolder.create(tmp_path / "killed", config)
    parts = parts_module.build(config, Silent())
    with pytest.raises(KilledError):
        train(parts, run, Killer())
    parts.close()
    resumed = PolicyBundle.load(run_training(tmp_path / "killed", config, resume=True))
    assert whole.weights.keys() == resumed.weights.keys()
    for name, tensor in whole.weights.items():
        np.testing.assert_array_equal(tensor, resumed.weights[name], err_msg=name)
    assert whole.content_hash == resumed.content_hash
    assert whole.metrics["generations/distinct"] == resumed.metrics["generations/distinct"]


def test_a_second_run_with_the_same_seed_generates_nothing_anew(tmp_path: Path, scripted: ScriptedBackbone):
    run_training(tmp_path / "one")
    made = len(scripted.requests)
    assert made > 0
    run_training(tmp_path / "two")
    assert len(scripted.requests) == made


def test_a_bundle_refuses_its_train_tasks_and_other_models(tmp_path: Path, scripted: ScriptedBackbone):
    path = run_training(tmp_path / "run", replace(CONFIG, ppo=replace(CONFIG.ppo, total_steps=32)))
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    trained = load_suite("starter-train").tasks()[:1]
    with pytest.raises(LeakageError, match=trained[0].id):
        solve_tasks(trained, strategy, scripted, lambda p: [None] * len(p), feedback=Feedback.NONE, budget=2)
    other = ScriptedBackbone(rule, name="another")
    with pytest.raises(BundleError, match="promptrl train --model another"):
        make_strategy("promptrl", backbone=other, policy=path)
    with pytest.raises(BundleError, match="promptrl train --model another"):
        make_strategy("promptrl", backbone=other)


def test_a_fold_shows_its_own_tasks_and_no_other(tmp_path: Path, scripted: ScriptedBackbone):
    whole = load_suite("starter-test")
    fold, others = FoldSuite(whole, tuple(whole.tasks()[:12])), whole.tasks()[12:15]
    config = replace(CONFIG, suite=whole.name, example_suite=whole.name, ppo=replace(CONFIG.ppo, total_steps=32))
    parts = parts_module.build(config, Silent(), suite=fold)
    try:
        path = train(parts, RunFolder.create(tmp_path / "run", config), Silent()).bundle
    finally:
        parts.close()
    shown = PolicyBundle.load(path).example_ids
    assert shown
    assert set(shown) <= {t.id for t in fold.tasks()}
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    env = {"feedback": Feedback.VISIBLE, "budget": 3}
    solve_tasks(others, strategy, scripted, lambda p: [None] * len(p), **env)
    with pytest.raises(LeakageError, match=fold.train[0].id):
        solve_tasks(fold.train[:1], strategy, scripted, lambda p: [None] * len(p), **env)


def test_a_policy_says_when_it_runs_in_other_circumstances(tmp_path: Path, scripted: ScriptedBackbone):
    path = run_training(tmp_path / "run", replace(CONFIG, ppo=replace(CONFIG.ppo, total_steps=32)))
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    tasks = load_suite("starter-test").tasks()[:1]
    for feedback, budget, selector in (
        (Feedback.NONE, 3, "first"),
        (Feedback.VISIBLE, 2, "first"),
        (Feedback.VISIBLE, 3, "agreement"),
    ):
        env = EnvConfig(budget=budget, selector=selector)
        with pytest.warns(UserWarning, match="trained at feedback=visible, budget 3 and selector first, this is"):
            solve_tasks(tasks, strategy, scripted, lambda p: [None] * len(p), feedback=feedback, budget=budget, env=env)


def test_a_policy_trained_under_agreement_sees_it_and_is_run_under_it(
    tmp_path: Path, scripted: ScriptedBackbone, recwarn: pytest.WarningsRecorder
):
    env = replace(CONFIG.env, selector="agreement")
    path = run_training(tmp_path / "run", replace(CONFIG, env=env, ppo=replace(CONFIG.ppo, total_steps=64)))
    bundle = PolicyBundle.load(path)
    assert bundle.config["env"]["selector"] == "agreement"
    assert {"agreement.passing", "agreement.largest_cluster"} <= set(bundle.observation)
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        samples = solve_tasks(
            load_suite("starter-test").tasks()[:6], strategy, scripted, VisibleFeedback(judge),
            feedback=Feedback.VISIBLE, budget=3, env=env,
        )  # fmt: skip
    for sample in samples:
        votes = [c.outcomes for c in sample.candidates if c.outcomes]
        assert all((c.outcomes is not None) <= (c.visible == 1.0) for c in sample.candidates)
        assert sample.generations == 3 or "stop" in sample.actions or len(set(votes)) < len(votes)
    assert not [w for w in recwarn if "it may do less well" in str(w.message)]


def test_the_policies_that_ship_fit_the_observation(scripted: ScriptedBackbone):
    assert registry.shipped_policies()
    for path in registry.shipped_policies():
        bundle = PolicyBundle.load(path)
        assert EpisodeSetup.from_bundle(bundle, None).layout.names == bundle.observation


def test_random_hybrid_needs_no_policy_and_keeps_to_its_seed(scripted: ScriptedBackbone):
    def solve(seed: int) -> list[tuple[str, ...]]:
        setup = EpisodeSetup.untrained(Cache(), CONFIG)
        tasks = load_suite("starter-test").tasks()[:5]
        samples = solve_tasks(
            tasks, RandomHybrid(setup), scripted, lambda p: [None] * len(p), feedback=Feedback.NONE, budget=4, seed=seed
        )
        return [(s.solution, s.prompt.operators) for s in samples]

    assert solve(0) == solve(0)
    assert solve(0) != solve(1)


def test_a_policy_trained_with_a_rewriter_runs_with_that_rewriter(
    tmp_path: Path, scripted: ScriptedBackbone, monkeypatch: pytest.MonkeyPatch
):
    rewriter = ScriptedBackbone({"": "computes it."}, name="writer")
    backbones = {"scripted": scripted, "writer": rewriter}
    for module in (parts_module, registry):
        monkeypatch.setattr(
            module, "load_backbone", lambda name, cache=None, **_: CachingBackbone(backbones[name], cache)
        )
    path = run_training(tmp_path / "run", replace(CONFIG, rewriter="writer"))
    assert rewriter.requests, "training asked the rewriter"
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    assert strategy.rewriter is not None
    assert strategy.rewriter.fingerprint == rewriter.fingerprint
    backbones["writer"] = ScriptedBackbone({"": "x"}, name="other")
    with pytest.raises(BundleError, match="trained with rewriter writer@scripted"):
        make_strategy("promptrl", backbone=scripted, policy=path)


def test_the_runner_sends_rewrites_to_the_rewriter_of_the_strategy(scripted: ScriptedBackbone):
    setup = EpisodeSetup.untrained(Cache(), CONFIG)
    rewriter = ScriptedBackbone({"": "computes it."}, name="writer")

    class Clarifier(RandomHybrid):
        def actor(self, task: Task, context: StrategyContext) -> Act:
            return lambda _observation, mask: next(
                i for n in ("clarify", "stop") if mask[i := setup.table.names.index(n)]
            )

    tasks = load_suite("starter-test").tasks()[:2]
    samples = solve_tasks(
        tasks, Clarifier(setup, rewriter), scripted, lambda p: [None] * len(p), feedback=Feedback.NONE, budget=3
    )
    assert [s.generations for s in samples] == [2, 2]
    assert len(rewriter.requests) == len(scripted.requests) == 2
