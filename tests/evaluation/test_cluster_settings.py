"""What a Ray cluster is told, and what its jobs take; no cluster is needed."""

from __future__ import annotations

import pytest

from promptrl_plugin.evaluation.cluster import _passed, _share


def test_no_secret_is_passed_on() -> None:
    environment = {
        "OPENAI_API_KEY": "k", "HF_TOKEN": "t", "PROMPTRL_CACHE": "/c", "HOME": "/h",
        "OPENAI_BASE_URL": "http://a/v1", "PROMPTRL_MBPP_PATH": "/m", "MBPP_OVERRIDE_PATH": "/o", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    assert set(_passed(environment)) == {
        "OPENAI_BASE_URL", "PROMPTRL_MBPP_PATH", "MBPP_OVERRIDE_PATH", "HF_HUB_OFFLINE"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "share"),
    [
        ([(4, 0), (2, 0)], {"num_cpus": 2}),
        ([(1, 0), (16, 2)], {"num_cpus": 8, "num_gpus": 1}),  # a head without GPUs
        ([(1, 4), (16, 2)], {"num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_a_job_takes_a_gpu_or_the_smallest_node(nodes: list[tuple[int, int]], share: dict[str, int]) -> None:
    assert _share(nodes) == share
