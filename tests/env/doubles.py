"""Test doubles of the environment: train tasks, a scripted backbone's rule, a judge without isolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from promptrl_plugin.agent.setup import EpisodeSetup, layout_of
from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.checking.base import JudgeRequest, ProbeRequest
from promptrl_plugin.checking.probes import probe_inputs
from promptrl_plugin.config import EnvConfig, RewardConfig, TrainConfig
from promptrl_plugin.env.context import Projection
from promptrl_plugin.env.rollout import Rollout
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.records import (
    AssertGroup,
    FailureKind,
    Feedback,
    GenerationRequest,
    GroupVerdict,
    Status,
    Task,
)
from promptrl_plugin.suites.hidden import HiddenTests, TrainTask

VERBS = ("adds", "subtracts", "multiplies", "negates", "doubles", "halves", "squares", "returns")


def train_task(i: int) -> TrainTask:
    """Task number `i`: a function ``f<i>`` that adds `i` to a number; visible f(1), hidden f(1) and f(5)."""
    name, verb = f"f{i}", VERBS[i % len(VERBS)]
    visible = AssertGroup((f"assert {name}(1) == {1 + i}",))
    prompt = f'"""\nWrite a function which {verb} the large number of group {i}.\n{visible.asserts[0]}\n"""\n'
    reference = f"def {name}(x):\n    return x + {i}\n"
    hidden = AssertGroup((visible.asserts[0], f"assert {name}(5) == {5 + i}"))
    task = Task(f"Test/{i}", "test", "mbpp", prompt, name, visible)
    return TrainTask(task, HiddenTests(hidden, None, reference))


class ExecJudge:
    """Runs assert groups and generated inputs in this process: for trusted test programs only."""

    version = "exec"

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.executed: list[str] = []

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        self.calls.append(len(requests))
        return [tuple(self._group(r.program, g) for g in r.groups) for r in requests]

    def _group(self, program: str, group: object) -> GroupVerdict:
        assert isinstance(group, AssertGroup)
        passed: list[bool] = []
        failure: FailureKind | None = None
        for source in group.asserts:
            try:
                exec(source, self._namespace(program))
                passed.append(True)
            except AssertionError:
                passed.append(False)
                failure = failure or FailureKind.WRONG_VALUE
            except Exception:
                passed.append(False)
                failure = failure or FailureKind.EXCEPTION
        status = Status.PASS if all(passed) else Status.FAIL
        return GroupVerdict(status, tuple(passed), len(passed), failure, "" if failure is None else "it is wrong")

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        self.executed += [r.program for r in requests]
        functions = [self._namespace(r.program)[r.group.entry_point] for r in requests]
        return [
            tuple(_outcome(f, arguments) for arguments in probe_inputs(r.group))
            for f, r in zip(functions, requests, strict=True)
        ]

    @staticmethod
    def _namespace(program: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {}
        exec(program, namespace)
        return namespace

    def close(self) -> None: ...


def _outcome(function: Callable[..., Any], arguments: Sequence[Any]) -> str:
    try:
        return f"={function(*arguments)!r}"
    except Exception as e:
        return f"raised {type(e).__name__}"


def embed(texts: Sequence[str]) -> np.ndarray:
    """A deterministic embedding that tells texts apart."""
    rows = [np.random.default_rng(sum(map(ord, t))).normal(size=8) for t in texts]
    return np.asarray(rows, dtype=np.float32).reshape(len(texts), 8)


def setup_of(tasks: Sequence[TrainTask], embedding_dim: int = 4, env: EnvConfig | None = None) -> EpisodeSetup:
    table = ActionTable.default()
    return EpisodeSetup(
        table,
        layout_of(table, TrainConfig(env=env or EnvConfig()), embedding_dim),
        ExampleLibrary.from_train_tasks(tasks, embed),
        Projection.fit(embed([t.task.prompt for t in tasks]), embedding_dim),
        embed,
    )


def name_of(request: GenerationRequest) -> str:
    """Entry point of the task that a request is about."""
    import re

    return re.findall(r"assert (f\d+)\(", request.prompt.plain)[-1]


def answers_with_examples(request: GenerationRequest) -> str:
    """Right with solved examples in the prompt, visible-only otherwise when sampled, wrong when greedy."""
    name = name_of(request)
    number = int(name[1:])
    if len(request.prompt.messages) > 1:
        return f"def {name}(x):\n    return x + {number}\n"
    if not request.decoding.greedy and request.index >= 1:
        return f"def {name}(x):\n    return {1 + number}\n"
    return f"def {name}(x):\n    return -1\n"


def make_rollout(
    n_tasks: int = 6,
    rule: Callable[[GenerationRequest], str] = answers_with_examples,
    budget: int = 4,
    feedback: Feedback = Feedback.VISIBLE,
    seed: int = 0,
    wrap: Callable[[Backbone], Backbone] = lambda backbone: backbone,
    selector: str = "first",
    completes: bool = False,
) -> tuple[Rollout, EpisodeSetup, ScriptedBackbone]:
    tasks = [train_task(i) for i in range(n_tasks)]
    env = EnvConfig(budget=budget, feedback=str(feedback), selector=selector)
    setup = setup_of(tasks, env=env)
    backbone = ScriptedBackbone(rule, completes=completes)
    context = setup.episode_context(env, feedback, True, seed, completes=completes)
    contexts = setup.task_contexts([t.task for t in tasks])
    return Rollout(tasks, contexts, context, RewardConfig(), 1.0, wrap(backbone), ExecJudge()), setup, backbone
