"""The leaderboard's page and EvalPlus's record; in headless Chromium where the machine has it."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from starter_board import IDS, entry_of

from promptrl_plugin.errors import EntryError
from promptrl_plugin.leaderboard.entry import entry_id, schema_problems
from promptrl_plugin.leaderboard.site import build_site, evalplus_record

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def variant(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Another entry; ``a__b`` changes b of a."""
    made = copy.deepcopy(entry)
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = made
        for key in path:
            inner = inner[key]
        inner[last] = value
    made["id"] = entry_id(made)
    assert schema_problems(made) == []
    return made


@pytest.fixture
def entries(first_board: Path) -> list[dict[str, Any]]:
    """Three rows on the starter suite, one of another model with hostile text, two of MBPP+."""
    mine = [entry_of(first_board, row) for row in IDS]
    hostile = variant(
        mine[1], model__name="<b>evil</b>&\"'", strategy="promptrl:<i>", budget=6, scores__plus__strict__mean=0.99,
        commands=["</pre><script>alert(1)</script>"], generations__per_task=2.5, model__prompted=False,
    )  # fmt: skip
    mbpp = {"name": "mbpp", "version": "v0.2.0", "tasks": 378}
    return [*mine, hostile, variant(mine[0], suite=mbpp), variant(mine[1], suite=mbpp)]


@pytest.fixture
def page(entries: list[dict[str, Any]], tmp_path: Path) -> Path:
    board = tmp_path / "board"
    (board / "entries").mkdir(parents=True)
    for i, entry in enumerate(entries):
        (board / "entries" / f"{i}.json").write_text(json.dumps(entry))
    made, count = build_site(board)
    assert count == len(entries)
    return made


def test_the_page_needs_no_network_and_shows_every_entry_with_intervals(page: Path, entries: list[dict[str, Any]]):
    read = Page(page.read_text())
    for tag, name, value in read.attributes:
        if name in ("src", "srcset", "data", "action", "xlink:href"):
            raise AssertionError(f"{tag} {name}={value}")
        if name == "href":  # https: pages of models, followed by a reader only
            assert value.startswith(("#", "../entries/", "../submissions/", "https://example.org/")), value
            assert tag == "a"
    text = page.read_text()
    assert "@import" not in text
    assert "url(" not in text
    assert "<script>alert" not in text
    assert "<b>evil" not in text
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {e["id"] for e in entries} <= set(ids)
    for e in entries:
        strict = e["scores"]["plus"]["strict"]
        assert f"{100 * strict['mean']:.1f} <small>{100 * strict['low']:.1f}–{100 * strict['high']:.1f}</small>" in text
        assert e["hashes"]["samples"] in text
    assert json.loads((page.parents[1] / "schema.json").read_text())["title"]


def test_a_board_without_entries_says_so(tmp_path: Path):
    (tmp_path / "entries").mkdir()
    made, count = build_site(tmp_path)
    assert count == 0
    assert "No entry yet" in made.read_text()
    assert json.loads((made.parent / "results.json").read_text()) == {}


def test_an_entry_that_does_not_fit_the_schema_is_named(tmp_path: Path, first_board: Path):
    (tmp_path / "entries").mkdir()
    entry = entry_of(first_board, "direct") | {"budget": 0}
    (tmp_path / "entries" / "x.json").write_text(json.dumps(entry))
    with pytest.raises(EntryError, match=r"x\.json: budget"):
        build_site(tmp_path)


def test_the_evalplus_record_has_direct_entries_by_model(first_board: Path):
    direct, best_of_k = entry_of(first_board, "direct"), entry_of(first_board, "best-of-k")
    mbpp = variant(direct, suite__name="mbpp", scores__base__strict__mean=0.5114, scores__plus__strict__mean=0.4153)
    humaneval = variant(direct, suite__name="humaneval", scores__base__strict__mean=0.7, scores__plus__strict__mean=0.6)
    other = variant(mbpp, model__name="other-7b", model__size=7.0, model__link="", model__prompted=False)
    ignored = variant(best_of_k, suite__name="mbpp")
    assert evalplus_record([mbpp, other, ignored, humaneval, direct]) == {
        "coder-0.5b-instruct": {
            "link": "https://example.org/coder",
            "open-data": "NONE",
            "pass@1": {"humaneval": 70.0, "humaneval+": 60.0, "mbpp": 51.1, "mbpp+": 41.5},
            "prompted": True,
            "size": 0.5,
        },
        "other-7b": {
            "link": "",
            "open-data": "NONE",
            "pass@1": {"humaneval": None, "humaneval+": None, "mbpp": 51.1, "mbpp+": 41.5},
            "prompted": False,
            "size": 7.0,
        },
    }
    both = evalplus_record([mbpp, variant(mbpp, model__dtype="bfloat16")])
    assert list(both) == ["coder-0.5b-instruct (hf, bfloat16)", "coder-0.5b-instruct (hf, int8)"]


# --- in a browser ----------------------------------------------------------------------------------------

DRIVER = """
<script>
const shown = () => [...document.querySelectorAll("#board tbody tr")].filter((r) => !r.hidden)
  .map((r) => [r.cells[0].textContent, r.dataset.model, r.dataset.strategy]);
const press = (key) => document.querySelector(`th[data-key=${key}] button`).click();
const choose = (name, value) => {
  const control = document.querySelector(`[name=${name}]`);
  control.value = value;
  control.dispatchEvent(new Event("input"));
};
const report = {};
try { STEPS } catch (e) { report.error = String(e); }
const out = document.createElement("pre");
out.id = "driven";
out.textContent = JSON.stringify(report);
document.body.append(out);
</script>
"""


def drive(page: Path, steps: str, fragment: str = "") -> dict[str, Any]:
    """Run `steps` on the page in headless Chromium; they write into ``report``."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", DRIVER.replace("STEPS", steps) + "</body>"))
    profile = page.with_name("profile")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               f"--user-data-dir={profile}", "--dump-dom", f"{driven.as_uri()}{fragment}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="driven">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "error" not in report, report
    return report


def test_sorting_filtering_and_opening_an_entry_in_a_browser(page: Path):
    opened = IDS["best-fixed"]
    report = drive(
        page,
        f"""
        report.start = shown();
        document.querySelector("input[name=suite][value=starter-test]").click();
        report.ranked = shown();
        press("generations"); report.cheapest = shown();
        press("generations"); report.dearest = shown();
        press("model"); report.byModel = shown().map((r) => r[1]);
        press("strict");
        choose("budget", "3"); report.budget = shown(); report.count = document.getElementById("count").textContent;
        choose("strategy", "best-fixed"); report.filtered = shown();
        choose("strategy", ""); choose("budget", ""); choose("text", "EVIL"); report.searched = shown();
        choose("text", "");
        document.querySelector('tr[data-id="{opened}"] a').click();
        const dialog = document.querySelector("dialog[open]");
        report.opened = dialog.id; report.said = dialog.textContent; report.hash = location.hash;
        dialog.querySelector("form button").click();
        report.closed = document.querySelector("dialog[open]") === null;
        """,
    )
    evil = "<b>evil</b>&\"'"
    assert [r[1:] for r in report["start"]] == [
        ["coder-0.5b-instruct", "best-of-k"],
        ["coder-0.5b-instruct", "direct"],
    ]
    assert report["ranked"] == [
        ["🥇 1", evil, "promptrl:<i>"],
        ["🥈 2", "coder-0.5b-instruct", "best-fixed"],
        ["🥉 3", "coder-0.5b-instruct", "best-of-k"],
        ["4", "coder-0.5b-instruct", "direct"],
    ]
    assert [r[2] for r in report["cheapest"]] == ["direct", "best-fixed", "best-of-k", "promptrl:<i>"]
    assert report["dearest"][0][:2] == ["1", evil]
    assert report["byModel"][0] == evil
    assert [r[2] for r in report["budget"]] == ["best-fixed", "best-of-k", "direct"], "direct is shown at every budget"
    assert report["count"] == "3 entries"
    assert [r[2] for r in report["filtered"]] == ["best-fixed"]
    assert [r[1] for r in report["searched"]] == [evil]
    assert report["opened"] == opened
    assert "trained on 50 tasks of starter-train" in report["said"]
    assert "promptrl compare --suite starter-test" in report["said"]
    assert f"entry={opened}" in report["hash"]
    assert report["closed"]


def test_a_link_to_a_view_shows_it_in_a_browser(page: Path):
    opened = IDS["direct"]
    report = drive(page, "report.open = document.querySelector('dialog[open]').id; report.rows = shown();",
                   f"#sort=strict&entry={opened}")  # fmt: skip
    assert report["open"] == opened
    assert report["rows"][0][2] == "direct"
    assert len(report["rows"]) == 4
