"""What the pages of docs/ say of the package, held against it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

from promptrl_plugin import config
from promptrl_plugin.cli.main import app
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.errors import UnknownNameError
from promptrl_plugin.evaluation import statistics
from promptrl_plugin.harnesses.evalplus import _REFUSED as EVALPLUS_REFUSED
from promptrl_plugin.harnesses.options import STRATEGY_FLAGS
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.strategies.registry import STRATEGIES
from promptrl_plugin.suites import fingerprints
from promptrl_plugin.suites.registry import SUITES

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_index_names_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", page("index")))
    assert listed == {p.name for p in PAGES} - {"index.md"}


def messages() -> Iterator[str]:
    """Every string of the package, with … for what is filled in."""
    for path in (TOP / "promptrl_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)


def test_every_symptom_is_a_message_of_the_package() -> None:
    """Backquoted symptoms are quotations, … standing for anything; commands and a harness's errors aside."""
    known = [*messages(), str(UnknownNameError("model", "m", ["n"]))]
    rows = re.findall(r"^\| (?!what you see|---)(.+?) \|", page("troubleshooting"), re.MULTILINE)
    quoted = [q for row in rows for q in re.findall(r"`([^`]+)`", row)]
    aside = {"TypeError", "strategy", "evalplus.evaluate", "lm_eval", "--backend hf", "best-of-k", "random-hybrid"}
    checked = [q for q in quoted if q not in aside and not q.startswith("promptrl ")]
    assert len(checked) > 50
    patterns = {q: re.compile(".*".join(map(re.escape, q.split("…"))), re.DOTALL) for q in checked}
    assert [q for q, pattern in patterns.items() if not any(map(pattern.search, known))] == []


def options(command: Any) -> set[str]:
    """Every long option of a command and its subcommands."""
    own = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")}
    return own.union(*map(options, getattr(command, "commands", {}).values()))


def test_every_flag_exists() -> None:
    harness = {f"--{name}" for name in (*STRATEGY_FLAGS, *EVALPLUS_REFUSED, "id_range", "samples", "dataset")}
    harness |= {"--confirm_run_unsafe_code", "--metadata", "--include_path"}  # of lm_eval
    known = options(typer.main.get_command(app)) | harness | {"--target", "--head"}  # pip's, Ray's
    for name in ("how-it-works", "protocols", "extending", "troubleshooting"):
        given = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", page(name)))
        assert given
        assert given <= known, name


def test_how_it_works_counts_actions_features_and_defaults_rightly() -> None:
    text = page("how-it-works")
    table, c = ActionTable.default(), config.TrainConfig()
    layout = ObservationLayout.of(table, c.env.embedding_dim, agreement=True)
    blocks = Counter(n.partition(".")[0] for n in layout.names)
    assert f"The default table has {table.n}:" in text
    size = layout.size - blocks["agreement"]
    assert f"{c.env.embedding_dim} embedding components it has {size} features" in text
    for block in ("task", "prompt", "code", "exec", "agreement", "embedding"):
        assert f"| `{block}` | {blocks[block]}" in text
    assert f"| `history` | {blocks['history'] - 2 * table.n} + 2 × actions" in text
    for name in table.names:
        stem = re.sub("(light|strong)$", "", name)
        assert f"`{stem}`" in text, name
    r = c.reward
    assert r.w_compiles == r.w_entry_point
    assert f"`w_fraction` {r.w_fraction:g}" in text
    assert f"`w_entry_point` {r.w_entry_point:g}, b {r.success_bonus:g}, c {r.generation_cost:g}" in text
    assert f"γ {c.ppo.gamma:g}." in text
    assert f"a hot sample (temperature {c.env.hot_temperature:g})" in text
    assert "–".join(map(str, c.ppo.hidden_sizes)) in text
    for name in STRATEGIES:
        assert f"| `{name}` |" in text


def test_protocols_tells_suites_thresholds_and_statistics_rightly() -> None:
    text = page("protocols")
    for name in SUITES:
        assert f"`{name}`" in text
    assert f"`--budget` ({config.DEFAULT_BUDGET})" in text
    assert f"`validation_fraction` ({config.TrainConfig().validation_fraction})" in text
    assert f"at least {fingerprints.WORD_OVERLAP} (Jaccard)" in text
    assert f"at least {fingerprints.EXAMPLE_WORD_OVERLAP}\n" in text
    assert f"{statistics.CONFIDENCE:.0%}".replace("%", " %") in text
    assert f"{statistics.RESAMPLES:,} resamples" in text


def test_the_figure_stands_alone_and_knows_dark_mode() -> None:
    source = (DOCS / "episode.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(source).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in source
    assert set(re.findall(r"https?://[^\"\s]+", source)) == {"http://www.w3.org/2000/svg"}
    assert "(episode.svg)" in page("how-it-works")


def test_no_page_names_a_place_on_some_machine() -> None:
    for path in PAGES:
        assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8")), path.name


def test_the_sizing_table_is_what_the_script_prints() -> None:
    script = TOP / "benchmarks" / "sizing.py"
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=TOP).stdout
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 12
    assert "\n".join(table) in page("scaling")
