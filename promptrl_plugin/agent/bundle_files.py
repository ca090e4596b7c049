"""The two files of a policy bundle: written as a whole, and read with every hash verified."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from promptrl_plugin.errors import BundleError
from promptrl_plugin.records import content_hash
from promptrl_plugin.storage.runs import write_atomic

__all__ = ["MANIFEST", "REMEDY", "SCHEMA_VERSION", "TENSORS", "read_files", "read_tensors", "sha256", "write_files"]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "policy.safetensors"
REMEDY = "fetch it again, or train one: promptrl train"


def write_files(path: Path, manifest: Mapping[str, Any], tensors: bytes) -> None:
    """Make the folder `path` of a bundle's two files; a bundle that is already there is replaced.

    Args:
        path: The folder.
        manifest: Plain data; hashes are added.
        tensors: Content of the safetensors file.

    Raises:
        BundleError: There is something else at `path`, or it cannot be written.
    """
    if path.exists() and not (path / MANIFEST).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise BundleError(f"{path} exists and is no policy bundle; choose another folder")
    body = {"schema": SCHEMA_VERSION, "tensors_sha256": sha256(tensors), "bundle": dict(manifest)}
    text = json.dumps({**body, "sha256": content_hash(body)}, indent=1, allow_nan=False) + "\n"
    try:
        _write_folder(path, {TENSORS: tensors, MANIFEST: text.encode()})
    except OSError as e:
        raise BundleError(f"cannot write policy bundle {path}: {e.strerror}; choose another folder") from None


def read_files(path: Path) -> tuple[Any, bytes]:
    """Manifest and tensors of the bundle at `path`, as `write_files` was given them.

    Raises:
        BundleError: It is missing, incomplete, changed, or written by a newer promptrl.
    """
    document = _read_manifest(path)
    try:
        content = (path / TENSORS).read_bytes()
    except OSError as e:
        raise BundleError(f"cannot read {path / TENSORS}: {e.strerror}; {REMEDY}") from None
    claimed = document.pop("sha256", None)
    if sha256(content) != document.get("tensors_sha256") or content_hash(document) != claimed:
        raise BundleError(f"policy bundle {path} is damaged or was changed (hash mismatch); {REMEDY}")
    return document.get("bundle"), content


def sha256(content: bytes) -> str:
    """SHA-256 of `content`, hex."""
    return hashlib.sha256(content).hexdigest()


def read_tensors(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name.

    Raises:
        ValueError: It is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, npt.NDArray[Any]] = load(content)
    except SafetensorError as e:
        raise ValueError(str(e)) from e
    return tensors


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError(f"there is no policy bundle at {path}; check the path, or train one: promptrl train")
    if not (path / MANIFEST).exists() and (path / "bundle" / MANIFEST).is_file():
        raise BundleError(f"{path} is the folder of a training run; give the policy bundle in it: {path / 'bundle'}")
    try:
        document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        schema = document["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{path / MANIFEST} is missing or damaged; {REMEDY}") from None
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise BundleError(
            f"policy bundle {path} has schema {schema}, newer than the {SCHEMA_VERSION} known here; "
            "upgrade: pip install -U promptrl-plugin"
        )
    return dict(document)


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder `path` of these files, or put it in the place of an old one, as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
    try:
        for name, content in files.items():
            write_atomic(fresh / name, content)
        fresh.chmod(0o755)  # mkdtemp makes 0700
        _replace_folder(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for kind in ("new", "old"):  # of this writing, or of one that was killed
        for rest in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
            shutil.rmtree(rest, ignore_errors=True)


def _replace_folder(fresh: Path, path: Path) -> None:
    """Move `fresh` to `path`; what was there is put back if that fails."""
    old = fresh.with_name(fresh.name.replace(".new-", ".old-"))
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(fresh, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
