"""The leaderboard as a static site: one page that needs no network, and EvalPlus's record of the plain models.

```
site/index.html     the table: sortable, filterable, every entry with its hashes and commands
site/results.json   what EvalPlus's own leaderboard would list: greedy pass@1 of `direct` entries
schema.json         the entries' JSON Schema, as this promptrl has it
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import EntryError
from promptrl_plugin.evaluation.page import page_template, tracks
from promptrl_plugin.evaluation.statistics import Interval
from promptrl_plugin.evaluation.tables import percent
from promptrl_plugin.leaderboard.entry import SCHEMA, entry_paths, read_entry, schema_problems, schema_text
from promptrl_plugin.storage.runs import write_atomic, write_json

__all__ = ["build_site", "evalplus_record", "render_board"]

Entry = Mapping[str, Any]

_EVALPLUS = ("humaneval", "mbpp")  #: suites that EvalPlus's leaderboard lists
_FIRST = ("mbpp", "humaneval", "mbpp500")  #: suites that the page names first


def build_site(board: Path) -> tuple[Path, int]:
    """Write the site of the entries in a leaderboard's folder; returns its page and the number of entries.

    Entries must fit the schema; `promptrl leaderboard validate` is what verifies them.

    Raises:
        EntryError: An entry does not fit the schema.
    """
    entries = []
    for path in entry_paths(board):
        entry = read_entry(path)
        if problems := schema_problems(entry):
            raise EntryError(f"{path}: {problems[0]}; see `promptrl leaderboard validate {path}`")
        entries.append(entry)
    page = board / "site" / "index.html"
    write_atomic(page, render_board(entries))
    write_json(page.with_name("results.json"), evalplus_record(entries))
    write_atomic(board / SCHEMA, schema_text())
    return page, len(entries)


def render_board(entries: Sequence[Entry]) -> str:
    """The page as text."""
    suites = sorted(
        {e["suite"]["name"] for e in entries}, key=lambda s: (_FIRST.index(s) if s in _FIRST else len(_FIRST), s)
    )
    ranked = sorted(entries, key=lambda e: (suites.index(e["suite"]["name"]), -_strict(e).mean, e["id"]))
    return page_template("leaderboard.html", __package__ or "").render(
        entries=ranked,
        bars=_bars(ranked),
        suites=suites,
        filters={
            "model": _values(ranked, lambda e: e["model"]["name"]),
            "strategy": _values(ranked, lambda e: e["strategy"]),
            "budget": _values([e for e in ranked if e["strategy"] != "direct"], lambda e: e["budget"]),
            "feedback": _values([e for e in ranked if e["strategy"] != "direct"], lambda e: e["feedback"]),
        },
        percent=percent,
    )


def evalplus_record(entries: Sequence[Entry]) -> dict[str, Any]:
    """`direct` entries in the form of EvalPlus's ``results.json``, per cent by model.

    ``{name: {"link", "open-data", "pass@1": {"humaneval", "humaneval+", "mbpp", "mbpp+"}, "prompted", "size"}}``;
    a score that is not there is null. Its leaderboard ranks greedy decoding and has no field for a strategy, so
    other entries have no place in it. A model with entries of several dtypes has a record of each.
    """
    plain = [e for e in entries if e["strategy"] == "direct" and e["suite"]["name"] in _EVALPLUS]
    kinds: dict[str, set[tuple[str, str]]] = {}
    for e in plain:
        kinds.setdefault(e["model"]["name"], set()).add(_kind(e))
    record: dict[str, Any] = {}
    for e in sorted(plain, key=lambda e: (e["model"]["name"], _kind(e))):
        model, suite = e["model"], e["suite"]["name"]
        several = len(kinds[model["name"]]) > 1
        name = f"{model['name']} ({', '.join(_kind(e))})" if several else model["name"]
        row = record.setdefault(
            name,
            {
                "link": model["link"],
                "open-data": "NONE",
                "pass@1": {f"{s}{plus}": None for s in _EVALPLUS for plus in ("", "+")},
                "prompted": model["prompted"],
                "size": model["size"],
            },
        )
        for tests, plus in (("base", ""), ("plus", "+")):
            row["pass@1"][f"{suite}{plus}"] = round(100 * e["scores"][tests]["strict"]["mean"], 1)
    return record


def _kind(entry: Entry) -> tuple[str, str]:
    return str(entry["model"]["backend"]), str(entry["model"]["dtype"])


def _strict(entry: Entry) -> Interval:
    return Interval(**entry["scores"]["plus"]["strict"])


def _bars(entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """Interval of strict pass@1 as a bar, by entry; those of a suite share a scale."""
    bars: dict[str, dict[str, float]] = {}
    for suite in {e["suite"]["name"] for e in entries}:
        of_suite = [e for e in entries if e["suite"]["name"] == suite]
        bars |= zip((e["id"] for e in of_suite), tracks([_strict(e) for e in of_suite]), strict=True)
    return bars


def _values(entries: Sequence[Entry], of: Any) -> list[Any]:
    return sorted({of(e) for e in entries})
