"""Run folders: what was run, on what, and how it went.

```
config.json       resolved configuration; written last, so a folder that has it is complete
environment.json  versions of Python and of the packages that matter
metrics.jsonl     one object a line, appended as the run goes on
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import promptrl_plugin
from promptrl_plugin.config import to_dict
from promptrl_plugin.errors import ConfigError, UserError
from promptrl_plugin.storage.jsonl import JsonlAppender, read_jsonl

__all__ = ["RunFolder", "changed_settings", "environment", "write_atomic", "write_json"]

_PACKAGES = (
    "datasets",
    "evalplus",
    "gepa",
    "gymnasium",
    "httpx",
    "lm-eval",
    "numpy",
    "safetensors",
    "sentence-transformers",
    "torch",
    "transformers",
)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a reader, or a second run after a kill, never sees a part.

    What a killed writer of the same file left behind is removed.

    Raises:
        UserError: The file cannot be written (no permission, disk full); an old one stays as it was.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as f:
            with contextlib.suppress(OSError):  # where the file system has no locks
                fcntl.flock(f, fcntl.LOCK_EX)  # the mark of a living writer
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
            os.replace(temporary, path)
        _remove_leftovers(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {e.strerror}; free some space or choose another place") from None


def _remove_leftovers(path: Path) -> None:
    for old in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}"):
        with contextlib.suppress(OSError), old.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink()


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    write_atomic(path, json.dumps(data, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions that a result depends on: promptrl, Python, system, cores and packages (None: not installed)."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "promptrl": promptrl_plugin.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
    }


class RunFolder:
    """The folder of one run; `create` a new one or `open` an old one.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: JsonlAppender | None = None

    @classmethod
    def create(cls, path: str | Path, config: Any) -> RunFolder:
        """Make a run folder and write what is to be run.

        Args:
            path: The folder; made on demand.
            config: Resolved configuration: a dataclass of `promptrl_plugin.config` or plain data.

        Raises:
            ConfigError: The folder already holds a run.
            UserError: The folder cannot be written.
        """
        run = cls(Path(path))
        if run.config_path.exists():
            raise ConfigError(f"{run.path} already holds a run; go on with it (--resume), or choose another folder")
        write_json(run.path / "environment.json", environment())
        write_json(run.config_path, _plain(config))
        return run

    @classmethod
    def open(cls, path: str | Path, config: Any = None) -> RunFolder:
        """Open the folder of an earlier run, to read it or to go on.

        Args:
            path: The folder.
            config: What is to go on, where that must be what was begun; None does not compare.

        Raises:
            ConfigError: There is no run in it, or one with another configuration.
        """
        run = cls(Path(path))
        if not run.config_path.is_file():
            raise ConfigError(f"{run.path} holds no run (no config.json); check the path")
        if config is not None and (changed := changed_settings(run.config(), _plain(config))):
            raise ConfigError(
                f"{run.path} was begun with other settings ({', '.join(changed)}); use those, or another folder"
            )
        return run

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with, as plain data.

        Raises:
            ConfigError: It cannot be read, or holds something else.
        """
        try:
            data = json.loads(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read {self.config_path}: {e}; start the run again elsewhere") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{self.config_path} holds no settings; start the run again elsewhere")
        return data

    def environment(self) -> dict[str, Any]:
        """What the run was begun on, as `environment` told then; nothing where that was not kept."""
        try:
            data = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one object to the metrics; a torn line of a killed run is cut off first."""
        if self._metrics is None:
            self._metrics = JsonlAppender(self.metrics_path)
        self._metrics.append(record)

    def metrics(self) -> list[dict[str, Any]]:
        """Every complete object of the metrics so far, in order; none at all for a run that has not logged."""
        return read_jsonl(self.metrics_path, allow_torn_tail=True) if self.metrics_path.exists() else []

    def close(self) -> None:
        """Close the metrics file; calling it twice is harmless."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def _plain(config: Any) -> Any:
    """`config` as JSON gives it back."""
    return json.loads(json.dumps(to_dict(config) if dataclasses.is_dataclass(config) else config))


def changed_settings(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in changed_settings(old.get(k), new.get(k), f"{where}.{k}" if where else str(k))]
    return [] if old == new else [where]
