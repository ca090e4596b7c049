"""One SQLite file that remembers completions, verdicts, outcomes of generated inputs and sentence embeddings.

Greedy decoding makes (model, prompt) → completion → verdict a pure function, so a second training run
with the same seed need not generate anything. Every key holds all that changes the value (`completion_key`,
`verdict_key`), so entries never go stale and are never updated: the first writer wins.

The file is in WAL mode: several processes and threads may read and write it at once, and whatever a `put`
has returned from survives a kill of the process (``synchronous=NORMAL``; a power cut may lose the last
moments, never the file).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from promptrl_plugin import config
from promptrl_plugin.errors import CacheError
from promptrl_plugin.records import (
    Completion,
    FailureKind,
    GenerationRequest,
    GroupVerdict,
    Status,
    content_hash,
)

__all__ = ["SCHEMA_VERSION", "Cache", "completion_key", "verdict_key"]

SCHEMA_VERSION = 1
_JSON_TABLES = ("completions", "verdicts")
_TABLES = (*_JSON_TABLES, "outcomes", "embeddings")
_BUSY_SECONDS = 60.0
_CHUNK = 500  # keys in one SELECT; SQLite allows at least 999 parameters

T = TypeVar("T")


def completion_key(fingerprint: str, chat: bool, request: GenerationRequest) -> str:
    """Cache key of a generation: everything that can change what is written, and nothing else.

    Only the form of the prompt that the backbone reads counts (`chat`), `top_p`, `seed` and `index` only
    when sampling.

    Args:
        fingerprint: `Backbone.fingerprint`.
        chat: `Backbone.chat`.
        request: The generation asked for.
    """
    prompt, decoding = request.prompt, request.decoding
    form: tuple[Any, ...]
    if prompt.in_chat(chat):
        form = ("chat", [[m.role, m.content] for m in prompt.messages], prompt.prefix, prompt.stop)
    else:
        form = ("plain", prompt.plain, prompt.plain_stop)
    how: tuple[Any, ...] = (decoding.max_new_tokens,)
    if not decoding.greedy:
        how += (decoding.temperature, decoding.top_p, request.seed, request.index)
    return content_hash("completion", fingerprint, form, how)


def verdict_key(group_key: str, program: str, version: str, settings: Mapping[str, Any] | None = None) -> str:
    """Cache key of a verdict.

    Args:
        group_key: `AssertGroup.key`, `PairGroup.key` or `CallGroup.key`: the content of the tests.
        program: Source of the program.
        version: `Judge.version`.
        settings: Whatever else may change the verdict, as plain data (fail-fast, time and memory limits).
    """
    return content_hash("verdict", group_key, program, version, dict(settings or {}))


class Cache:
    """Completions, verdicts and embeddings by key, in one file; safe across threads, processes and forks.

    Args:
        path: The file, made on demand with its folder; None is ``config.cache_dir()/"cache.sqlite"``.

    Raises:
        CacheError: From every method: the file is corrupted, of another version, locked or not writable.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else config.cache_dir() / "cache.sqlite"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        with self._open():
            pass

    # --- completions -----------------------------------------------------------------------------

    def get_completions(self, keys: Iterable[str]) -> dict[str, Completion]:
        """The completions that are there, by key."""
        return self._decode("completions", keys, lambda data: Completion(**json.loads(data)))

    def put_completion(self, key: str, completion: Completion) -> None:
        """Store one completion; it is on file when this returns."""
        self.put_completions({key: completion})

    def put_completions(self, items: Mapping[str, Completion]) -> None:
        """Store many completions in one transaction."""
        self._put("completions", {k: _json(dataclasses.asdict(c)) for k, c in items.items()})

    # --- verdicts --------------------------------------------------------------------------------

    def get_verdicts(self, keys: Iterable[str]) -> dict[str, GroupVerdict]:
        """The verdicts that are there, by key."""
        return self._decode("verdicts", keys, _load_verdict)

    def put_verdicts(self, items: Mapping[str, GroupVerdict]) -> None:
        """Store many verdicts in one transaction.

        One with status ``ERROR`` is left out: the judge could not decide, and may be able to next time.
        """
        judged = {k: v for k, v in items.items() if v.status is not Status.ERROR}
        self._put("verdicts", {k: _dump_verdict(v) for k, v in judged.items()})

    # --- outcomes --------------------------------------------------------------------------------

    def get_outcomes(self, keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The outcomes on generated inputs that are there, by key."""
        return self._decode("outcomes", keys, lambda data: tuple(json.loads(data)))

    def put_outcomes(self, items: Mapping[str, tuple[str, ...]]) -> None:
        """Store the outcomes of many programs in one transaction."""
        self._put("outcomes", {k: _json(v) for k, v in items.items()})

    # --- embeddings ------------------------------------------------------------------------------

    def get_embeddings(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Raw bytes of the embeddings that are there, by key."""
        return self._get("embeddings", keys)

    def put_embeddings(self, items: Mapping[str, bytes]) -> None:
        """Store many embeddings (raw bytes of their arrays) in one transaction."""
        self._put("embeddings", items, compress=False)

    # --- whole tables, for archives --------------------------------------------------------------

    def entries(self, table: str) -> Iterator[tuple[str, Any]]:
        """Key and value, as plain JSON data, of every completion or verdict, in the order of the keys."""
        with self._open() as db:
            rows = db.execute(f"SELECT key, value FROM {_json_table(table)} ORDER BY key").fetchall()
        try:
            for key, value in rows:
                yield bytes(key).hex(), json.loads(zlib.decompress(value))
        except (zlib.error, ValueError) as e:
            raise self._corrupted(f"{type(e).__name__}: {e}") from None

    def put_entries(self, table: str, items: Mapping[str, Any]) -> None:
        """Store what `entries` gave, in one transaction."""
        self._put(_json_table(table), {k: _json(v) for k, v in items.items()})

    # --- the file --------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Number of entries by table."""
        with self._open() as db:
            return {t: int(db.execute(f"SELECT count(*) FROM {t}").fetchone()[0]) for t in _TABLES}

    def close(self) -> None:
        """Close the file; calling it twice is harmless, and the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _get(self, table: str, keys: Iterable[str]) -> dict[str, bytes]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, bytes] = {}
        with self._open() as db:
            for start in range(0, len(wanted), _CHUNK):
                chunk = [bytes.fromhex(k) for k in wanted[start : start + _CHUNK]]
                marks = ",".join("?" * len(chunk))
                for key, value in db.execute(f"SELECT key, value FROM {table} WHERE key IN ({marks})", chunk):
                    found[bytes(key).hex()] = value
        return found

    def _put(self, table: str, items: Mapping[str, bytes], *, compress: bool = True) -> None:
        if not items:
            return
        rows = [(bytes.fromhex(k), zlib.compress(v, 6) if compress else v) for k, v in items.items()]
        with self._open() as db, _transaction(db):
            db.executemany(f"INSERT OR IGNORE INTO {table} (key, value) VALUES (?, ?)", rows)

    def _decode(self, table: str, keys: Iterable[str], load: Callable[[bytes], T]) -> dict[str, T]:
        try:
            return {k: load(zlib.decompress(v)) for k, v in self._get(table, keys).items()}
        except (zlib.error, ValueError, TypeError, KeyError) as e:
            raise self._corrupted(f"{type(e).__name__}: {e}") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process, under the lock, with SQLite's errors made `CacheError`."""
        with self._lock:
            try:
                # A connection must not cross a fork: the child opens its own and leaves the parent's alone.
                if self._connection is None or self._pid != os.getpid():
                    self._connection, self._pid = self._connect(), os.getpid()
                yield self._connection
            except (sqlite3.Error, OSError) as e:
                raise self._explain(e) from None

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _set_wal(db)
            db.execute("PRAGMA synchronous=NORMAL")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version == 0 or (version == SCHEMA_VERSION and not _complete(db)):
                _create(db)
            elif version != SCHEMA_VERSION:
                raise CacheError(
                    f"cache {self.path} has format {version}, this promptrl reads {SCHEMA_VERSION}; "
                    "delete it, or set PROMPTRL_CACHE to another folder"
                )
        except BaseException:
            db.close()
            raise
        return db

    def _explain(self, error: sqlite3.Error | OSError) -> CacheError:
        text = str(error)
        if isinstance(error, OSError) or "unable to open" in text or "readonly" in text:
            return CacheError(f"cannot write the cache {self.path} ({text}); set PROMPTRL_CACHE to a writable folder")
        if "disk is full" in text or "disk I/O" in text:
            return CacheError(
                f"cannot write the cache {self.path} ({text}); free some space, or set PROMPTRL_CACHE to another disk"
            )
        if "locked" in text or "busy" in text:
            return CacheError(
                f"cache {self.path} stayed locked for {_BUSY_SECONDS:.0f} s; end the process that holds it, "
                "or set PROMPTRL_CACHE to another folder"
            )
        if isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
            return self._corrupted(text)
        return CacheError(f"cache {self.path} failed ({text}); delete it, only cached results are lost")

    def _corrupted(self, text: str) -> CacheError:
        return CacheError(f"cache {self.path} is corrupted ({text}); delete it, only cached results are lost")


def _json_table(name: str) -> str:
    if name not in _JSON_TABLES:
        raise ValueError(f"no such table: {name}")
    return name


def _set_wal(db: sqlite3.Connection) -> None:
    # Switching to WAL needs an exclusive lock, and SQLite does not wait for it in every case (the busy
    # handler is skipped where two connections switch at once), so wait here.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _complete(db: sqlite3.Connection) -> bool:
    """Whether every table is there: one may have been added since the file was made."""
    return set(_TABLES) <= {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}


def _create(db: sqlite3.Connection) -> None:
    with _transaction(db):
        for table in _TABLES:
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _json(value: Any) -> bytes:
    # A lone surrogate in generated text is legal here: JSON's \ud800 escape brings it back unchanged.
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _dump_verdict(verdict: GroupVerdict) -> bytes:
    passed = "".join("1" if p else "0" for p in verdict.passed)
    return _json([verdict.status, passed, verdict.total, verdict.failure, verdict.detail])


def _load_verdict(data: bytes) -> GroupVerdict:
    status, passed, total, failure, detail = json.loads(data)
    return GroupVerdict(
        status=Status(status),
        passed=tuple(p == "1" for p in passed),
        total=total,
        failure=FailureKind(failure) if failure is not None else None,
        detail=detail,
    )
