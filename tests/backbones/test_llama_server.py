"""A real OpenAI-compatible server: llama.cpp's, from the package `xllamacpp`, on a small model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptrl_plugin.backbones.openai import OpenAIBackbone
from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Message, Prompt
from promptrl_plugin.suites.registry import load_suite

pytestmark = pytest.mark.integration

SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 4096, 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("listening at", server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def gguf() -> Path:
    from promptrl_plugin.backbones.models import pull

    pytest.importorskip("xllamacpp", reason="needs xllamacpp, llama.cpp's server")
    try:
        path = pull("smollm2-135m-instruct")
    except BackboneError as error:
        pytest.skip(f"needs smollm2-135m-instruct: {error}")
    if path.suffix != ".gguf":
        pytest.skip(f"{path} is the hub's release, which is no GGUF file")
    return path


@pytest.fixture
def servers(gguf: Path) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Two servers, with their addresses."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SERVE, str(gguf)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    try:
        yield [(process, _address(process)) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening at"):
            return line.split()[-1] + "/v1"
    raise AssertionError("the server ended without a word")


def sentences(n: int) -> list[GenerationRequest]:
    prompts = [Prompt((Message("user", f"Count on from {i}, for ever."),), "", "") for i in range(n)]
    return [GenerationRequest(p, Decoding(0.0, 1.0, 32)) for p in prompts]


def test_it_writes_a_program_for_a_task(servers: list[tuple[subprocess.Popen[str], str]]) -> None:
    task = load_suite("starter").tasks()[0]
    prompt = render(task, PromptState.initial(task))
    one_at_a_time = ServerConfig(concurrency=1)  # a batch of another size can tip a draw
    backbone = OpenAIBackbone("smollm2-135m-instruct", servers[0][1], server=one_at_a_time)
    try:
        assert backbone.open_turn, "llama-server goes on from the turn that EvalPlus opens"
        greedy, again, hot, same = backbone.generate(
            [GenerationRequest(prompt, Decoding(t, 0.95, 160), 0, i) for t, i in ((0, 0), (0, 0), (0.8, 1), (0.8, 1))]
        )
    finally:
        backbone.close()
    assert greedy.completion_tokens > 5
    assert greedy.prompt_tokens > 40
    assert greedy.text == again.text
    assert hot.text == same.text, "seed and index name the draw"
    _, program = to_program(task, prompt, greedy)
    assert f"def {task.entry_point}(" in program
    compile(program, "program", "exec")


def test_a_replica_that_is_killed_loses_nothing(servers: list[tuple[subprocess.Popen[str], str]]) -> None:
    (_, steady), (victim, mortal) = servers
    backbone = OpenAIBackbone(
        "smollm2-135m-instruct", f"{mortal},{steady}", server=ServerConfig(concurrency=2, timeout=60)
    )
    seen: Counter[int] = Counter()
    lock = threading.Lock()

    def progress(i: int, completion: Completion) -> None:
        with lock:
            seen[i] += 1
            if sum(seen.values()) == 4:
                os.kill(victim.pid, signal.SIGKILL)

    try:
        completions = backbone.generate(sentences(20), progress)
    finally:
        backbone.close()
    assert victim.wait(10) == -signal.SIGKILL
    assert seen == Counter(range(20))
    assert all(c.completion_tokens > 0 and c.text for c in completions)
