"""APPS from end to end on made-up tasks: solve, judge, train, lm_eval, each with a scripted model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptrl_plugin.agent import parts as parts_module
from promptrl_plugin.agent import setup as episode_setup
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.train import train
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.cli import main as cli
from promptrl_plugin.config import EnvConfig, JudgeConfig, PPOConfig, TrainConfig
from promptrl_plugin.errors import LeakageError
from promptrl_plugin.evaluation import compare
from promptrl_plugin.harnesses import session
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
from promptrl_plugin.records import GenerationRequest
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.suites.registry import load_suite

#: Operations of scripts (``print``) and of methods (``return``), with the words that describe them.
OPERATIONS = {
    "sum": ("a + b", "add the first number of a line to the second one, as at a till"),
    "difference": ("a - b", "take away the second amount of money from what the first customer has paid"),
    "product": ("a * b", "multiply length by width of a rectangular garden to find its area in metres"),
    "larger": ("max(a, b)", "choose whichever of two runners has covered more distance during training"),
    "smaller": ("min(a, b)", "report the cheaper price among two offers made by competing shops"),
    "power": ("a ** b", "raise a base to an exponent in order to count possible passwords"),
}


def row(number: int, name: str, *, method: bool, difficulty: str = "introductory") -> dict[str, Any]:
    """A task of the hub's form."""
    expression, words = OPERATIONS[name]
    pairs = [(2, 3), (5, 1), (4, 4)]
    results = [eval(expression, {"a": a, "b": b}) for a, b in pairs]
    tests: dict[str, Any]
    if method:
        question = f"Please {words}.\n\nExample 1:\nInput: a = 2, b = 3\nOutput: {results[0]}\n"
        tests = {"fn_name": name, "inputs": [list(p) for p in pairs], "outputs": [[r] for r in results]}
        starter = f"class Solution:\n    def {name}(self, a: int, b: int) -> int:\n        "
    else:
        example = f"-----Example-----\nInput\n2 3\n\nOutput\n{results[0]}\n"
        question = f"Please {words}.\n\n-----Input-----\n\nTwo integers $a$ and $b$ on one line.\n\n{example}"
        tests = {"inputs": [f"{a} {b}\n" for a, b in pairs], "outputs": [f"{r}\n" for r in results]}
        starter = ""
    return {
        "problem_id": number,
        "question": question,
        "starter_code": starter,
        "input_output": json.dumps(tests),
        "solutions": json.dumps([program(name, method)]),
        "difficulty": difficulty,
        "url": "",
    }


def program(name: str, method: bool) -> str:
    expression = OPERATIONS[name][0]
    if method:
        return f"class Solution:\n    def {name}(self, a: int, b: int) -> int:\n        return {expression}\n"
    return f"a, b = map(int, input().split())\nif __name__ == '__main__':\n    print({expression})\n"


@pytest.fixture(autouse=True)
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks to be evaluated and ten that train."""
    folder = tmp_path / "apps"
    folder.mkdir()
    names = list(OPERATIONS)
    test = [row(0, "sum", method=False), row(1, "larger", method=True, difficulty="competition")]
    others = [n for n in names if n not in ("sum", "larger")]
    rows = [row(2 * i + m, n, method=bool(m)) for i, n in enumerate(others) for m in (0, 1)]
    for name, tasks in (("test", test), ("train", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in tasks))
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(folder))
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def right(text: str) -> str:
    """The right program for the last task that a prompt shows."""
    words = " ".join(text.split())
    name = max(OPERATIONS, key=lambda n: words.rfind(OPERATIONS[n][1][-20:]))
    return program(name, words.rfind("Call-Based") > words.rfind("Standard Input"))


def answer(request: GenerationRequest) -> str:
    """In a code block; wrong when greedy."""
    shown = request.prompt.messages[-1].content
    return f"{'pass' if request.decoding.greedy else right(shown)}\n```\nThat is all."


class Silent:
    """A listener that hears nothing."""

    def begin(self, *args: Any) -> None: ...
    def sample(self) -> None: ...
    def generation(self) -> None: ...
    def end(self) -> None: ...
    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...


def solve(tmp_path: Path, suite: str = "apps", **strategy: Any) -> list[dict[str, Any]]:
    options = SolveOptions(StrategyOptions.parse(strategy), BackboneOptions("m"), root=tmp_path / "out", suite=suite)
    path = session.solve_suite(options, load_suite(suite), ScriptedBackbone(answer), Silent())
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["promptrl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_visible_examples_lead_to_the_right_program(tmp_path: Path) -> None:
    samples = solve(tmp_path, strategy="best-of-k", budget=3)
    assert samples == [
        {"task_id": "APPS/test/0", "solution": program("sum", False)},
        {"task_id": "APPS/test/1", "solution": program("larger", True)},
    ]
    assert [s["solution"] for s in solve(tmp_path, strategy="direct")] == ["pass"] * 2
    assert [s["task_id"] for s in solve(tmp_path, "apps-competition", strategy="direct")] == ["APPS/test/1"]


@pytest.mark.parametrize("strategy", ["random-hybrid", "epic", "reflexion"])
def test_every_strategy_keeps_to_the_budget(tmp_path: Path, strategy: str) -> None:
    assert len(solve(tmp_path, strategy=strategy, budget=4, selector="agreement")) == 2
    (trace,) = (tmp_path / "out").rglob("*.trace.jsonl")
    spent = [json.loads(line)["generations"] for line in trace.read_text().splitlines()]
    assert len(spent) == 2
    assert all(1 <= n <= 4 for n in spent)


def test_judge_gives_strict_accuracy_and_test_case_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always_four = "class Solution:\n    def larger(self, a, b): return 4"
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": "APPS/test/0", "completion": program("sum", False)},
        {"task_id": "APPS/test/1", "solution": always_four},
    ]
    samples.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert run(monkeypatch, "judge", "--suite", "apps", "--samples", str(samples), "--workers", "1") == 0
    table = capsys.readouterr().out
    assert re.search(r"apps\W+2\W+50\.0\W+50\.0\W+66\.7\W+66\.7", table)
    results = json.loads((tmp_path / "samples_eval_results.json").read_text())["eval"]
    assert results["APPS/test/0"][0]["base_status"] == "pass"
    assert results["APPS/test/1"][0]["base_status"] == "fail"


def test_a_comparison_judges_what_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "open_backbone", lambda o, cache: CachingBackbone(ScriptedBackbone(answer), cache))
    matrix = compare.Matrix("apps", BackboneOptions("scripted"), ("direct", "best-of-k"), (0,), 3, "visible")
    results = compare.run_matrix(matrix, tmp_path / "compared", Silent())
    solved = {name: [o.strict for o in outcomes] for name, outcomes in results.items()}
    assert solved == {"direct-s0": [False, False], "best-of-k-s0": [True, True]}


def test_suites_are_listed_with_what_they_lack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], apps: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("promptrl_plugin.suites.registry.suite_names", lambda: ("apps", "apps-interview"))
    assert run(monkeypatch, "suites") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 show no test in the statement; 0 more have no tests at all" in text
    assert "the APPS data has no interview task with tests" in text


def test_a_damaged_file_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], apps: Path
) -> None:
    (apps / "test.jsonl").write_text('{"question": "What?"')
    assert run(monkeypatch, "judge", "--suite", "apps", "--samples", "none.jsonl") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("promptrl:")]
    assert "test.jsonl, line 1 is not JSON" in line
    assert "point PROMPTRL_APPS_PATH at APPS" in line


def test_training_on_its_train_split_makes_a_policy_for_its_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = ScriptedBackbone(answer, name="scripted")
    monkeypatch.setattr(parts_module, "load_backbone", lambda name, cache=None, **_: CachingBackbone(backbone, cache))
    for module in (parts_module, episode_setup):
        monkeypatch.setattr(module, "load_embedder", lambda name, cache: embed)
    config = TrainConfig(
        suite="apps-train",
        example_suite="apps-train",
        backbone="scripted",
        validate_every=1,
        variants=1,
        env=EnvConfig(budget=2, embedding_dim=4),
        ppo=PPOConfig(total_steps=32, n_envs=4, n_steps=4, batch_size=8, n_epochs=1, replays=1),
        judge=JudgeConfig(workers=1),
    )
    parts = parts_module.build(config, Silent())
    try:
        path = train(parts, RunFolder.create(tmp_path / "run", config), Silent()).bundle
    finally:
        parts.close()
    bundle = PolicyBundle.load(path)
    assert bundle.train_suite == "apps-train"
    assert len(bundle.train_hashes) == 8
    assert len(bundle.example_ids) == 8
    solved = solve(tmp_path, strategy="promptrl", policy=str(path), budget=2, feedback="visible")
    assert [s["task_id"] for s in solved] == ["APPS/test/0", "APPS/test/1"]
    with pytest.raises(LeakageError, match="must not solve APPS/train/0"):
        solve(tmp_path, "apps-train", strategy="promptrl", policy=str(path), budget=2)


def test_the_commands_train_solve_and_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the examples that ship with the package, which are no APPS tasks, to be shown by operators."""
    backbone = ScriptedBackbone(answer, name="scripted")
    monkeypatch.setattr(parts_module, "load_backbone", lambda name, cache=None, **_: CachingBackbone(backbone, cache))
    monkeypatch.setattr(session, "open_backbone", lambda options, cache: CachingBackbone(backbone, cache))
    for module in (parts_module, episode_setup):
        monkeypatch.setattr(module, "load_embedder", lambda name, cache: embed)
    Path("small.toml").write_text(
        "variants = 1\n[env]\nembedding_dim = 4\n[judge]\nworkers = 1\n"
        "[ppo]\nn_envs = 4\nn_steps = 4\nbatch_size = 8\nn_epochs = 1\nreplays = 1\n"
    )
    train_ = ("train", "--suite", "apps-train", "--model", "scripted", "--config", "small.toml", "--steps", "32")
    assert run(monkeypatch, *train_, "--budget", "2", "--out", "run") == 0
    solve_ = ("solve", "--suite", "apps", "--model", "scripted", "--strategy", "promptrl", "--policy", "run/bundle")
    assert run(monkeypatch, *solve_, "--budget", "2", "--out", "samples.jsonl") == 0
    assert run(monkeypatch, "judge", "--suite", "apps", "--samples", "samples.jsonl", "--workers", "1") == 0
    capsys.readouterr()
    judged = json.loads(Path("samples_eval_results.json").read_text())["eval"]
    assert set(judged) == {"APPS/test/0", "APPS/test/1"}
    asked = [[m.content for m in r.prompt.messages if m.role == "user"] for r in backbone.requests]
    code = [[text for text in turns if text.startswith("Please provide")] for turns in asked]
    assert any(len(turns) > 1 for turns in code), "operators have shown examples"
    assert all("QUESTION:" in text for turns in code for text in turns)


def embed(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(t) % 7, len(t) % 5, t.count("e"), t.count("a"), 1.0] for t in texts], dtype=np.float32)


def test_lm_eval_has_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    import promptrl_plugin._bootstrap
    from promptrl_plugin.harnesses import lm_task

    promptrl_plugin._bootstrap.install()
    lm_task._suite.cache_clear()

    class RuleLM(LM):  # type: ignore[misc]
        pretrained = "rule"

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            assert all(r.args[0].startswith("\nQUESTION:\n") for r in requests)
            return [right(r.args[0]) if "till" in r.args[0] else "pass" for r in requests]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise NotImplementedError

    manager = TaskManager(include_defaults=False)
    results = simple_evaluate(model=RuleLM(), tasks=["apps_direct"], bootstrap_iters=0, task_manager=manager)
    table = {k.removesuffix(",none"): v for k, v in results["results"]["apps_direct"].items()}
    assert (table["strict_accuracy"], table["test_case_average"], table["generations"]) == (0.5, 0.5, 1.0)
    lm_task._suite.cache_clear()
