"""How pytest-xdist shares the tests among its workers (``make test``)."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a file's tests and their fixtures on one worker, those with real models, which need memory, on another."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        real = item.get_closest_marker("integration") is not None
        item.add_marker(pytest.mark.xdist_group("real models" if real else str(item.path)))
