from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import pytest

from promptrl_plugin.errors import CacheError
from promptrl_plugin.records import (
    Completion,
    Decoding,
    FailureKind,
    GenerationRequest,
    GroupVerdict,
    Message,
    Prompt,
    Status,
    content_hash,
)
from promptrl_plugin.storage.cache import Cache, completion_key, verdict_key

PROMPT = Prompt((Message("user", "add two"),), "```python\n", "def add", ("\n```",), ("\nassert",))
GREEDY = GenerationRequest(PROMPT, Decoding())
SAMPLED = GenerationRequest(PROMPT, Decoding(temperature=0.8, top_p=0.95), seed=1, index=2)


def completion(text: str = "x") -> Completion:
    return Completion(text, 3, 4, "stop")


def key(i: int) -> str:
    return content_hash(i)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "sub" / "cache.sqlite")


def test_completions_come_back_equal(cache: Cache) -> None:
    odd = Completion('é "\ud800" \x00\n', 0, 7, "length", plain=True)  # a lone surrogate, a NUL
    cache.put_completion(key(1), odd)
    cache.put_completions({key(2): completion("two")})
    assert cache.get_completions([key(1), key(2), key(3), key(1)]) == {key(1): odd, key(2): completion("two")}


def test_more_keys_than_one_select_takes(cache: Cache) -> None:
    items = {key(i): completion(str(i)) for i in range(1300)}
    cache.put_completions(items)
    assert cache.get_completions(items) == items
    assert cache.counts() == {"completions": 1300, "verdicts": 0, "outcomes": 0, "embeddings": 0}


def test_first_writer_wins(cache: Cache) -> None:
    cache.put_completion(key(1), completion("first"))
    cache.put_completion(key(1), completion("second"))
    assert cache.get_completions([key(1)])[key(1)].text == "first"


def test_verdicts_come_back_equal_and_errors_are_not_kept(cache: Cache) -> None:
    passed = GroupVerdict(Status.PASS, (True, True), 2)
    failed = GroupVerdict(Status.FAIL, (True, False), 5, FailureKind.WRONG_VALUE, "f(1) == 2, not 3")
    error = GroupVerdict(Status.ERROR, (), 5, None, "worker died")
    cache.put_verdicts({key(1): passed, key(2): failed, key(3): error})
    assert cache.get_verdicts([key(1), key(2), key(3)]) == {key(1): passed, key(2): failed}
    assert isinstance(cache.get_verdicts([key(2)])[key(2)].status, Status)


def test_embeddings_come_back_equal(cache: Cache) -> None:
    cache.put_embeddings({key(1): b"\x00\x01\xff"})
    assert cache.get_embeddings([key(1), key(2)]) == {key(1): b"\x00\x01\xff"}


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SAMPLED, seed=2),
        dataclasses.replace(SAMPLED, index=3),
        dataclasses.replace(SAMPLED, decoding=Decoding(0.7, 0.95)),
        dataclasses.replace(SAMPLED, decoding=Decoding(0.8, 0.9)),
        dataclasses.replace(SAMPLED, decoding=Decoding(0.8, 0.95, 10)),
        dataclasses.replace(SAMPLED, prompt=dataclasses.replace(PROMPT, prefix="")),
        dataclasses.replace(SAMPLED, prompt=dataclasses.replace(PROMPT, stop=())),
        dataclasses.replace(SAMPLED, prompt=dataclasses.replace(PROMPT, messages=(Message("system", "add two"),))),
        GREEDY,
    ],
)
def test_completion_key_changes_with_all_that_changes_the_completion(other: GenerationRequest) -> None:
    assert completion_key("m", True, other) != completion_key("m", True, SAMPLED)


def test_completion_key_ignores_what_has_no_effect() -> None:
    reference = completion_key("m", True, GREEDY)
    assert completion_key("m", True, dataclasses.replace(GREEDY, seed=9, index=9)) == reference
    assert completion_key("m", True, dataclasses.replace(GREEDY, decoding=Decoding(0.0, 0.5))) == reference
    other_plain = dataclasses.replace(GREEDY, prompt=dataclasses.replace(PROMPT, plain="else", plain_stop=()))
    assert completion_key("m", True, other_plain) == reference
    assert completion_key("m", False, other_plain) != completion_key("m", False, GREEDY)
    assert completion_key("n", True, GREEDY) != reference


def test_verdict_key_changes_with_each_part() -> None:
    parts = ("group", "program", "1", {"fail_fast": True})
    keys = {
        verdict_key(*parts),
        verdict_key("other", *parts[1:]),
        verdict_key("group", "other", *parts[2:]),
        verdict_key("group", "program", "2", parts[3]),
        verdict_key("group", "program", "1", {"fail_fast": False}),
    }
    assert len(keys) == 5


def _write(path: Path, start: int, barrier: threading.Barrier | multiprocessing.synchronize.Barrier) -> None:
    barrier.wait()
    with Cache(path) as cache:
        for i in range(start, start + 100):
            cache.put_completion(key(i), completion(str(i)))


def test_processes_create_and_write_one_new_file_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    path, barrier = tmp_path / "c.sqlite", context.Barrier(4)
    workers = [context.Process(target=_write, args=(path, i * 50, barrier)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert Cache(path).counts()["completions"] == 250


def test_threads_share_one_cache(cache: Cache) -> None:
    def write(start: int) -> None:
        for i in range(start, start + 50):
            cache.put_completion(key(i), completion(str(i)))
            assert cache.get_completions([key(i)])[key(i)].text == str(i)

    threads = [threading.Thread(target=write, args=(i * 50,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert cache.counts()["completions"] == 200


def test_a_forked_child_gets_a_connection_of_its_own(cache: Cache) -> None:
    cache.put_completion(key(1), completion())
    before = cache._connection
    process = multiprocessing.get_context("fork").Process(target=lambda: cache.put_completion(key(2), completion()))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert cache._connection is before
    assert cache.counts()["completions"] == 2


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from promptrl_plugin.records import Completion
        from promptrl_plugin.storage.cache import Cache
        cache = Cache(sys.argv[1])
        cache.put_completion("00" * 32, Completion("kept", 1, 1, "stop"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "c.sqlite"
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert Cache(path).get_completions(["00" * 32])["00" * 32].text == "kept"


def test_default_path_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "here"))
    assert Cache().path == tmp_path / "here" / "cache.sqlite"
    assert Cache().path.exists()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(CacheError, match=r"c\.sqlite is corrupted .*; delete it"):
        Cache(path)


def test_a_torn_value(cache: Cache) -> None:
    cache.put_completion(key(1), completion())
    with sqlite3.connect(cache.path) as db:
        db.execute("UPDATE completions SET value = ?", (b"torn",))
    with pytest.raises(CacheError, match="is corrupted"):
        cache.get_completions([key(1)])


def test_another_format(cache: Cache) -> None:
    cache.close()
    with sqlite3.connect(cache.path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(CacheError, match=r"format 99.*delete it"):
        cache.counts()


def test_full_disk_loses_nothing_stored_before(cache: Cache) -> None:
    cache.put_completion(key(0), completion())
    assert cache._connection is not None
    cache._connection.execute("PRAGMA max_page_count=1")  # SQLite's own way to run out of space
    with pytest.raises(CacheError, match=r"full.*free some space"):
        cache.put_embeddings({key(i): os.urandom(4096) for i in range(50)})
    cache.close()
    assert cache.counts() == {"completions": 1, "verdicts": 0, "outcomes": 0, "embeddings": 0}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="PROMPTRL_CACHE to a writable folder"):
        Cache(tmp_path / "file" / "cache.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="PROMPTRL_CACHE to a writable folder"):
        Cache(tmp_path / "cache.sqlite")


def test_a_file_from_before_there_were_outcomes_gets_their_table(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with Cache(path) as cache:
        cache.put_embeddings({key(1): b"kept"})
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE outcomes")
    with Cache(path) as cache:
        cache.put_outcomes({key(1): ("=1", "timeout")})
        cache.put_outcomes({key(1): ("another",)})
        assert cache.get_outcomes([key(1), key(2)]) == {key(1): ("=1", "timeout")}
        assert cache.get_embeddings([key(1)]) == {key(1): b"kept"}
