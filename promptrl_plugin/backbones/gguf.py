"""GGUF files, converted once to a folder that transformers loads in a second."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from promptrl_plugin.config import cache_dir
from promptrl_plugin.errors import BackboneError

__all__ = ["convert", "sha256_of"]


def convert(path: Path) -> tuple[Path, str]:
    """Convert a ``.gguf`` file, or find the earlier conversion of the same content.

    Transformers dequantizes GGUF tensors on each load, which takes up to half a minute, and refuses to save
    what it loaded; here the weights are written as bfloat16 safetensors, without the quantization's mark.

    Args:
        path: An existing file.

    Returns:
        The folder in the cache, and the SHA-256 of the file.

    Raises:
        BackboneError: The file is not a model that transformers can read, or the cache cannot be written.
    """
    digest = sha256_of(path)
    target = cache_dir() / "models" / f"{path.stem}-{digest[:12]}"
    if (target / "config.json").is_file():
        return target, digest
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as e:
        raise BackboneError(f"cannot write to the cache {target.parent}: {e}; set PROMPTRL_CACHE") from e
    try:
        _write(path, scratch)
        scratch.chmod(0o755)
        os.replace(scratch, target)
    except OSError as e:
        if not (target / "config.json").is_file():  # else another process was faster: take its folder
            raise BackboneError(f"cannot convert {path}: {e}") from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target, digest


def _write(path: Path, folder: Path) -> None:
    """Load `path` and save configuration, tokenizer and bfloat16 weights to `folder`."""
    import torch
    from safetensors.torch import save_file

    model, tokenizer = _load(path)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _load(path: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    from promptrl_plugin.backbones.loading import quiet

    source, name = str(path.resolve().parent), path.name
    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=name)
    except Exception as e:  # the reader and each architecture's mapping raise errors of their own
        text = " ".join(str(e).split())
        raise BackboneError(
            f"transformers cannot read {path}: {text[:200]}; serve it with llama-server and use `--backend openai`"
        ) from e
    return model, tokenizer


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file; kept in ``<file>.sha256`` next to it where that can be written."""
    note = path.with_name(path.name + ".sha256")
    try:
        if note.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            digest = note.read_text().split()[0]
            if len(digest) == 64:
                return digest
    except (OSError, IndexError):
        pass
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    try:
        partial = note.with_name(f"{note.name}.{os.getpid()}")
        partial.write_text(f"{digest}  {path.name}\n")
        os.replace(partial, note)
    except OSError:
        pass  # a read-only folder: the hash is computed again next time
    return digest
