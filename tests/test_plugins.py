"""What other packages add: an operator that trains, a strategy with a policy, and what is broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from promptrl_plugin import plugins
from promptrl_plugin.backbones.registry import load_backbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.cli import main as cli
from promptrl_plugin.cli.compare import parse_policies
from promptrl_plugin.errors import BundleError, ConfigError, UnknownNameError
from promptrl_plugin.harnesses import session
from promptrl_plugin.harnesses.options import StrategyOptions
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.operators.semantic import ShowExamples
from promptrl_plugin.strategies.direct import Direct
from promptrl_plugin.suites.registry import load_suite

POINTS = [
    EntryPoint("no_examples", "test_plugins:no_examples", "promptrl.operators"),
    EntryPoint("theirs", "test_plugins:make_strategy", "promptrl.strategies"),
    EntryPoint("gone", "test_plugins:is_not_there", "promptrl.suites"),
    EntryPoint("gone", "test_plugins:is_not_there", "promptrl.backbones"),
    EntryPoint("gone", "test_plugins:is_not_there", "promptrl.strategies"),
    EntryPoint("raises", "test_plugins:raises", "promptrl.suites"),
]


def no_examples() -> ShowExamples:
    return ShowExamples("no_examples", lambda view: ((),))


def make_strategy(*arguments: object) -> Direct:
    return Direct()


def raises() -> None:
    raise ZeroDivisionError("no tasks")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in POINTS if p.group == group])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["promptrl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_an_operator_of_another_package_can_be_named_to_train() -> None:
    table = ActionTable.default(only=["generate", "no_examples"])
    assert "no_examples" in table.names
    assert ActionTable.of(table.names).digest == table.digest, "as a bundle is read"
    assert "no_examples" not in ActionTable.default().names
    with pytest.raises(UnknownNameError, match="did you mean 'no_examples'"):
        ActionTable.default(only=["generate", "no_example"])


def test_a_strategy_of_another_package_gets_a_policy(tmp_path: Path) -> None:
    assert StrategyOptions.parse({"strategy": "theirs", "policy": str(tmp_path)}).policy == tmp_path
    assert parse_policies([f"theirs={tmp_path}"]) == {"theirs": str(tmp_path)}
    with pytest.raises(ConfigError, match="'best-of-k' is not trained; leave out --policy"):
        StrategyOptions.parse({"strategy": "best-of-k", "policy": str(tmp_path)})


def test_samples_of_different_policies_of_a_plugin_strategy_are_kept_apart(tmp_path: Path) -> None:
    def hash_of(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rule.txt").write_text(text)
        options = StrategyOptions("theirs", policy=tmp_path / folder)
        session.check_request(options)
        return session.open_strategy(options, ScriptedBackbone({"": ""}))[1]

    one, other, copy = hash_of("a", "one"), hash_of("b", "other"), hash_of("c", "one")
    assert one == copy != other, "what is in it counts, not where it is"
    with pytest.raises(BundleError, match=r"no policy at .*absent; check the path"):
        session.check_request(StrategyOptions("theirs", policy=tmp_path / "absent"))


@pytest.mark.parametrize(("name", "reason"), [("gone", "AttributeError"), ("raises", "ZeroDivisionError")])
def test_a_broken_suite_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    assert run(monkeypatch, "solve", "--suite", name, "--strategy", "direct") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"suite {name!r} (test_plugins:" in message
    assert f"cannot be loaded: {reason}(" in message
    assert "mend or uninstall it" in message


def test_a_broken_backend_and_a_broken_strategy_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"backend 'gone' .*cannot be loaded"):
        load_backbone("m", backend="gone")
    monkeypatch.setenv("PROMPTRL_DEBUG", "1")
    with pytest.raises(AttributeError, match="is_not_there"):
        load_suite("gone")


def test_hidden_tests_are_no_feedback_of_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "oracle.toml").write_text('[env]\nfeedback = "oracle"\n')
    assert run(monkeypatch, "train", "--config", str(tmp_path / "oracle.toml"), "--out", str(tmp_path / "run")) == 2
    assert "use feedback visible or none" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
