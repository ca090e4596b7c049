"""The class behind promptrl's lm-eval tasks: a strategy at work inside the harness's own evaluation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from promptrl_plugin.config import EnvConfig, JudgeConfig
from promptrl_plugin.env.feedback import judge_hidden
from promptrl_plugin.errors import BundleError, ConfigError
from promptrl_plugin.harnesses.lm_backbone import LMEvalBackbone, model_name
from promptrl_plugin.harnesses.lm_eval import options_given
from promptrl_plugin.harnesses.options import StrategyOptions
from promptrl_plugin.harnesses.session import check_visible, open_checker, open_strategy
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render
from promptrl_plugin.records import Decoding, GroupVerdict, Prompt, Sample, Status, Task
from promptrl_plugin.suites.base import Suite

__all__ = ["StrategyTask", "dataset", "scores"]


def dataset(promptrl_suite: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The documents of a suite (lm-eval's ``custom_dataset``): id, prompt and entry point of each task.

    Inputs of different types do not fit one column; what grades a task is looked up by its id.
    """
    rows = [{"task_id": t.id, "prompt": t.prompt, "entry_point": t.entry_point} for t in _suite(promptrl_suite).tasks()]
    return {"test": datasets.Dataset.from_list(rows)}


def scores(verdicts: Sequence[GroupVerdict], dialect: str = "") -> dict[str, float]:
    """Strict and soft scores of one submission.

    Args:
        verdicts: On the base and the plus tests. As in EvalPlus, the *plus* scores count both.
        dialect: The task's; APPS's scores have APPS's names.
    """
    base = verdicts[0]
    if dialect == "apps":
        return {"strict_accuracy": float(base.status is Status.PASS), "test_case_average": base.fraction}
    passed = sum(sum(v.passed) for v in verdicts)
    return {
        "pass_at_1_base": float(base.status is Status.PASS),
        "pass_at_1_plus": float(all(v.status is Status.PASS for v in verdicts)),
        "soft_pass_at_1_base": base.fraction,
        "soft_pass_at_1_plus": passed / max(1, sum(v.total for v in verdicts)),
    }


class StrategyTask(ConfigurableTask):  # type: ignore[misc]  # untyped
    """One suite solved by one strategy, named in the YAML's ``metadata``.

    Options (budget, policy, feedback, selector, seed) come from ``--metadata '{"budget": 6, "policy": "…"}'`` or
    from ``PROMPTRL_BUDGET`` and the like. Programs are judged in promptrl's isolated judge, so that the task needs
    no ``--confirm_run_unsafe_code``.
    """

    is_promptrl_task = True

    def __init__(self, config: dict[str, Any]) -> None:
        # With a function of its own for results, lm-eval looks for no metric of these names (on the hub).
        config = {**{k: v for k, v in config.items() if k != "class"}, "process_results": _graded_by_class}
        metadata: Mapping[str, Any] = config["metadata"]
        self._suite: Suite = _suite(metadata["promptrl_suite"])
        self._tasks: dict[str, Task] = {t.id: t for t in self._suite.tasks()}
        self._strategy: str = metadata["promptrl_strategy"]
        self._backbone: LMEvalBackbone | None = None
        self._graded: dict[str, dict[str, float]] = {}
        super().__init__(config=config)

    def attach(self, lm: Any, chat: bool, system_instruction: str | None) -> None:
        """Take the harness's LM as backbone (called before the harness builds its requests).

        Raises:
            UserError: An option cannot work, or no policy fits the model.
        """
        given = {**options_given(self.config.metadata), "strategy": self._strategy}
        if self._strategy == "direct":
            given.pop("policy", None)
        self._options = StrategyOptions.parse(given)
        check_visible(self._options.feedback, self._suite)
        self._backbone = LMEvalBackbone(lm, model_name(lm), chat=chat, system_instruction=system_instruction)
        try:
            self._solver, _ = open_strategy(self._options, self._backbone)
        except BundleError as e:
            raise BundleError(str(e) if "--policy" in str(e) else f"{e}; a policy is given with --policy") from None

    @property
    def backbone(self) -> LMEvalBackbone:
        """The attached LM.

        Raises:
            ConfigError: The hook is off, so nothing was attached.
        """
        if self._backbone is None:
            raise ConfigError(
                f"task {self.config.task} needs promptrl's hook to reach the model; unset PROMPTRL_NO_HOOK, and do not "
                "run Python with -S or from a `pip install --target` folder"
            )
        return self._backbone

    # --- first pass: EvalPlus's prompt, by the harness ---------------------------------------------

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """EvalPlus's prompt for a document, as the LM takes it."""
        return self.backbone.context(self._prompt(doc))

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> Instance:
        """The greedy generation from EvalPlus's prompt; the harness's ``--gen_kwargs`` override it."""
        own = self.backbone.gen_kwargs(self._prompt(doc), self._greedy())
        given = {k: v for k, v in (self.config.generation_kwargs or {}).items() if k != "until"}
        return Instance("generate_until", doc, (ctx, own | given), 0, metadata=kwargs["metadata"])

    # --- second pass: the strategy ------------------------------------------------------------------

    def apply_filters(self) -> None:
        """Let the strategy solve the documents of this rank, and grade what it submits."""
        for instance in self._instances:
            self.backbone.remember(instance.resps[0], *instance.args)
        tasks = [self._tasks[i.doc["task_id"]] for i in self._instances]
        if "bypass" not in self._metric_fn_list:  # --predict_only grades nothing
            samples = self._solve_and_grade(tasks)
            for instance, sample in zip(self._instances, samples, strict=True):
                how = {"operators": list(sample.prompt.operators), "generations": sample.generations}
                instance.arguments = (sample.prompt.text, how)  # what --log_samples shows
                instance.resps = [sample.solution]
        super().apply_filters()

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
        """The scores of a document's submission."""
        if "bypass" in self._metric_fn_list:
            return {"bypass": 999.0}
        return self._graded[doc["task_id"]]

    def _solve_and_grade(self, tasks: Sequence[Task]) -> list[Sample]:
        from promptrl_plugin.checking.judge import IsolatedJudge
        from promptrl_plugin.strategies.runner import solve_tasks

        chosen = self._options
        with ExitStack() as stack:
            samples = solve_tasks(
                tasks,
                self._solver,
                self.backbone,
                open_checker(chosen.feedback, self._suite, stack),
                feedback=chosen.feedback,
                budget=chosen.budget,
                seed=chosen.seed,
                env=replace(chosen.env(), max_new_tokens=self._greedy().max_new_tokens),
            )
            judge = IsolatedJudge(JudgeConfig())
            stack.callback(judge.close)
            hidden = self._suite.hidden()
            submitted = [(t, hidden[t.id], s.solution) for t, s in zip(tasks, samples, strict=True)]
            for task, sample, verdicts in zip(tasks, samples, judge_hidden(judge, submitted), strict=True):
                figures = scores(verdicts, task.dialect)
                self._graded[sample.task_id] = figures | {"generations": float(sample.generations)}
        return samples

    def _prompt(self, doc: Mapping[str, Any]) -> Prompt:
        task = self._tasks[doc["task_id"]]
        return render(task, PromptState.initial(task))

    def _greedy(self) -> Decoding:
        given = (self.config.generation_kwargs or {}).get("max_gen_toks")
        return Decoding(0.0, 1.0, int(given or EnvConfig().max_new_tokens))


def _graded_by_class(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    raise NotImplementedError("StrategyTask.process_results is called instead")


@functools.lru_cache(maxsize=2)
def _suite(name: str) -> Suite:
    from promptrl_plugin.suites.registry import load_suite

    return load_suite(name)
