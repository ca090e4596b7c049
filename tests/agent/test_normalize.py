import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrl_plugin.agent.normalize import RunningNormalizer


def fed(data: np.ndarray, splits: list[int]) -> RunningNormalizer:
    normalizer = RunningNormalizer(data.shape[1], clip=5.0, min_std=0.1)
    for part in np.split(data, splits):
        normalizer.update(torch.as_tensor(part))
    return normalizer


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 40), max_size=4).map(sorted))
def test_moments_are_those_of_numpy_however_the_data_is_split(seed: int, splits: list[int]) -> None:
    data = np.random.default_rng(seed).normal(100.0, [0.5, 3.0, 20.0], size=(40, 3))
    normalizer = fed(data, splits)
    assert float(normalizer.count) == 40
    np.testing.assert_allclose(normalizer.mean.numpy(), data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.std.numpy(), data.std(axis=0), rtol=1e-9)


def test_standardises_and_clips() -> None:
    data = np.random.default_rng(0).normal(7.0, 2.0, size=(5000, 1)).astype(np.float32)
    normalizer = fed(data, [100, 2500])
    out = normalizer(torch.tensor([[7.0], [9.0], [1e6]]))
    assert out.dtype == torch.float32
    assert out[0, 0] == pytest.approx(0.0, abs=0.1)
    assert out[1, 0] == pytest.approx(1.0, abs=0.1)
    assert out[2, 0] == 5.0


def test_a_binary_feature_passes_unchanged_however_rare() -> None:
    data = np.zeros((1000, 2))
    data[3, 0] = 1.0
    normalizer = fed(data, [500])
    np.testing.assert_array_equal(normalizer(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).numpy(), [[1, 1], [0, 0]])


def test_a_feature_that_turns_out_not_to_be_binary_is_standardised() -> None:
    normalizer = fed(np.array([[0.0], [1.0], [0.0], [3.0]]), [2])
    assert not bool(normalizer.binary[0])
    assert normalizer(torch.tensor([[1.0]]))[0, 0] == pytest.approx(0.0)


def test_a_constant_feature_does_not_explode_at_its_first_other_value() -> None:
    normalizer = fed(np.full((50, 1), 0.2), [])
    assert normalizer(torch.tensor([[0.4]], dtype=torch.float64))[0, 0] == pytest.approx(2.0)  # 0.2 / min_std


def test_before_the_first_update_observations_are_only_clipped() -> None:
    out = RunningNormalizer(2, clip=5.0, min_std=0.1)(torch.tensor([[0.3, -9.0]]))
    np.testing.assert_allclose(out.numpy(), [[0.3, -5.0]])


def test_frozen_statistics_refuse_updates_and_stay() -> None:
    normalizer = fed(np.random.default_rng(1).normal(size=(20, 2)), []).freeze()
    before = {k: v.clone() for k, v in normalizer.state_dict().items()}
    with pytest.raises(RuntimeError, match="frozen"):
        normalizer.update(torch.ones(5, 2))
    normalizer(torch.ones(5, 2) * 100)
    assert all(torch.equal(before[k], v) for k, v in normalizer.state_dict().items())
