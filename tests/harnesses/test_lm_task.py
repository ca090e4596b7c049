"""The lm-eval tasks, run by the harness in this process on a model that answers by a rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import harness_doubles as doubles
import pytest

import promptrl_plugin._bootstrap
from promptrl_plugin.errors import BundleError, ConfigError, DataError, LeakageError
from promptrl_plugin.harnesses.lm_eval import tasks_folder
from promptrl_plugin.records import GroupVerdict, Status


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    promptrl_plugin._bootstrap.install()


@pytest.fixture
def three_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptrl_plugin.harnesses import lm_task

    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(doubles.write_override(tmp_path / "mbpp.jsonl")))
    lm_task._suite.cache_clear()


def evaluate(lm: Any, task: str = "mbpp_plus_direct", include: Path | None = None, **kwargs: Any) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_defaults=False, include_path=include
    )  # to index the harness's own thousands takes half a minute
    results: dict[str, Any] = simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0, task_manager=manager, **kwargs)
    return results


def figures(results: dict[str, Any], task: str = "mbpp_plus_direct") -> dict[str, float]:
    return {k.removesuffix(",none"): v for k, v in results["results"][task].items() if k.endswith(",none")}


@pytest.mark.usefixtures("three_tasks")
def test_table_of_right_and_wrong_programs() -> None:
    first = doubles.rows(1)[0]["task_id"]
    lm = doubles.rule_lm(doubles.answers(lambda r: doubles.program(r) if r["task_id"] == first else doubles.wrong(r)))
    results = evaluate(lm, apply_chat_template=True, log_samples=True)
    table = figures(results)
    assert table["pass_at_1_base"] == table["pass_at_1_plus"] == pytest.approx(1 / 3)
    assert table["generations"] == 1.0
    assert 1 / 3 <= table["soft_pass_at_1_plus"] < 1.0
    samples = results["samples"]["mbpp_plus_direct"]
    assert [s["pass_at_1_plus"] for s in samples] == [1.0, 0.0, 0.0]
    assert samples[0]["filtered_resps"][0].startswith(("def ", "import ", "from "))


@pytest.mark.usefixtures("three_tasks")
def test_the_first_pass_is_the_direct_generation_and_is_not_made_twice() -> None:
    lm = doubles.rule_lm(doubles.answers(doubles.program))
    evaluate(lm, limit=2, apply_chat_template=True)
    (call,) = lm.calls
    assert len(call) == 2
    context, kwargs = call[0]
    assert context.startswith("<user>Please provide a self-contained Python script")
    assert context.endswith("```python\n")  # EvalPlus's open assistant turn
    assert kwargs["do_sample"] is False
    assert kwargs["until"][0] == "\n```\n"


@pytest.mark.usefixtures("three_tasks")
def test_without_a_chat_template_the_plain_prompt_is_completed() -> None:
    rows = doubles.rows(1)
    lm = doubles.rule_lm(lambda _context, _kwargs: rows[0]["canonical_solution"])
    assert figures(evaluate(lm, limit=1))["pass_at_1_plus"] == 1.0
    assert lm.calls[0][0][0] == rows[0]["prompt"].strip() + "\n"


@pytest.mark.usefixtures("three_tasks")
def test_a_strategy_of_several_steps_goes_on_with_the_harness_model(tmp_path: Path) -> None:
    """Greedy answers are wrong, draws are right: what passes the visible test is submitted."""
    right, wrong = doubles.answers(doubles.program), doubles.answers(doubles.wrong)
    lm = doubles.rule_lm(lambda c, k: (right if k["do_sample"] else wrong)(c, k))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "best.yaml").write_text(
        f"include: {tasks_folder() / 'mbpp_plus_direct.yaml'}\ntask: best\n"
        "metadata: {promptrl_suite: mbpp, promptrl_strategy: best-of-k, budget: 3}\n"
    )
    results = evaluate(lm, "best", tmp_path / "own", apply_chat_template=True, log_samples=True)
    table = figures(results, "best")
    assert table["pass_at_1_plus"] == 1.0
    assert 1.0 <= table["generations"] <= 3.0
    assert len(lm.calls) >= 2
    sample = results["samples"]["best"][0]
    assert sample["arguments"][0][1]["generations"] == sample["generations"]  # the log tells what was spent


@pytest.mark.usefixtures("three_tasks")
def test_system_instruction_opens_the_chat() -> None:
    lm = doubles.rule_lm(doubles.answers(doubles.program))
    evaluate(lm, limit=1, apply_chat_template=True, system_instruction="Be terse.")
    assert lm.calls[0][0][0].startswith("<system>Be terse.<user>")


@pytest.mark.usefixtures("three_tasks")
def test_predict_only_grades_nothing() -> None:
    lm = doubles.rule_lm(doubles.answers(doubles.program))
    results = evaluate(lm, limit=1, predict_only=True, apply_chat_template=True)
    assert "pass_at_1_plus,none" not in results["results"]["mbpp_plus_direct"]


@pytest.mark.usefixtures("three_tasks")
def test_an_option_that_cannot_work_ends_before_any_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = doubles.rule_lm(doubles.answers(doubles.program))
    with pytest.raises(ConfigError, match=r"""use --metadata '{"budget": 1}' or more"""):
        evaluate(lm, metadata={"budget": 0})
    with pytest.raises(ConfigError, match=r"""--metadata '{"seed": …}' \(or PROMPTRL_SEED\) must be a whole number"""):
        evaluate(lm, metadata={"seed": "x"})
    with pytest.raises(BundleError, match=r"promptrl train --model rule-lm.*--metadata"):
        evaluate(lm, "mbpp_plus_promptrl")
    monkeypatch.setenv("PROMPTRL_FEEDBACK", "everything")
    with pytest.raises(ConfigError, match=r"""{"feedback": "…"}' \(or PROMPTRL_FEEDBACK\) must .*everything"""):
        evaluate(lm)
    assert lm.calls == []


def test_a_suite_without_visible_tests_names_the_option_as_lm_eval_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptrl_plugin.harnesses import lm_task

    path = doubles.write_override(tmp_path / "mbpp.jsonl")
    path.write_text(re.sub(r"\\nassert [^\\]*", "", path.read_text()))
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(path))
    lm_task._suite.cache_clear()
    with pytest.raises(DataError, match=r"""use --metadata '{"feedback": "none"}', or data"""):
        evaluate(doubles.rule_lm(doubles.answers(doubles.program)), "mbpp_plus_promptrl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("use --split crossfit:5, or", "use `promptrl solve` with --split crossfit:5, or"),
        ("serve it and use `--backend openai`", "serve it and use `--model local-chat-completions`"),
        ("give it with --policy", 'give it with --metadata \'{"policy": "…"}\' (or PROMPTRL_POLICY)'),
        ("train it: promptrl train --model m", "train it: promptrl train --model m"),
    ],
)
def test_errors_name_what_the_user_of_lm_eval_can_type(text: str, words: str) -> None:
    from promptrl_plugin.harnesses.lm_eval import _in_lm_eval_words

    with pytest.raises(LeakageError) as caught, _in_lm_eval_words():
        raise LeakageError(text)
    assert str(caught.value) == words


def test_scores_count_base_tests_among_plus() -> None:
    from promptrl_plugin.harnesses.lm_task import scores

    base = GroupVerdict(Status.PASS, (True, True), 2)
    plus = GroupVerdict(Status.TIMEOUT, (True, True, False), 8)  # five never ran
    assert scores([base, plus]) == {
        "pass_at_1_base": 1.0,
        "pass_at_1_plus": 0.0,
        "soft_pass_at_1_base": 1.0,
        "soft_pass_at_1_plus": 0.4,
    }
    wrong_base = GroupVerdict(Status.FAIL, (False, True), 2)
    right_plus = GroupVerdict(Status.PASS, (True,) * 8, 8)
    assert scores([wrong_base, right_plus])["pass_at_1_plus"] == 0.0


def test_a_user_folder_wins_over_ours(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    own = tmp_path / "own.yaml"
    own.write_text("task: mbpp_plus_direct\ndataset_path: nowhere\noutput_type: generate_until\n")
    ours, theirs = TaskManager(include_defaults=False), TaskManager(include_defaults=False, include_path=str(tmp_path))
    paths = []
    for manager in (ours, theirs):
        entry = manager.task_index["mbpp_plus_direct"]
        paths.append(Path(entry["yaml_path"] if isinstance(entry, dict) else entry.yaml_path))
    assert paths[0].parent.name in ("tasks", "_tasks")
    assert paths[1] == own


@pytest.mark.usefixtures("three_tasks")
def test_every_trained_strategy_has_its_task_and_refuses_another_learners_policy() -> None:
    from promptrl_plugin.strategies.registry import shipped_policies

    of_ppo = str(shipped_policies()[0])
    lm = doubles.rule_lm(doubles.answers(doubles.program))
    with pytest.raises(BundleError, match=r"of learner ppo, for strategy promptrl, not best-fixed.*--metadata"):
        evaluate(lm, "mbpp_plus_best_fixed", metadata={"policy": of_ppo})


def test_an_alias_of_ours_stands_for_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptrl_plugin.backbones import models
    from promptrl_plugin.config import DEFAULT_BACKBONE
    from promptrl_plugin.harnesses.lm_eval import _located

    folder = tmp_path / "pulled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(models, "resolve", lambda name: folder)
    assert _located(f"pretrained={DEFAULT_BACKBONE},dtype=float32") == {
        "pretrained": str(folder),
        "dtype": "float32",
    }
    assert _located({"pretrained": "someone/a-model"}) == {"pretrained": "someone/a-model"}


@pytest.mark.parametrize("task", ["mbpp_plus_direct", "mbpp_plus_promptrl"])
@pytest.mark.usefixtures("three_tasks")
def test_a_misspelt_option_is_refused_and_keys_of_others_are_not(task: str) -> None:
    from promptrl_plugin.harnesses.lm_eval import _check_metadata

    lm = doubles.rule_lm(doubles.answers(doubles.program))
    for key, near in (("budgett", "budget"), ("polcy", "policy"), ("seeds", "seed"), ("feedbak", "feedback")):
        with pytest.raises(ConfigError, match=f"unknown option '{key}' in --metadata; did you mean '{near}'"):
            evaluate(lm, task, metadata={key: 6})
    for key, instead in (("strategy", "--tasks mbpp_plus_gepa"), ("split", "--split"), ("config", "--split")):
        with pytest.raises(ConfigError, match=f"'{key}' in --metadata has no effect: .*{instead}"):
            evaluate(lm, task, metadata={key: "best-of-k"})
    assert lm.calls == []
    _check_metadata({"metadata": {"split": "test"}, "tasks": [task, "arc_easy"]})
    model_args = {"pretrained": "m", "tokenizer": "t", "dtype": "float32", "seeds": 3}
    _check_metadata({"metadata": {**model_args, "budget": 6, "max_seq_lengths": [4096]}, "model_args": model_args})
