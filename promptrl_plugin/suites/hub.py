"""The hub that `datasets` reads from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["offline_unless_reachable"]

#: Seconds to wait for the hub's first answer.
_NETWORK_TIMEOUT = 10.0


@contextlib.contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Look for the hub once; without it, `datasets` would retry for half a minute before it takes its cache."""
    import datasets.config
    import httpx
    import huggingface_hub.constants

    try:
        httpx.head(huggingface_hub.constants.ENDPOINT, timeout=_NETWORK_TIMEOUT)
        offline = False
    except (httpx.HTTPError, httpx.InvalidURL):
        offline = True
    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = offline or module.HF_HUB_OFFLINE
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
