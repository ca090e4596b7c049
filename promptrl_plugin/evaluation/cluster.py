"""Work on a Ray cluster: judging, whole training runs, whole cells of a comparison. Needs ``promptrl-plugin[ray]``.

What runs there is what runs here, in a folder of its own on the node, with the node's own cache; its files come
back as bytes. So results are those of a local run, and no file system is shared. A job whose worker or node dies is
started again elsewhere, from the files that it was sent; a batch of programs whose judge dies goes to another one.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from promptrl_plugin import __version__
from promptrl_plugin.checking.base import JudgeRequest, ProbeRequest, TestGroup
from promptrl_plugin.config import JudgeConfig, TrainConfig, from_dict, to_dict
from promptrl_plugin.errors import ConfigError, JudgeError, UserError
from promptrl_plugin.harnesses.options import SolveOptions
from promptrl_plugin.records import GroupVerdict
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["Cluster", "ClusterJudge", "Files", "read_files", "solve_cell", "train_run", "write_files"]

Files = dict[str, bytes]
"""Contents by path, relative to some folder."""

_RETRIES = 5  # of a job whose worker or node died, and of a batch of programs whose judge did
_REACH = 10.0  # seconds
_BATCH = 32  # programs that a judge is sent at once
_ENVIRONMENT = ("PROMPTRL_", "HF_", "MBPP_OVERRIDE_PATH", "HUMANEVAL_OVERRIDE_PATH", "OPENAI_", "OLLAMA_HOST")
_OWN = ("PROMPTRL_CACHE",)  # every node has its own
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # in a name: Ray writes what is passed on into its logs


class Cluster:
    """A connection to a Ray cluster, as a context manager.

    Args:
        address: Of its head, or ``"auto"`` for the one that this machine belongs to.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("--ray needs Ray; pip install 'promptrl-plugin[ray]'") from None
        self._ray = ray
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
        self._ray.shutdown()

    def nodes(self) -> list[tuple[str, int, int]]:
        """Id, CPUs and GPUs of every node that works."""
        alive = [n for n in self._ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
        if not alive:
            raise ConfigError("the Ray cluster has no node with a CPU; add one with `ray start --address …`")
        return [(n["NodeID"], int(n["Resources"]["CPU"]), int(n["Resources"].get("GPU", 0))) for n in alive]

    def run(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], done: Callable[[int, Any], None]
    ) -> None:
        """Run a function on every job, each on a node (or a GPU) of its own.

        Args:
            function: Of this module; called with the job's arguments.
            jobs: Arguments of each.
            done: Called with position and result as each ends, in the order in which they end.

        Raises:
            UserError: One that a job ended with; the others are called off.
        """
        ray = self._ray
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

    def judge(self, config: JudgeConfig) -> ClusterJudge:
        """A judge on every node."""
        return ClusterJudge(self, config)


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


class _NodeJudge:
    """The judge of one node; an actor."""

    def __init__(self, config: dict[str, Any], workers: int) -> None:
        from promptrl_plugin.checking.judge import IsolatedJudge

        settings: JudgeConfig = from_dict(JudgeConfig, config)
        self._judge = IsolatedJudge(replace(settings, workers=workers))
        self._groups = dict[str, TestGroup]()

    def version(self) -> str:
        return self._judge.version

    def check(self, requests: Sequence[JudgeRequest]) -> list[tuple[GroupVerdict | None, ...]]:
        # Every batch brings its groups again; the judge keeps those that it has seen.
        return self._judge.check(
            [replace(r, groups=tuple(self._groups.setdefault(g.key, g) for g in r.groups)) for r in requests]
        )

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        return self._judge.execute(requests)

    def close(self) -> None:
        self._judge.close()


class ClusterJudge:
    """`Judge` on all nodes of a cluster, with as many workers on each as it has CPUs.

    A judge that dies is replaced as long as its node lives; its batch of programs goes to whichever is idle.

    Raises:
        JudgeError: A node's judge is another version than this machine's, or none could be started; from every
            method: no node is left, or a batch ended the judges that had it.
    """

    def __init__(self, cluster: Cluster, config: JudgeConfig) -> None:
        from promptrl_plugin.checking.judge import judge_version

        self._cluster, self._ray, self._config = cluster, cluster._ray, to_dict(config)
        self.version = judge_version(config)
        started = [(node, self._start(node, cpus)) for node, cpus, _ in cluster.nodes()]
        self._actors = dict[Any, str]()  # each with its node
        for node, actor in started:
            with suppress(*self._deaths()):
                theirs = self._ray.get(actor.version.remote())
                if theirs != self.version:
                    raise JudgeError(
                        f"node {node[:8]} judges by {theirs}, this machine by {self.version}; install one promptrl, "
                        "EvalPlus, numpy and Python on all"
                    )
                self._actors[actor] = node
        if not self._actors:
            raise JudgeError("no node of the Ray cluster could start a judge; try `promptrl judge` on one of them")

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        """See `Judge.check`."""
        return self._spread("check", requests, on_progress)

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        """See `Judge.execute`."""
        return self._spread("execute", requests, None)

    def close(self) -> None:
        """End the judges on the nodes; calling it twice is harmless."""
        for actor in self._actors:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.close.remote(), timeout=10)
            self._ray.kill(actor)
        self._actors = {}

    def _start(self, node: str, cpus: int) -> Any:
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        judge = self._ray.remote(_NodeJudge).options(num_cpus=0, scheduling_strategy=strategy)
        return judge.remote(self._config, cpus)

    def _deaths(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.RayActorError, errors.NodeDiedError, errors.ActorUnschedulableError

    def _replacement(self, dead: Any) -> list[Any]:
        """Another judge on the node of one that died; none if the node is gone."""
        lost = self._actors.pop(dead)
        fresh = [self._start(node, cpus) for node, cpus, _ in self._cluster.nodes() if node == lost]
        self._actors |= dict.fromkeys(fresh, lost)
        return fresh

    def _spread(self, method: str, requests: Sequence[Any], on_progress: Callable[[int], None] | None) -> list[Any]:
        """Batches to whichever judge is idle; one whose judge died goes to another."""
        answers: list[Any] = [None] * len(requests)
        size = max(1, min(_BATCH, math.ceil(len(requests) / max(1, 4 * len(self._actors)))))
        owed, deaths = deque(range(0, len(requests), size)), Counter[int]()
        idle, running = list(self._actors), dict[Any, tuple[Any, int]]()
        while owed or running:
            while owed and idle:
                actor, start = idle.pop(), owed.popleft()
                running[getattr(actor, method).remote(list(requests[start : start + size]))] = actor, start
            if not running:
                raise JudgeError("every node of the Ray cluster that judged is gone; run the command again")
            (ready, *_), _ = self._ray.wait(list(running), num_returns=1)
            actor, start = running.pop(ready)
            try:
                judged = self._ray.get(ready)
            except self._deaths() as e:
                deaths[start] += 1
                if deaths[start] > _RETRIES:
                    why = " ".join(str(e).split())[:200]
                    raise JudgeError(
                        f"programs {start} to {min(start + size, len(requests)) - 1} ended {deaths[start]} judges "
                        f"({why}); judge them without --ray to see why"
                    ) from None
                idle += self._replacement(actor)
                owed.appendleft(start)
                continue
            idle.append(actor)
            answers[start : start + size] = judged
            if on_progress is not None:
                for i in range(start, start + len(judged)):
                    on_progress(i)
        return answers


# --- jobs ----------------------------------------------------------------------------------------------


class _Quiet:
    """Nobody watches a job on another node."""

    def begin(self, label: str, done: int, total: int, samples: Path) -> None: ...
    def sample(self) -> None: ...
    def generation(self) -> None: ...
    def end(self) -> None: ...
    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...


def solve_cell(options: SolveOptions, begun: Files, policy: Files) -> tuple[str, Files]:
    """Solve a suite as `promptrl solve` does.

    Args:
        options: What is asked for; its folder and its policy's are replaced.
        begun: Samples files of an earlier, broken-off run.
        policy: The policy bundle, empty where there is none.

    Returns:
        The samples file's path, and all of its files, relative to ``options.root``.
    """
    from promptrl_plugin.harnesses.session import run

    with tempfile.TemporaryDirectory(prefix="promptrl-") as folder:
        root, bundle = Path(folder) / "out", Path(folder) / "policy"
        write_files(root, begun)
        strategy = options.strategy
        if policy:
            write_files(bundle, policy)
            strategy = replace(strategy, policy=bundle)
        path = run(replace(options, root=root, strategy=strategy), _Quiet())
        stem = path.name.removesuffix(".jsonl")
        return path.relative_to(root).as_posix(), read_files(root, f"{path.parent.name}/{stem}*")


def train_run(config: TrainConfig, begun: Files, command: str) -> Files:
    """Train as `promptrl train` does.

    Args:
        config: What to train.
        begun: Run folder of an earlier, broken-off run, to go on with.
        command: What the bundle's manifest will say.

    Returns:
        The finished run folder.
    """
    from promptrl_plugin.agent.parts import build
    from promptrl_plugin.agent.train import train

    with tempfile.TemporaryDirectory(prefix="promptrl-") as place:
        folder = Path(place) / "run"
        write_files(folder, begun)
        resume = (folder / "config.json").exists()
        parts = build(config, _Quiet(), command=command)
        try:
            run = RunFolder.open(folder) if resume else RunFolder.create(folder, config)
            train(parts, run, _Quiet(), resume=resume)
            run.close()
        finally:
            parts.close()
        return read_files(folder)


def read_files(folder: Path, pattern: str = "**/*") -> Files:
    """Contents of the files in a folder that match; none where there is no folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.glob(pattern)) if p.is_file()}


def write_files(folder: Path, files: Mapping[str, bytes], last: Iterable[str] = ()) -> None:
    """Write files; `last` after all others, so that one of them being there means that all are."""
    late = set(last)
    for name in sorted(files, key=lambda n: n in late):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(files[name])
        part.replace(path)
