"""Carry completions and verdicts from one cache to another, in one compressed file.

What a backbone wrote takes hours to write again, and a cache stays on its machine. An archive goes into a
repository or to a colleague: whoever imports it repeats a run without generating anything, and may judge
the same programs anew (`what="completions"`).

Format: xz (`lzma`) of JSON Lines, sorted, so that equal caches give equal files. The first line is
``{"format": "promptrl-cache", "version": 1}``, every other one ``{"table": …, "key": …, "value": …}`` with
`storage.cache`'s keys and values.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import CacheError
from promptrl_plugin.storage.cache import SCHEMA_VERSION, Cache
from promptrl_plugin.storage.runs import write_atomic

__all__ = ["ARCHIVED_TABLES", "export_cache", "import_cache"]

ARCHIVED_TABLES = ("completions", "verdicts")  #: embeddings are made again in seconds
_FORMAT = {"format": "promptrl-cache", "version": SCHEMA_VERSION}
_CHUNK = 1000


def export_cache(cache: Cache, path: str | Path, tables: Iterable[str] = ARCHIVED_TABLES) -> dict[str, int]:
    """Write entries of `cache` to an archive, atomically.

    Returns:
        Number of entries by table.

    Raises:
        CacheError: The cache cannot be read.
        UserError: The archive cannot be written.
    """
    counts: dict[str, int] = {}
    compressor = lzma.LZMACompressor()
    data = bytearray(compressor.compress(_line(_FORMAT)))
    for table in tables:
        counts[table] = 0
        for key, value in cache.entries(table):
            data += compressor.compress(_line({"table": table, "key": key, "value": value}))
            counts[table] += 1
    data += compressor.flush()
    write_atomic(path, bytes(data))
    return counts


def import_cache(cache: Cache, path: str | Path) -> dict[str, int]:
    """Add the entries of an archive to `cache`; what it has already stays as it is.

    Returns:
        Number of entries that were new, by table.

    Raises:
        CacheError: The file is no archive, is damaged or of another version (nothing of it is imported),
            or the cache cannot be written.
    """
    records = list(_read(Path(path)))
    before = cache.counts()
    for table in ARCHIVED_TABLES:
        entries = iter([(r["key"], r["value"]) for r in records if r["table"] == table])
        while chunk := dict(islice(entries, _CHUNK)):
            cache.put_entries(table, chunk)
    after = cache.counts()
    return {table: after[table] - before[table] for table in ARCHIVED_TABLES}


def _read(path: Path) -> Iterator[dict[str, Any]]:
    wrong = CacheError(f"{path} is no archive of `promptrl cache export`, or is damaged; export it again")
    try:
        lines = lzma.decompress(path.read_bytes()).splitlines()
        records = [json.loads(line) for line in lines]
    except OSError as e:
        raise CacheError(f"cannot read {path}: {e.strerror}; check the path") from None
    except (lzma.LZMAError, ValueError):
        raise wrong from None
    if not records or not all(isinstance(r, dict) for r in records) or records[0].get("format") != _FORMAT["format"]:
        raise wrong
    if records[0].get("version") != SCHEMA_VERSION:
        raise CacheError(
            f"{path} has format {records[0].get('version')}, this promptrl reads {SCHEMA_VERSION}; "
            "import it with the promptrl that wrote it"
        )
    for record in records[1:]:
        if record.get("table") not in ARCHIVED_TABLES or not _is_key(record.get("key")) or "value" not in record:
            raise wrong
        yield record


def _is_key(key: object) -> bool:
    return isinstance(key, str) and len(key) % 2 == 0 and bool(key) and set(key) <= set("0123456789abcdef")


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
