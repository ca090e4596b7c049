"""LinUCB, best-fixed and GEPA trained on the starter suite with a scripted backbone, and run as strategies."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_train import CONFIG, REFERENCES, Silent, run_training, scripted  # noqa: F401  # a fixture

from promptrl_plugin.agent import parts as parts_module
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.train import train
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.config import GepaConfig, TrainConfig
from promptrl_plugin.errors import BackboneError, BundleError, ConfigError, LeakageError, UnknownNameError
from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX
from promptrl_plugin.records import Feedback, GenerationRequest, GroupVerdict, Sample, Status, Task
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.strategies.base import Strategy, StrategyContext
from promptrl_plugin.strategies.registry import make_strategy, shipped_policies
from promptrl_plugin.strategies.runner import solve_tasks
from promptrl_plugin.suites.fingerprints import fingerprint
from promptrl_plugin.suites.registry import load_suite

SMALL = replace(CONFIG, generations=60)
GOOD = "Think of the reference."
CONTEXT = StrategyContext(3, Feedback.VISIBLE, chat=True, seed=0)


def learner(name: str) -> TrainConfig:
    return replace(SMALL, learner=name, gepa=GepaConfig(minibatch=2))


def instructed(request: GenerationRequest) -> str:
    """Asked for an instruction, gives the good one; right under it, else one that returns None."""
    said = request.prompt.messages[-1].content
    if "write a new instruction" in said:
        return GOOD
    name = next(n for n in re.findall(r"(\w+)\(", request.prompt.plain)[::-1] if n in REFERENCES)
    return REFERENCES[name] if GOOD in said else f"def {name}(*args):\n    return None\n"


def verdicts(programs: list[tuple[Task, str]]) -> list[GroupVerdict | None]:
    """Passes all but what the rules write where they are wrong."""
    right = ["(*args):\n    return None" not in p for _, p in programs]
    return [GroupVerdict(Status.PASS if ok else Status.FAIL, (ok,), 1) for ok in right]


def solve(strategy: Strategy, backbone: ScriptedBackbone, budget: int = 3) -> list[Sample]:
    tasks = load_suite("starter-test").tasks()[:4]
    return solve_tasks(tasks, strategy, backbone, verdicts, feedback=Feedback.VISIBLE, budget=budget)


def killed_and_resumed(folder: Path, config: TrainConfig) -> PolicyBundle:
    """A run that is killed at the metrics of its second row, and then goes on."""

    class KilledError(Exception):
        pass

    class Killer(Silent):
        rows = 0

        def metrics(self, values: dict[str, float]) -> None:
            self.rows += 1
            if self.rows == 2:
                raise KilledError

    parts = parts_module.build(config, Silent())
    with pytest.raises(KilledError):
        train(parts, RunFolder.create(folder, config), Killer())
    parts.close()
    return PolicyBundle.load(run_training(folder, config, resume=True))


@pytest.mark.parametrize("name", ["linucb", "best-fixed"])
def test_a_learner_of_operators_trains_resumes_and_runs(
    name: str,
    tmp_path: Path,
    scripted: ScriptedBackbone,  # noqa: F811
):
    path = run_training(tmp_path / "run", learner(name))
    bundle = PolicyBundle.load(path)
    assert bundle.learner == name
    assert (tmp_path / "run" / "learning_curve.png").stat().st_size > 0
    spent = bundle.metrics["generations/distinct"]
    assert spent is not None
    assert spent <= 60 + 8 * 3, "the last round is whole, no more"
    made = len(scripted.requests)
    assert killed_and_resumed(tmp_path / "killed", learner(name)).content_hash == bundle.content_hash
    assert len(scripted.requests) == made, "what was generated is in the cache"

    strategy = make_strategy(name, backbone=scripted, policy=path)
    assert strategy.name == name
    samples = solve(strategy, scripted)
    assert all(s.visible_status is Status.PASS for s in samples), "examples solve every task, and it has learned that"
    if name == "best-fixed":
        assert bundle.network["sequence"][0] in ("fixed_examples", "nearest_examples")
        assert {s.generations for s in samples} == {1}
    else:
        theta = bundle.weights["theta"]
        assert theta.shape == (len(bundle.actions), len(bundle.observation) + 1)
        assert np.any(theta)

    with pytest.raises(LeakageError):
        solve_tasks(load_suite("starter-train").tasks()[:1], strategy, scripted, verdicts,
                    feedback=Feedback.VISIBLE, budget=3)  # fmt: skip
    with pytest.raises(BundleError, match=f"of learner {name}, for strategy {name}, not promptrl; .*--learner ppo"):
        make_strategy("promptrl", backbone=scripted, policy=path)
    other = ScriptedBackbone(instructed, name="another")
    with pytest.raises(BundleError, match=f"promptrl train --learner {name} --model another"):
        make_strategy(name, backbone=other, policy=path)
    with pytest.raises(BundleError, match=f"no policy of strategy {name} ships .*--learner {name} --model another"):
        make_strategy(name, backbone=other)


def test_gepa_finds_the_instruction_resumes_and_is_applied(
    tmp_path: Path,
    scripted: ScriptedBackbone,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(scripted, "_rule", instructed)
    path = run_training(tmp_path / "run", learner("gepa"))
    bundle = PolicyBundle.load(path)
    assert (bundle.learner, bundle.network["instruction"]) == ("gepa", GOOD)
    assert bundle.metrics["validation/solved"] == 1.0
    made = len(scripted.requests)
    assert killed_and_resumed(tmp_path / "killed", learner("gepa")).content_hash == bundle.content_hash
    assert len(scripted.requests) == made

    scripted.calls.clear()
    samples = solve(make_strategy("gepa", backbone=scripted, policy=path), scripted)
    assert all(s.visible_status is Status.PASS and s.generations == 1 for s in samples)
    assert all(r.decoding.greedy and r.prompt.messages[0].content.startswith(GOOD) for r in scripted.requests)
    assert all(r.prompt.plain.startswith(f"# {GOOD}\n\n") for r in scripted.requests)


def test_random_choice_among_a_policys_operators(tmp_path: Path, scripted: ScriptedBackbone):  # noqa: F811
    few = ("generate", "sample_hot", "contract", "stop")
    made = PolicyBundle.load(shipped_policies()[0])
    trained, shown = load_suite("starter-train").tasks()[-1], load_suite("examples").tasks()[0]
    network = {**made.network, "n_actions": len(few)}
    made = replace(
        made,
        backbone_fingerprint=scripted.fingerprint,
        actions=few,
        network=network,
        projection_mean=made.projection_mean[:16],  # the scripted embedding has 16 components
        projection_components=made.projection_components[:, :16],
        train_hashes=(trained.content_hash,),
        train_fingerprints=(fingerprint(trained),),
    )
    path = made.save(tmp_path / "few")
    strategy = make_strategy("random-hybrid", backbone=scripted, policy=path)
    assert strategy.policy_hash == PolicyBundle.load(path).content_hash  # type: ignore[attr-defined]
    taken = [action for sample in solve(strategy, scripted) for action in sample.actions]
    assert set(taken) <= set(few)
    assert {"sample_hot", "contract"} <= set(taken)
    assert not set(make_strategy("random-hybrid", backbone=scripted).setup.table.names) <= set(few)  # type: ignore[attr-defined]

    for task in (trained, replace(trained, id="Other/1"), shown, replace(shown, prompt=shown.prompt + " ")):
        with pytest.raises(LeakageError, match=f"must not solve {task.id}, which has the same"):
            strategy.prepare([task], CONTEXT)
    with pytest.raises(LeakageError, match=f"as solved example {shown.id}, which prompts show"):
        make_strategy("random-hybrid", backbone=scripted).prepare([replace(shown, id="Other/2")], CONTEXT)

    gepa = replace(made, config={**made.config, "learner": "gepa"}).save(tmp_path / "gepa")
    with pytest.raises(BundleError, match="has no operators; give random-hybrid another"):
        make_strategy("random-hybrid", backbone=scripted, policy=gepa)


def test_gepa_makes_the_proposals_of_a_round_in_one_batch(
    tmp_path: Path,
    scripted: ScriptedBackbone,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(scripted, "_rule", instructed)
    run_training(tmp_path / "run", replace(learner("gepa"), gepa=GepaConfig(minibatch=2, proposals=3)))
    reflections = [
        [r for r in call if "write a new instruction" in r.prompt.messages[-1].content] for call in scripted.calls
    ]
    first = next(asked for asked in reflections if asked)
    assert len(first) == 3
    assert [r.index for r in first] == [0, 1, 2]
    assert len({r.prompt.messages[-1].content for r in first}) == 3, "each looks at tasks of its own"
    shown_programs = scripted.calls[reflections.index(first) - 1]
    assert len(shown_programs) == 3 * 2, "and their programs were one batch"


def test_gepa_makes_fewer_proposals_a_round_as_its_generations_run_out(
    tmp_path: Path,
    scripted: ScriptedBackbone,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    def varied(request: GenerationRequest) -> str:
        said = instructed(request)
        return f"Think of reference {request.index}." if said is GOOD else said

    monkeypatch.setattr(scripted, "_rule", varied)
    run_training(tmp_path / "run", replace(learner("gepa"), generations=120))
    rounds = [
        len(asked)
        for call in scripted.calls
        if (asked := [r for r in call if "write a new instruction" in r.prompt.messages[-1].content])
    ]
    assert rounds[0] > 1
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[-1] == 1


def test_gepa_samples_from_its_prompt_when_the_greedy_program_fails(tmp_path: Path, scripted: ScriptedBackbone):  # noqa: F811
    made = PolicyBundle.load(shipped_policies()[0])
    config = {**made.config, "learner": "gepa", "env": {**made.config["env"], "budget": 3}}
    bundle = replace(
        made,
        backbone_fingerprint=scripted.fingerprint,
        config=config,
        network={**made.network, "instruction": INSTRUCTION_PREFIX},
        train_hashes=(),
        train_fingerprints=(),
    )
    samples = solve(make_strategy("gepa", backbone=scripted, policy=bundle.save(tmp_path / "b")), scripted)
    assert {s.generations for s in samples} == {3}
    asked = [(r.decoding.temperature, r.index) for r in scripted.requests]
    assert sorted(asked) == sorted([(0.0, 0), (0.8, 0), (0.8, 1)] * len(samples))


def test_a_reflection_that_fails_ends_the_run(
    tmp_path: Path,
    scripted: ScriptedBackbone,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    def broken(request: GenerationRequest) -> str:
        if "write a new instruction" in request.prompt.messages[-1].content:
            raise BackboneError("the server is gone")
        return instructed(request)

    monkeypatch.setattr(scripted, "_rule", broken)
    with pytest.raises(BackboneError, match="the server is gone"):
        run_training(tmp_path / "run", learner("gepa"))


def test_without_the_package_gepa_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(ConfigError, match=r"pip install 'promptrl-plugin\[gepa\]'"):
        run_training(tmp_path / "run", learner("gepa"))


def test_an_unknown_learner_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="linucb"):
        run_training(tmp_path / "run", learner("linuxcb"))


def test_an_ablated_agent_runs_as_it_was_trained(tmp_path: Path, scripted: ScriptedBackbone):  # noqa: F811
    config = replace(
        CONFIG,
        operator_kinds=("direct", "semantic"),
        blank_features=("embedding", "exec"),
        ppo=replace(CONFIG.ppo, total_steps=32),
    )
    path = run_training(tmp_path / "run", config)
    assert not any("synonym" in name for name in PolicyBundle.load(path).actions)
    strategy = make_strategy("promptrl", backbone=scripted, policy=path)
    assert strategy.setup.layout.blank == ("embedding", "exec")  # type: ignore[attr-defined]
    assert len(solve(strategy, scripted)) == 4


def test_the_shipped_policies_are_of_ppo():
    assert {PolicyBundle.load(p).learner for p in shipped_policies()} == {"ppo"}
