"""Finding a model, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import logging as stdlib_logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import BackboneError

__all__ = [
    "DTYPES",
    "Source",
    "dtype_in",
    "load_model",
    "load_tokenizer",
    "locate",
    "pick_device",
    "pick_dtype",
    "quiet",
]

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")

_OFFLINE = re.compile("couldn't connect|cannot reach|offline mode", re.IGNORECASE)

_SAFE = {"trust_remote_code": False}
"""Said, and not left to the default, which asks on the terminal."""

_READ = 1 << 20
"""Bytes read from each end of a weights file for a folder's fingerprint."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is loaded from.

    Attributes:
        path: Local folder, or hub id.
        name: Short name for people and file names.
        identity: Hash of the weights or the hub's commit; 12 hex digits.
    """

    path: str
    name: str
    identity: str


def dtype_in(fingerprint: str) -> str:
    """The type at the end of the fingerprint of a model that ran in this process; ``""`` of any other."""
    kind = fingerprint.rpartition("/")[2]
    return kind if kind in DTYPES else ""


def locate(model: str | Path) -> Source:
    """Find a model by folder, ``.gguf`` file or hub id; a ``.gguf`` file is converted on first use.

    Raises:
        BackboneError: There is no such file or folder, or the hub does not have it or cannot be reached.
    """
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        from promptrl_plugin.backbones.gguf import convert

        if not path.is_file():
            raise BackboneError(f"no such file: {path}; see `promptrl models list` for models by name")
        folder, digest = convert(path)
        return Source(str(folder), path.stem, digest[:12])
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BackboneError(f"{path} is not a model folder: it has no config.json")
        return Source(str(path), path.resolve().name, _hash_folder(path))
    if str(model).startswith(("/", "./", "../", "~")):
        raise BackboneError(f"no such model folder: {path}; see `promptrl models list` for models by name")
    return Source(str(model), str(model), _commit(str(model)))


def _hash_folder(folder: Path) -> str:
    """Hash of configuration, tokenizer and weights; of a weights file its size and both ends are enough."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".jinja", ".model", ".txt"}:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        elif file.suffix in {".safetensors", ".bin"}:
            size = file.stat().st_size
            digest.update(json.dumps([file.name, size]).encode())
            with file.open("rb") as f:
                digest.update(f.read(_READ))
                f.seek(max(0, size - _READ))
                digest.update(f.read())
    return digest.hexdigest()[:12]


def _commit(hub_id: str) -> str:
    config = _or_explain(hub_id, lambda auto: auto.AutoConfig.from_pretrained(hub_id, **_SAFE))
    return str(getattr(config, "_commit_hash", None) or "unknown")[:12]


def _or_explain(model: str, load: Any) -> Any:
    """Call `load(transformers)`, turning what goes wrong with a user's model into one line."""
    import transformers

    try:
        with quiet():
            return load(transformers)
    except Exception as e:  # torn files, foreign configurations and the network each raise errors of their own
        text = " ".join(str(e).split())
        if "trust_remote_code" in text or "custom code" in text:
            raise BackboneError(
                f"model {model!r} needs code from its repository, which promptrl does not run; serve it with vLLM "
                "or another OpenAI-compatible server and use `--backend openai`"
            ) from e
        reason = "the Hugging Face hub cannot be reached" if _OFFLINE.search(text) else text[:200]
        raise BackboneError(
            f"cannot load model {model!r}: {reason}; give a folder, a .gguf file, a hub id that can be reached, "
            "or a name from `promptrl models list` (get it with `promptrl models pull`)"
        ) from e


def load_tokenizer(source: Source) -> Any:
    """The tokenizer of a model."""
    return _or_explain(source.name, lambda auto: auto.AutoTokenizer.from_pretrained(source.path, **_SAFE))


def load_model(source: Source, dtype: str, device: str) -> Any:
    """The model in evaluation mode; encoder-decoder models, too.

    Args:
        source: From `locate`.
        dtype: One of `DTYPES` but ``"auto"``.
        device: A torch device.
    """
    import torch

    from promptrl_plugin.backbones import int8, packed
    from promptrl_plugin.backbones.linears import replace_linears

    if dtype == "int8" and (device != "cpu" or not int8.supported()):
        raise BackboneError(f"int8 runs on CPUs whose torch has oneDNN, not on {device}; use --dtype bfloat16")
    kind = torch.float32 if dtype == "int8" else getattr(torch, dtype)

    def load(auto: Any) -> Any:
        config = auto.AutoConfig.from_pretrained(source.path, **_SAFE)
        cls = auto.AutoModelForSeq2SeqLM if config.is_encoder_decoder else auto.AutoModelForCausalLM
        return cls.from_pretrained(source.path, dtype=kind, **_SAFE)

    model = _or_explain(source.name, load).eval().requires_grad_(False)
    if dtype == "int8":
        replace_linears(model, int8.Int8Linear)
    elif device == "cpu" and packed.packs(kind):
        replace_linears(model, packed.pack)
    return model.to(device)


def pick_device(device: str) -> str:
    """``"auto"`` is the first CUDA device where there is one, else the CPU."""
    import torch

    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> str:
    """``"auto"`` is the fastest that does not change what a model writes beyond rounding.

    On CUDA bfloat16 (float16 before Ampere); on a CPU bfloat16 where it has instructions for it, else
    float32. int8 must be asked for.

    Raises:
        BackboneError: `dtype` is none of `DTYPES`.
    """
    import torch

    if dtype not in DTYPES:
        raise BackboneError(f"unknown dtype {dtype!r}; one of: {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if device == "cpu" and _cpu_has_bf16() else "float32"


def _cpu_has_bf16() -> bool:
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers and its hub client; settings come back at the end."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    levels, bars = (logging.get_verbosity(), hub.get_verbosity()), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity(stdlib_logging.ERROR)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(levels[0])
        hub.set_verbosity(levels[1])
        if bars:
            logging.enable_progress_bar()
