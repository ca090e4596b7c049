"""Lets the tests of this folder import `prompt_samples`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from prompt_samples import apps_tasks, real_tasks, sample_tasks

from promptrl_plugin.records import Task


@pytest.fixture(scope="session")
def all_tasks() -> list[Task]:
    """Hand-written tasks and, where ../shared is at hand, every real one."""
    return [*sample_tasks(), *apps_tasks(), *real_tasks()]


@pytest.fixture(scope="session")
def benchmark_tasks() -> list[Task]:
    """Real tasks only."""
    tasks = real_tasks()
    if not tasks:
        pytest.skip("real benchmark data not found; set PROMPTRL_SHARED to the folder that holds data/")
    return tasks
