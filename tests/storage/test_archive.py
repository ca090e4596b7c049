"""Archives: what one cache knows, another knows after the import, and nothing half-imported."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from promptrl_plugin.errors import CacheError
from promptrl_plugin.records import Completion, FailureKind, GroupVerdict, Status
from promptrl_plugin.storage.archive import export_cache, import_cache
from promptrl_plugin.storage.cache import Cache

KEYS = [f"{i:064x}" for i in range(3)]
COMPLETIONS = {k: Completion(f"return \ud800 {i} é", 5, i, "stop") for i, k in enumerate(KEYS)}
VERDICT = GroupVerdict(Status.FAIL, (True, False), 3, FailureKind.WRONG_VALUE, "got 1")


@pytest.fixture
def full(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "full.sqlite")
    cache.put_completions(COMPLETIONS)
    cache.put_verdicts({KEYS[0]: VERDICT})
    return cache


def test_an_imported_archive_answers_as_the_cache_that_it_came_from(full: Cache, tmp_path: Path):
    archive = tmp_path / "a.xz"
    assert export_cache(full, archive) == {"completions": 3, "verdicts": 1}
    with Cache(tmp_path / "other.sqlite") as other:
        other.put_completion(KEYS[0], Completion("kept", 1, 1, "stop"))
        assert import_cache(other, archive) == {"completions": 2, "verdicts": 1}
        found = other.get_completions(KEYS)
        assert found == COMPLETIONS | {KEYS[0]: Completion("kept", 1, 1, "stop")}
        assert other.get_verdicts(KEYS) == {KEYS[0]: VERDICT}
        assert import_cache(other, archive) == {"completions": 0, "verdicts": 0}


def test_equal_caches_give_equal_files(full: Cache, tmp_path: Path):
    with Cache(tmp_path / "other.sqlite") as other:
        other.put_verdicts({KEYS[0]: VERDICT})
        for key in reversed(KEYS):
            other.put_completion(key, COMPLETIONS[key])
        for name, cache in (("a", full), ("b", other)):
            export_cache(cache, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_completions_can_be_exported_alone(full: Cache, tmp_path: Path):
    assert export_cache(full, tmp_path / "a", ("completions",)) == {"completions": 3}


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "bad key", "missing", "newer"])
def test_what_is_no_archive_is_refused_and_nothing_of_it_imported(full: Cache, tmp_path: Path, damage: str):
    archive = tmp_path / "a.xz"
    export_cache(full, archive)
    good = archive.read_bytes()
    lines = lzma.decompress(good).splitlines(keepends=True)
    bad = {
        "cut": good[: len(good) // 2],
        "text": b"hello",
        "foreign": lzma.compress(b'{"a": 1}\n'),
        "bad key": lzma.compress(b"".join(lines) + b'{"table": "completions", "key": "xyz", "value": {}}\n'),
        "missing": b"",
        "newer": lzma.compress(lines[0].replace(b'"version":1', b'"version":99') + b"".join(lines[1:])),
    }
    archive.write_bytes(bad[damage])
    if damage == "missing":
        archive.unlink()
    with Cache(tmp_path / "other.sqlite") as other:
        with pytest.raises(CacheError):
            import_cache(other, archive)
        assert other.counts() == {"completions": 0, "verdicts": 0, "outcomes": 0, "embeddings": 0}
