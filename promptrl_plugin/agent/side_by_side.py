"""Several training runs at once in one process: each in a thread, with one model, whose batches they share.

The model has the processors: a thread that computed keeps a pool of OpenMP threads as long as it lives, and where
those of all pools are more than the processors, libgomp sends them to sleep after every operation. So the model is
loaded by a thread that ends, and the runs compute with one thread each, which is plenty for what they learn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Self, TypeVar

import torch

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.registry import load_backbone
from promptrl_plugin.backbones.shared import SharedBackbone
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.errors import BackboneError

__all__ = ["SharedParts", "run_side_by_side"]

T = TypeVar("T")

_SERVED = frozenset({"openai", "ollama", "anthropic", "google", "bedrock"})
"""Backends whose server brings together what several clients send: each run has a client of its own."""


class SharedParts:
    """What runs have in common, made once for all that ask for it: models and judges.

    Usable as a context manager, which frees the models at its end.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, str, str, str | None], SharedBackbone] = {}
        self._judges: dict[JudgeConfig, IsolatedJudge] = {}

    def backbone(self, name: str, *, backend: str, dtype: str, base_url: str | None) -> Backbone:
        """As `load_backbone`, for one of the runs."""
        if backend in _SERVED:
            return load_backbone(name, backend=backend, dtype=dtype, base_url=base_url)
        options = (name, backend, dtype, base_url)
        if options not in self._models:
            load = partial(load_backbone, name, backend=backend, dtype=dtype, base_url=base_url)
            all_threads = partial(_compute_with, torch.get_num_threads())
            self._models[options] = SharedBackbone(_in_a_thread_that_ends(load), all_threads)
        return self._models[options].client()

    def judge(self, config: JudgeConfig) -> IsolatedJudge:
        """A judge, which answers one run after another; it may be closed by each, and starts again when needed."""
        if config not in self._judges:
            self._judges[config] = IsolatedJudge(config)
        return self._judges[config]

    def stop(self, error: BaseException) -> None:
        """Generate no more; the runs that wait for it get `error`."""
        for model in self._models.values():
            model.stop(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.close()


def _compute_with(threads: int) -> None:
    """Let this thread compute with as many OpenMP threads, whatever others are told."""
    torch.get_num_threads()  # else its first operation would bring the number that was set last in any thread
    torch.set_num_threads(threads)


def _in_a_thread_that_ends(make: Callable[[], T]) -> T:
    """What `make` returns, or raises."""
    made: Future[T] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as e:
            made.set_exception(e)

    thread = threading.Thread(target=run, name="loader", daemon=True)  # so that Ctrl-C does not wait for a download
    thread.start()
    result = made.result()
    thread.join()
    return result


def run_side_by_side(runs: Sequence[Callable[[], T]], shared: SharedParts) -> list[T]:
    """Run all at once and return what they return, in order; the first that fails stops the others.

    Raises:
        BaseException: What the first to fail raised, or what interrupted the waiting.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(len(runs), "run", _compute_with, (1,)) as pool:
        futures = [pool.submit(run) for run in runs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            shared.stop(BackboneError("stopped, since another run failed or was interrupted; go on with --resume"))
            raise
        finally:
            torch.set_num_threads(threads)  # of threads that begin later
        return [future.result() for future in futures]
