"""What a Ray cluster is told, what its jobs take, and what is refused; no cluster is needed."""

from __future__ import annotations

import sys

import pytest

from promptrl_plugin import __version__
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation.cluster import Cluster, _Failure, _guarded, _passed, _share


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


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'promptrl-plugin\[ray\]'"):
        Cluster("auto")


def test_this_machine_alone_is_no_cluster() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'promptrl-plugin[ray]'")
    with pytest.raises(ConfigError, match="leave out --ray"):
        Cluster("local")


def test_a_node_with_another_promptrl_does_no_job() -> None:
    assert _guarded(__version__, len, "abc") == 3
    refused = _guarded("0.0.1", len, "abc")
    assert isinstance(refused, _Failure)
    assert f"has promptrl {__version__}, this machine 0.0.1" in refused.message
