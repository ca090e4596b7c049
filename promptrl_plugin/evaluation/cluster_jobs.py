"""What a node of a Ray cluster does on its own: solve a cell of a comparison, or train, in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from promptrl_plugin.config import TrainConfig
from promptrl_plugin.harnesses.options import SolveOptions
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["Files", "read_files", "solve_cell", "train_run", "write_files"]

Files = dict[str, bytes]
"""Contents by path, relative to some folder."""


class _Quiet:
    """Nobody watches a job on another node."""

    def begin(self, label: str, done: int, total: int, samples: Path) -> None: ...
    def sample(self) -> None: ...
    def generation(self) -> None: ...
    def end(self) -> None: ...
    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...


def solve_cell(options: SolveOptions, begun: Files, policy: Files) -> tuple[str, str, Files]:
    """Solve a suite as `promptrl solve` does.

    Args:
        options: What is asked for; its folder and its policy's are replaced.
        begun: Samples files of an earlier, broken-off run.
        policy: The policy bundle, empty where there is none.

    Returns:
        The samples file's path, the model's fingerprint on that node, and all of its files, relative to
        ``options.root``.
    """
    from promptrl_plugin.harnesses.session import run

    models: list[str] = []
    with tempfile.TemporaryDirectory(prefix="promptrl-") as folder:
        root, bundle = Path(folder) / "out", Path(folder) / "policy"
        write_files(root, begun)
        strategy = options.strategy
        if policy:
            write_files(bundle, policy)
            strategy = replace(strategy, policy=bundle)
        asked = replace(options, root=root, strategy=strategy)
        path = run(asked, _Quiet(), lambda backbone: models.append(backbone.fingerprint))
        stem = path.name.removesuffix(".jsonl")
        return path.relative_to(root).as_posix(), models[0], read_files(root, f"{path.parent.name}/{stem}*")


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
