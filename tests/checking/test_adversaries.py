"""No program of `adversaries` passes, learns an answer, or leaves anything behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import evalplus
import psutil
import pytest
from adversaries import CHEATS, GROUP, MARK, SEARCHES

import promptrl_plugin
from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig, cache_dir
from promptrl_plugin.records import AssertGroup, GroupVerdict, Status

PACKAGE = Path(promptrl_plugin.__file__).parent
#: What must decide is the design, not the layers: the same programs without any of them.
LAYERS = {"all layers": (), "no layers": ("namespaces", "landlock", "seccomp")}
SLOW = ("right, but", "timeouts swallowed", "a stopped process", "an exception whose text never", "output without")
HONEST = ("right", "exit with success", "timeouts swallowed")  # return some right values, and may show them
VISIBLE = AssertGroup((f"assert double([1]) == [{MARK + '2'!r}]", f"assert double([0])[0] == {MARK + '0'!r}"))


@dataclass(frozen=True)
class Judged:
    """A judge, and what it said of every cheat on calls and on asserts."""

    judge: IsolatedJudge
    verdicts: dict[str, tuple[GroupVerdict | None, ...]]


@pytest.fixture(scope="module", params=LAYERS)
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    without = LAYERS[request.param]
    programs = {n: p for n, p in CHEATS.items() if not (without and n.startswith(SLOW))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ADV_SECRET", "hunter2")
        with IsolatedJudge(JudgeConfig(workers=2), without_layers=without) as judge:
            answers = judge.check([JudgeRequest(p, (GROUP, VISIBLE)) for p in programs.values()])
            yield Judged(judge, dict(zip(programs, answers, strict=True)))


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(judged: Judged, name: str) -> None:
    if name not in judged.verdicts:
        pytest.skip("slow: with all layers only")
    calls, asserts = judged.verdicts[name]
    for verdict in (calls,) if name.startswith(HONEST) else (calls, asserts):
        assert verdict is not None
        assert verdict.status in (Status.FAIL, Status.TIMEOUT), (verdict.status, verdict.detail)
        assert not all(verdict.passed) or len(verdict.passed) < verdict.total


def test_wrong_values_pass_no_test_at_all(judged: Judged) -> None:
    passed = {n: v[0].passed for n, v in judged.verdicts.items() if v[0] and not n.startswith(HONEST)}
    assert [n for n, outcomes in passed.items() if any(outcomes)] == []
    late = judged.verdicts.get("right, but long after the limit")
    assert late is None or (late[0] is not None and not any(late[0].passed))


def test_no_process_is_left(judged: Judged) -> None:
    ((verdict,),) = judged.judge.check([JudgeRequest("def double(x): return x", (GROUP,))])  # whoever was is over
    assert verdict is not None
    for worker in judged.judge._workers:
        # the zygote, and the process that put it into its namespaces
        assert len(psutil.Process(worker.process.pid).children(recursive=True)) == 2


@pytest.fixture(scope="module", params=LAYERS)
def patient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedJudge]:
    """A judge that lets programs search for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ADV_SECRET", "hunter2")
        config = JudgeConfig(workers=1, min_time_limit=40)
        with IsolatedJudge(config, without_layers=LAYERS[request.param]) as judge:
            yield judge


@pytest.mark.parametrize("name", SEARCHES)
def test_no_program_finds_what_it_should_not_know(patient: IsolatedJudge, name: str) -> None:
    active = {layer for layer, on, _ in patient.layers() if on}
    needs = {"files": {"Landlock"}, "other processes": {"Landlock"}}.get(name, set())
    if needs - active:
        pytest.skip(f"needs {needs}")
    roots = [str(p) for p in (cache_dir(), PACKAGE, Path(evalplus.__path__[0]), Path(__file__).parent)]
    _assert_finds_nothing(patient, f"ROOTS = {roots}\n{SEARCHES[name]}")


def test_namespaces_alone_hide_answers_and_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Landlock is missing, the caches, the starter suite and EvalPlus's data files are out of sight."""
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data" / "tasks.jsonl"
    data.parent.mkdir()
    data.write_text("answers")
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(data))
    config = JudgeConfig(workers=1, min_time_limit=40)
    with IsolatedJudge(config, without_layers=("landlock",)) as judge:
        if "mount namespace" not in {layer for layer, on, _ in judge.layers() if on}:
            pytest.skip("no mount namespace here")
        roots = [str(tmp_path / "cache"), str(data.parent), str(PACKAGE / "suites" / "data")]
        _assert_finds_nothing(judge, f"ROOTS = {roots}\n{SEARCHES['files']}")
        _assert_finds_nothing(judge, SEARCHES["own memory"])
        _assert_finds_nothing(judge, SEARCHES["other processes"])


def _assert_finds_nothing(judge: IsolatedJudge, program: str) -> None:
    ((verdict,),) = judge.check([JudgeRequest(program, (GROUP,))])
    assert verdict is not None
    assert verdict.status is Status.FAIL, verdict.detail
    assert verdict.detail.startswith("double([0, 1]) returned [], expected"), verdict.detail
