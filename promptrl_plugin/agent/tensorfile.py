"""Nested data with arrays in one safetensors file, written atomically. Never a pickle.

Arrays become tensors of the file; everything else is JSON in its header's metadata
(https://huggingface.co/docs/safetensors, *Format*), where an array leaves a reference
``{"__tensor__": name}``; before it stands a SHA-256 of JSON and arrays. So a file is complete or absent, damage
is noticed, equal trees give equal files, and reading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.storage.runs import write_atomic

__all__ = ["load_tree", "pack", "save_tree", "unpack"]

_REFERENCE = "__tensor__"
_KEY = "tree"  # the only one: safetensors writes several in any order
_DIGITS = 64

Arrays = dict[str, npt.NDArray[Any]]


def pack(tree: Any, path: str = "") -> tuple[Any, Arrays]:
    """Split nested dicts, lists and scalars with arrays in them into JSON-able data and named arrays.

    Tuples come back as lists and numpy scalars as Python's; arrays keep shape and dtype.

    Raises:
        TypeError: A value that is neither JSON-able nor a numeric array, or a key that is no string.
    """
    if isinstance(tree, np.ndarray):
        if tree.dtype.kind not in "biuf":
            raise TypeError(f"{path or 'the root'}: arrays of dtype {tree.dtype} cannot be saved")
        return {_REFERENCE: path}, {path: np.array(tree, order="C")}
    if isinstance(tree, np.generic):
        return tree.item(), {}
    if isinstance(tree, Mapping):
        return _pack_mapping(tree, path)
    if isinstance(tree, list | tuple):
        packed = [pack(value, f"{path}/{i}") for i, value in enumerate(tree)]
        return [data for data, _ in packed], {name: a for _, arrays in packed for name, a in arrays.items()}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree, {}
    raise TypeError(f"{path or 'the root'}: {type(tree).__name__} cannot be saved")


def _pack_mapping(tree: Mapping[Any, Any], path: str) -> tuple[dict[str, Any], Arrays]:
    data: dict[str, Any] = {}
    arrays: Arrays = {}
    for key, value in tree.items():
        if not isinstance(key, str) or key == _REFERENCE:
            raise TypeError(f"{path or 'the root'}: {key!r} cannot be a key")
        data[key], found = pack(value, f"{path}/{key}")
        arrays |= found
    return data, arrays


def unpack(data: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Inverse of `pack`.

    Raises:
        KeyError: The data refers to an array that is not there.
    """
    if isinstance(data, dict):
        if data.keys() == {_REFERENCE}:
            return arrays[data[_REFERENCE]]
        return {key: unpack(value, arrays) for key, value in data.items()}
    if isinstance(data, list):
        return [unpack(value, arrays) for value in data]
    return data


def save_tree(path: Path, tree: Any) -> None:
    """Write nested data (see `pack`) to one file, atomically: a kill leaves the old file or the new one."""
    from safetensors.numpy import save

    data, arrays = pack(tree)
    text = json.dumps(data)
    write_atomic(path, save(arrays, metadata={_KEY: _digest(text, arrays) + text}))


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote.

    Raises:
        ValueError: The file is damaged or not of this kind.
        OSError: The file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path.stat()  # an OSError of its own kind where the file is missing
    try:
        with safe_open(str(path), framework="numpy") as f:
            metadata = (f.metadata() or {})[_KEY]
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a mapping
        digest, text = metadata[:_DIGITS], metadata[_DIGITS:]
        if digest != _digest(text, arrays):
            raise ValueError("hash mismatch")
        return unpack(json.loads(text), arrays)
    except (SafetensorError, KeyError, ValueError) as e:
        raise ValueError(f"{path} is damaged or not a file of promptrl: {e}") from e


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
