"""The plugins of docs/examples, installed as docs/extending.md declares them, each used to the end."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.registry import backend_names, load_backbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import EnvConfig, JudgeConfig
from promptrl_plugin.env.context import EpisodeContext, TaskContext
from promptrl_plugin.env.episode import Episode
from promptrl_plugin.env.scheduler import Job, Scheduler
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.harnesses import session
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.operators import find_operator
from promptrl_plugin.records import (
    Decoding,
    FailureKind,
    Feedback,
    GenerationRequest,
    GroupVerdict,
    Prompt,
    Status,
    Task,
)
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.strategies.registry import make_strategy, strategy_names
from promptrl_plugin.strategies.runner import solve_tasks
from promptrl_plugin.suites.registry import load_suite, load_train_suite, suite_names

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = ("suite", "backbone", "operator", "strategy")


def declared() -> dict[str, dict[str, str]]:
    """The entry points of extending.md's pyproject, by group."""
    block = re.search(r"^```toml\n(.*?)^```", (DOCS / "extending.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    groups: dict[str, dict[str, str]] = tomllib.loads(block[1])["project"]["entry-points"]
    return groups


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples as the installed package `my_plugin`."""
    site = tmp_path / "site"
    info = site / "my_plugin-1.dist-info"
    shutil.copytree(DOCS / "examples", site / "my_plugin")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in declared().items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    yield
    for name in [m for m in sys.modules if m.partition(".")[0] == "my_plugin"]:
        del sys.modules[name]


def passes(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
    """Passes programs that multiply."""
    failed = GroupVerdict(Status.FAIL, (False,), 1, FailureKind.WRONG_VALUE, "f(2) gave 2, not 24")
    return [GroupVerdict(Status.PASS, (True,), 1) if "x * 12" in p else failed for _, p in programs]


RIGHT, WRONG = "def feet_to_inches(x):\n    return x * 12\n", "def feet_to_inches(x):\n    return x\n"


def test_each_example_is_shown_whole_and_short() -> None:
    page = (DOCS / "extending.md").read_text()
    for name in EXAMPLES:
        source = (DOCS / "examples" / f"{name}.py").read_text()
        assert f"```python\n{source}```" in page, name
        assert len(source.splitlines()) < 40


def test_the_suite_is_found_by_name_may_train_and_its_references_are_right() -> None:
    assert "units" in suite_names()
    suite = load_train_suite("units")
    assert [t.id for t in suite.tasks()] == [f"Units/{i}" for i in range(4)]
    assert suite.hidden().keys() == {t.id for t in suite.tasks()}
    assert all(t.visible.count == 1 for t in suite.tasks())
    from promptrl_plugin.agent.parts import load_train_tasks

    judge = IsolatedJudge(JudgeConfig(workers=1))
    try:
        kept, dropped = load_train_tasks(suite, judge)
    finally:
        judge.close()
    assert (len(kept), dropped) == (4, ())


def test_the_backbone_writes_what_its_command_prints_and_tells_it_the_draw() -> None:
    assert "command" in backend_names()
    script = "import os, sys; print(sys.stdin.read().strip(), os.environ['SEED'], 'END', 'more')"
    backbone = load_backbone(f'{sys.executable} -c "{script}"', backend="command")
    assert isinstance(backbone, Backbone)
    seen: list[int] = []
    request = GenerationRequest(Prompt((), "", "def f():", plain_stop=(" END",)), Decoding(0.8), seed=3, index=1)
    (completion,) = backbone.generate([request], lambda i, _: seen.append(i))
    assert (completion.text, completion.plain, seen) == ("def f(): 3.1", True, [0])
    with pytest.raises(BackboneError, match="ended with code 7"):
        load_backbone(f'{sys.executable} -c "raise SystemExit(7)"', backend="command").generate([request])


def test_the_operator_is_an_action_of_an_episode() -> None:
    table = ActionTable.of(["generate", "no_imports", "stop"])
    env = EnvConfig(budget=4)
    context = EpisodeContext(table, env, Feedback.VISIBLE, True, True, seed=0)
    task = load_suite("units").tasks()[0]
    episode = Episode(TaskContext(task, (), (), (), np.zeros(0, dtype=np.float32)), context, env.budget)
    backbone = ScriptedBackbone({"import nothing.": RIGHT, "": WRONG})
    scheduler = Scheduler(backbone, passes)
    assert episode.mask().tolist() == [True, True, False]
    scheduler.run([Job(task, episode.step(0), 4)])
    assert (episode.solved, episode.mask().tolist()) == (False, [False, True, True])
    scheduler.run([Job(task, episode.step(1), 3)])
    sample = episode.sample()
    assert (sample.solution, sample.generations) == (RIGHT.strip(), 2)
    assert sample.actions == ("generate", "no_imports")
    assert sample.prompt.operators == ("no_imports",)
    assert find_operator("no_imports").kind == "semantic"


def test_the_strategy_raises_the_temperature_until_a_program_passes() -> None:
    assert "escalate" in strategy_names()
    backbone = ScriptedBackbone(lambda r: RIGHT if r.decoding.temperature >= 0.5 else WRONG)
    strategy = make_strategy("escalate", backbone=backbone)
    task = load_suite("units").tasks()[0]
    (sample,) = solve_tasks([task], strategy, backbone, passes, feedback=Feedback.VISIBLE, budget=5)
    assert [r.decoding.temperature for r in backbone.requests] == [0.0, 0.25, 0.5]
    assert (sample.solution, sample.generations, sample.visible_status) == (RIGHT.strip(), 3, Status.PASS)
    (unseen,) = solve_tasks([task], strategy, backbone, passes, feedback=Feedback.NONE, budget=5)
    assert unseen.generations == 1


class Silent:
    """A listener that shows nothing."""

    def begin(self, label: str, done: int, total: int, samples: Path) -> None: ...
    def sample(self) -> None: ...
    def generation(self) -> None: ...
    def end(self) -> None: ...


def test_promptrl_solve_takes_all_of_them_by_name(tmp_path: Path) -> None:
    """Suite, backend and strategy in one run, judged in isolation; the first draw is wrong, the second right."""
    (tmp_path / "model.py").write_text(
        "import os, re, sys\n"
        "prompt = sys.stdin.read()\n"
        "name = re.findall(r'assert (\\w+)', prompt)[-1]\n"
        "factor = {'feet_to_inches': 12, 'metres_to_millimetres': 1000, 'yards_to_feet': 3}.get(name, 0.5)\n"
        "greedy = float(os.environ['TEMPERATURE']) == 0\n"
        "print(f'def {name}(x):\\n    return int(x * {0 if greedy else factor} // 1)')\n"
    )
    chosen = StrategyOptions.parse({"strategy": "escalate", "budget": 2})
    model = BackboneOptions(f"{sys.executable} {tmp_path / 'model.py'}", backend="command")
    out = tmp_path / "units.jsonl"
    assert session.run(SolveOptions(chosen, model, suite="units", out=out), Silent()) == out
    samples, traces = read_jsonl(out), read_jsonl(tmp_path / "units.trace.jsonl")
    assert {s["task_id"] for s in samples} == {f"Units/{i}" for i in range(4)}
    assert {(t["visible_status"], t["generations"]) for t in traces} == {("pass", 2)}
