"""Runs `promptrl` in processes that are killed for good, with a scripted backbone that notes what it generates.

The backbone is a plugin of its own (entry-point group ``promptrl.backbones``), so the command line runs as
a user's does.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.context
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from promptrl_plugin.backbones.base import Backbone, OnProgress
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.records import Completion, GenerationRequest, content_hash
from promptrl_plugin.storage.cache import Cache, completion_key
from promptrl_plugin.suites.registry import load_suite

SECONDS = 240.0  #: that a run may take
#: Imported once, in the process that runs are forked from: what they would each spend seconds on.
PRELOADED = (
    "promptrl_plugin.cli.main",
    "promptrl_plugin.agent.parts",
    "promptrl_plugin.agent.train",
    "promptrl_plugin.backbones.embedding",
    "promptrl_plugin.evaluation.compare",
    "promptrl_plugin.evaluation.statistics",
    "promptrl_plugin.harnesses.crossfit",
    "promptrl_plugin.strategies.registry",
    "evalplus.sanitize",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "tensorboard.summary.writer.record_writer",
    "torch._dynamo",
)


# --- the plugin ----------------------------------------------------------------------------------


def backbone(name: str, *, dtype: str, base_url: str | None) -> Backbone:
    """Entry point of backend ``scripted``; also replaces the sentence embedder, which would be downloaded."""
    from promptrl_plugin.backbones import embedding

    embedding.Embedder = HashEmbedder  # type: ignore[assignment, misc]
    return NotingBackbone(name, Path(os.environ["GENERATED"]))


def install_plugin(folder: Path) -> None:
    """Make `folder` hold this plugin as an installed package."""
    info = folder / "killable-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: killable\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[promptrl.backbones]\nscripted = killable:backbone\n")
    shutil.copy(__file__, folder / "killable.py")


class HashEmbedder:
    """Sixteen numbers that depend on the text."""

    def __init__(self, name: str, cache: Cache | None = None) -> None:
        self.name = name

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        digests = [hashlib.sha256(t.encode()).digest()[:16] for t in texts]
        return np.array([[b / 255 for b in d] for d in digests], dtype=np.float32).reshape(len(texts), 16)


class NotingBackbone(ScriptedBackbone):
    """Right or wrong by the hash of what it is asked, one completion after another, each noted in a file."""

    def __init__(self, name: str, notes: Path) -> None:
        suite = load_suite("starter")
        hidden = suite.hidden()
        self._references = {t.entry_point: hidden[t.id].reference for t in suite.tasks()}
        super().__init__(self._answer, name=name)
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        completions = []
        for i, request in enumerate(requests):
            os.write(self._notes, completion_key(self.fingerprint, self.chat, request).encode() + b"\n")
            time.sleep(0.002)
            completions += super().generate([request])
            if on_progress is not None:
                on_progress(i, completions[i])
        return completions

    def _answer(self, request: GenerationRequest) -> str:
        names = [n for n in re.findall(r"(\w+)\(", self.render(request)) if n in self._references]
        if not names:
            return "It computes the result from its arguments."
        draw = (request.seed, request.index) if not request.decoding.greedy else ()
        right = int(content_hash("right", self.render(request), draw)[:4], 16) % 3 == 0
        wrong = f"def {names[-1]}(*args):\n    return {int(content_hash(draw)[:2], 16)}\n"
        return self._references[names[-1]] if right else wrong


# --- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where runs happen: their working folder, cache and notes are below it, and nothing else is shared."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.work, self.root / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        if not (self.root / "plugin").exists():
            install_plugin(self.root / "plugin")

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def output(self) -> str:
        """What the last run printed."""
        return (self.root / "output").read_text()

    def generated(self) -> list[str]:
        """Keys of the completions that were generated, in order, over all runs."""
        notes = self.root / "generated"
        return notes.read_text().split() if notes.exists() else []

    def stored(self) -> set[str]:
        """Keys of the completions in the cache."""
        if not (self.cache / "cache.sqlite").exists():
            return set()
        with Cache(self.cache / "cache.sqlite") as cache:
            return {key for key, _ in cache.entries("completions")}

    def environment(self) -> dict[str, str]:
        return {
            "PROMPTRL_CACHE": str(self.cache),
            "GENERATED": str(self.root / "generated"),
            "TMPDIR": str(self.root / "tmp"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run_fresh(self, *argv: str) -> int:
        """Run ``promptrl`` in an interpreter of its own, with hash seeds of its own; returns its exit code."""
        environment = {**os.environ, **self.environment()}
        paths = [str(self.root / "plugin"), *filter(None, sys.path)]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        with (self.root / "output").open("wb") as output:
            done = subprocess.run(
                [sys.executable, "-m", "promptrl_plugin.cli.main", *argv],
                cwd=self.work, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS, check=False,
            )  # fmt: skip
        return done.returncode

    def start(self, *argv: str, die_at: Sequence[Any] = ()) -> multiprocessing.context.ForkServerProcess:
        """Start ``promptrl`` in a fork of a process that has its imports; it leads a process group."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        process = context.Process(
            target=_child, args=(argv, str(self.root), str(self.work), self.environment(), tuple(die_at))
        )
        process.start()
        return process

    def run(self, *argv: str, die_at: Sequence[Any] = ()) -> int:
        """Run ``promptrl`` to its end; returns its exit code (negative: the signal that killed it)."""
        process = self.start(*argv, die_at=die_at)
        process.join(SECONDS)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    def run_and_kill(self, *argv: str, when: Callable[[Place], bool], delay: float) -> bool:
        """Kill the whole process group `delay` seconds after `when`; returns whether it was still running.

        Raises:
            AssertionError: A process that it had started is still there a while later.
        """
        process = self.start(*argv)
        while process.is_alive() and not when(self):
            time.sleep(0.002)
        time.sleep(delay)
        alive = process.is_alive()
        if alive:
            own = _kill(psutil.Process(process.pid))
            _, left = psutil.wait_procs(own, timeout=30)
            assert not left, f"still there: {left}"
        process.join()
        return alive


def _kill(leader: psutil.Process) -> list[psutil.Process]:
    """Kill a process group; returns the descendants of its leader, which lead groups of their own."""
    leader.suspend()  # so that it starts nothing after we have looked
    descendants = leader.children(recursive=True)
    if os.getpgid(leader.pid) == leader.pid:
        os.killpg(leader.pid, signal.SIGKILL)
    else:  # it has only just begun
        leader.kill()
    return descendants


def _child(argv: Sequence[str], root: str, work: str, environment: dict[str, str], die_at: tuple[Any, ...]) -> None:
    os.setsid()
    os.environ.update(environment)
    os.chdir(work)
    output = os.open(f"{root}/output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    sys.path.insert(0, f"{root}/plugin")
    sys.argv = ["promptrl", *argv]
    if die_at:
        _die_at(*die_at)
    from promptrl_plugin.cli.main import main

    main()


def _die_at(function: str, part: str, count: int = 1, after: bool = False) -> None:
    """Kill the own process group at a call of ``os.<function>`` whose first argument or target holds `part`.

    Args:
        function: ``"replace"``, ``"rename"`` or ``"write"``; a write to a file is cut in the middle.
        part: Of the target's path.
        count: The how manieth such call.
        after: Let the call happen first.
    """
    original, seen = getattr(os, function), 0

    def call(first: Any, second: Any) -> Any:
        nonlocal seen
        path = os.readlink(f"/proc/self/fd/{first}") if function == "write" else str(second)
        if part not in path:
            return original(first, second)
        seen += 1
        if seen == count:
            if after:
                original(first, second)
            elif function == "write":
                original(first, second[: len(second) // 2])
            os.killpg(0, signal.SIGKILL)
        return original(first, second)

    setattr(os, function, call)


def read_records(path: Path) -> dict[str, Any]:
    """Lines of a samples file by task; a task that has two is an error."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = {r["task_id"]: r for r in records}
    assert len(found) == len(records)
    return found
