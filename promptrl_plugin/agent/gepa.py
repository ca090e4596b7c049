"""GEPA (Agrawal et al. 2025, arXiv 2507.19457) through its own package: one instruction for all tasks.

What it evolves is the sentence before the task, which is EvalPlus's at first. A candidate is scored by one
greedy program a task, with the reward that PPO gets for such a step. The train tasks are what it reflects on
(its feedback set), the validation tasks decide between candidates (its Pareto set), as they choose PPO's
checkpoint. The reflecting LLM is the rewriter: the backbone itself unless another is named. Reflections count
as generations; what the package calls metric calls do not matter. A round makes several proposals
(`GepaConfig.proposals`, towards the end as many as the train generations left pay for), and all their programs, then
all their reflections, are one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from promptrl_plugin.agent.parts import TrainingParts
from promptrl_plugin.agent.progress import MetricsLog, Quota, TrainListener, TrainResult, finish
from promptrl_plugin.env.reward import all_pass, pass_fraction, potential, reward
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import EOS, INSTRUCTION_PREFIX, render
from promptrl_plugin.records import Decoding, GenerationRequest, GroupVerdict, Message, Prompt, Status
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.suites.hidden import TrainTask

__all__ = ["Instructions", "Reflector", "train_gepa"]

_COMPONENT = "instruction"
_SCORED = 4  # one proposal in so many, about, is scored on the validation tasks
_log = logging.getLogger("promptrl.gepa")


class Instructions:
    """Scores an instruction on train tasks (a ``gepa.core.adapter.GEPAAdapter``).

    Attributes:
        evaluations: (candidate, task) pairs scored so far.
    """

    propose_new_texts = None  # the package's own proposer, with its own prompt

    def __init__(self, parts: TrainingParts, listener: TrainListener) -> None:
        self._parts, self._listener = parts, listener
        self.evaluations = 0

    @property
    def perfect(self) -> float:
        """The score of a program that passes every test."""
        c = self._parts.config.reward
        return self._reward(c.w_fraction + c.w_compiles + c.w_entry_point, solved=True)

    def evaluate(self, batch: Sequence[TrainTask], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """One of `batch_evaluate`; traces are cheap and always kept."""
        return self.batch_evaluate([(candidate, batch)])[0]

    def batch_evaluate(self, items: Sequence[tuple[Mapping[str, str], Sequence[TrainTask]]]) -> list[Any]:
        """Write a program for each task under its candidate's instruction and reward it; all in one batch.

        Returns:
            For each item a ``gepa.core.adapter.EvaluationBatch``: outputs tell whether each program passes
            every test, scores are rewards.

        Raises:
            JudgeError: A program could not be judged.
        """
        from gepa.core.adapter import EvaluationBatch

        asked = [(task, candidate[_COMPONENT]) for candidate, batch in items for task in batch]
        tasks = [task for task, _ in asked]
        programs = self._programs(asked)
        judged = self._parts.rollout.grader.grade(list(zip(tasks, programs, strict=True)))
        self.evaluations += len(asked)
        results = iter(list(zip(tasks, programs, judged, strict=True)))
        evaluated = []
        for _, batch in items:
            of_batch = list(islice(results, len(batch)))
            evaluated.append(
                EvaluationBatch(
                    outputs=[all_pass(verdicts) for _, _, verdicts in of_batch],
                    scores=[self._score(*result) for result in of_batch],
                    trajectories=[self._trace(*result) for result in of_batch],
                )
            )
        return evaluated

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, str]]]:
        """What the reflecting LLM is shown: task, program, and what the tests said."""
        return {component: list(eval_batch.trajectories) for component in components_to_update}

    def _programs(self, asked: Sequence[tuple[TrainTask, str]]) -> list[str]:
        decoding = self._parts.rollout.context.decoding("greedy")
        prompts = [render(t.task, PromptState.initial(t.task), instruction) for t, instruction in asked]
        completions = self._parts.backbone.generate(
            [GenerationRequest(p, decoding) for p in prompts], lambda _i, _completion: self._listener.generation()
        )
        return [to_program(t.task, p, c)[1] for (t, _), p, c in zip(asked, prompts, completions, strict=True)]

    def _score(self, task: TrainTask, program: str, verdicts: Sequence[GroupVerdict]) -> float:
        phi = potential(self._parts.config.reward, program, task.task.entry_point, pass_fraction(verdicts))
        return self._reward(phi, solved=all_pass(verdicts))

    def _reward(self, phi: float, *, solved: bool) -> float:
        config = self._parts.config
        return reward(config.reward, config.ppo.gamma, 0.0, phi, solved, 1)

    def _trace(self, task: TrainTask, program: str, verdicts: Sequence[GroupVerdict]) -> dict[str, str]:
        total, passed = sum(v.total for v in verdicts), sum(sum(v.passed) for v in verdicts)
        detail = next((v.detail for v in verdicts if v.status is not Status.PASS), "")
        shown = program.strip().splitlines()[: self._parts.config.gepa.max_program_lines]
        return {
            "Inputs": task.task.prompt.strip(),
            "Generated Outputs": "\n".join(shown),
            "Feedback": f"It passes {passed} of {total} tests. {detail}".strip(),
        }


class Reflector:
    """The reflecting LLM, sampled (``gepa``'s ``reflection_lm``).

    The package goes on without a proposal when a reflection fails; here that failure ends the run (`check`).
    """

    def __init__(self, parts: TrainingParts, listener: TrainListener) -> None:
        env = parts.config.env
        self._decoding = Decoding(env.hot_temperature, env.top_p, parts.config.gepa.reflection_max_new_tokens)
        self._backbone, self._seed, self._listener = parts.rewriter or parts.backbone, parts.config.seed, listener
        self._draws = 0
        self._failure: Exception | None = None

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        """One of `batch_complete`."""
        return self.batch_complete([prompt])[0]

    def batch_complete(self, prompts: Sequence[str | list[dict[str, Any]]]) -> list[str]:
        """The answers, each from behind the opening fence to the closing one."""
        requests = [self._request(prompt, self._draws + i) for i, prompt in enumerate(prompts)]
        try:
            completions = self._backbone.generate(requests, lambda _i, _completion: self._listener.generation())
        except Exception as e:
            self._failure = e
            raise
        self._draws += len(requests)
        return [completion.text.strip() for completion in completions]

    def _request(self, prompt: str | list[dict[str, Any]], draw: int) -> GenerationRequest:
        said = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        stop = (*EOS[:3], "\n```")
        asked = Prompt((Message("user", said),), "```\n", f"{said}\n\n```\n", stop, stop)
        return GenerationRequest(asked, self._decoding, self._seed, draw)

    def check(self) -> None:
        """Raise what a reflection failed with, if one did."""
        if self._failure is not None:
            raise self._failure


class _Logger:
    """What the package says goes to the log, not to the terminal."""

    def log(self, message: str) -> None:
        _log.debug(message)


def train_gepa(parts: TrainingParts, run: RunFolder, listener: TrainListener) -> TrainResult:
    """Let GEPA evolve the instruction until the train generations are spent; keep the best on the validation tasks.

    Raises:
        ConfigError: The package ``gepa`` is not installed.
    """
    try:
        from gepa import optimize
        from gepa.strategies.proposal_sampling import IndependentSampling
    except ImportError:
        raise ConfigError("learner gepa needs the package gepa: pip install 'promptrl-plugin[gepa]'") from None
    config, adapter, reflector = parts.config, Instructions(parts, listener), Reflector(parts, listener)
    quota, candidates = Quota(parts, listener), 0
    sampling = IndependentSampling(config.gepa.proposals)
    cost = 2 * config.gepa.minibatch + 1 + len(parts.validation.tasks) // _SCORED  # of a proposal, about
    listener.stage("evolve", quota.limit)
    with MetricsLog(run, 0) as log:

        def over(state: Any) -> bool:
            """Called by the package before each of its rounds, the first after the seed was scored."""
            nonlocal candidates
            reflector.check()
            scores = state.program_full_scores_val_set
            if len(scores) > candidates:  # one was accepted
                candidates = len(scores)
                row = {"steps": float(adapter.evaluations), "candidates": float(candidates)} | parts.counters()
                row["validation/return"] = float(max(scores))
                log.write(row)
                listener.metrics(row)
            sampling.n = max(1, min(config.gepa.proposals, quota.left // cost))
            return quota.spent()

        result = optimize(
            seed_candidate={_COMPONENT: INSTRUCTION_PREFIX},
            trainset=list(parts.rollout.tasks),
            valset=list(parts.validation.tasks),
            adapter=adapter,
            reflection_lm=reflector,
            reflection_minibatch_size=config.gepa.minibatch,
            sampling_strategy=sampling,
            perfect_score=adapter.perfect,
            stop_callbacks=over,
            logger=_Logger(),
            seed=config.seed,
        )
        reflector.check()
        instruction = dict(result.best_candidate)[_COMPONENT]
        final = adapter.evaluate(parts.validation.tasks, {_COMPONENT: instruction})
        solved = sum(final.outputs) / len(final.outputs)
        row = {"steps": float(adapter.evaluations), "validation/solved": solved} | parts.counters()
        log.write(row)
        listener.metrics(row)
    return finish(parts, run, {_COMPONENT: instruction}, {}, solved, f"instruction: {' '.join(instruction.split())}")
