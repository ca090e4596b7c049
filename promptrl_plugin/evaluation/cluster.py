"""A Ray cluster, for judging, whole training runs and whole cells of a comparison. Needs ``promptrl-plugin[ray]``.

What runs there is what runs here, in a folder of its own on the node, with the node's own cache; its files come
back as bytes. So results are those of a local run, and no file system is shared. A job whose worker or node dies is
started again elsewhere, from the files that it was sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from promptrl_plugin import __version__
from promptrl_plugin.errors import ConfigError, UserError

__all__ = ["Cluster"]

_RETRIES = 5  # of a job whose worker or node died
_REACH = 10.0  # seconds
_ENVIRONMENT = ("PROMPTRL_", "HF_", "MBPP_OVERRIDE_PATH", "HUMANEVAL_OVERRIDE_PATH", "OPENAI_", "OLLAMA_HOST")
_OWN = ("PROMPTRL_CACHE",)  # every node has its own
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # in a name: Ray writes what is passed on into its logs


class Cluster:
    """A connection to a Ray cluster, as a context manager.

    Args:
        address: Of its head, or ``"auto"`` for the one that this machine belongs to.

    Attributes:
        ray: The module, connected.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("--ray needs Ray; pip install 'promptrl-plugin[ray]'") from None
        self.ray = ray
        _reach(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        passed = _passed(os.environ)
        try:
            ray.init(address=address, runtime_env={"env_vars": passed}, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as e:
            reason = " ".join(str(e).split())[:200]
            raise ConfigError(f"no Ray cluster at {address} ({reason}); start one with `ray start --head`") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ray.shutdown()

    def nodes(self) -> list[tuple[str, int, int]]:
        """Id, CPUs and GPUs of every node that works."""
        alive = [n for n in self.ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
        if not alive:
            raise ConfigError("the Ray cluster has no node with a CPU; add one with `ray start --address …`")
        return [(n["NodeID"], int(n["Resources"]["CPU"]), int(n["Resources"].get("GPU", 0))) for n in alive]

    def run(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], done: Callable[[int, Any], None]
    ) -> None:
        """Run a function on every job, each on a node (or a GPU) of its own.

        Args:
            function: Of a module that nodes have, too; called with the job's arguments.
            jobs: Arguments of each.
            done: Called with position and result as each ends, in the order in which they end.

        Raises:
            UserError: One that a job ended with; the others are called off.
        """
        ray = self.ray
        share = _share([node[1:] for node in self.nodes()])
        remote = ray.remote(_guarded).options(max_retries=_RETRIES, scheduling_strategy="SPREAD", **share)
        running = {remote.remote(__version__, function, *job): i for i, job in enumerate(jobs)}
        try:
            while running:
                (ready, *_), _ = ray.wait(list(running), num_returns=1)
                result = ray.get(ready)
                if isinstance(result, _Failure):
                    raise UserError(result.message)
                done(running.pop(ready), result)
        except ray.exceptions.RayError as e:
            why = " ".join(str(e).split())[:300]
            raise UserError(f"a job on the Ray cluster failed for good ({why}); run the command again") from None
        finally:
            for left in running:
                ray.cancel(left, force=True)


def _passed(environment: Mapping[str, str]) -> dict[str, str]:
    """What nodes are told of this machine's environment; nothing secret, which nodes have of their own."""
    return {
        k: v
        for k, v in environment.items()
        if k.startswith(_ENVIRONMENT) and k not in _OWN and not any(s in k for s in _SECRET)
    }


def _share(nodes: Sequence[tuple[int, int]]) -> dict[str, int]:
    """What a job takes, given CPUs and GPUs of every node: a GPU where there are any, else the smallest node."""
    with_gpus = [(cpus, gpus) for cpus, gpus in nodes if gpus]
    if with_gpus:
        return {"num_cpus": max(1, min(cpus // gpus for cpus, gpus in with_gpus)), "num_gpus": 1}
    return {"num_cpus": min(cpus for cpus, _ in nodes)}


def _reach(address: str) -> None:
    """Find out at once that nobody listens, for which Ray takes minutes.

    Raises:
        ConfigError: Nobody does.
    """
    if address == "local":  # Ray would quietly start one, of this machine alone
        raise ConfigError("--ray local is this machine, which needs no cluster; leave out --ray")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, ValueError) as e:
        raise ConfigError(f"no Ray cluster at {address} ({e}); start one with `ray start --head`") from None


class _Failure:
    """An error that the user can mend, as it comes back from a node."""

    def __init__(self, message: str) -> None:
        self.message = message


def _guarded(wanted: str, function: Callable[..., Any], *arguments: Any) -> Any:
    if __version__ != wanted:
        return _Failure(
            f"node {socket.gethostname()} has promptrl {__version__}, this machine {wanted}; install one on all"
        )
    try:
        return function(*arguments)
    except UserError as e:
        return _Failure(str(e))
