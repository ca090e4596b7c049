from pathlib import Path

import numpy as np
import pytest

from promptrl_plugin.agent.tensorfile import load_tree, save_tree


def test_round_trip_keeps_values_shapes_and_dtypes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tree = {
        "rng": rng.bit_generator.state,  # 128-bit integers
        "none": None,
        "nested": [{"a": np.arange(6, dtype=np.int64).reshape(2, 3)}, (1.5, True, "ü/\n")],
        "scalar": np.float64(0.1),
        "arrays": {"0d": np.array(7.0, dtype=np.float32), "bool": np.array([True, False]), "view": np.eye(4)[::2, 1:]},
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    save_tree(tmp_path / "t.safetensors", tree)
    back = load_tree(tmp_path / "t.safetensors")
    assert back["rng"] == tree["rng"]
    assert back["none"] is None
    assert back["nested"][1] == [1.5, True, "ü/\n"]
    assert back["scalar"] == 0.1
    for got, want in [
        (back["nested"][0]["a"], tree["nested"][0]["a"]),
        (back["empty"], tree["empty"]),
        *((back["arrays"][k], v) for k, v in tree["arrays"].items()),
    ]:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert np.array_equal(got, want)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array(["text"]), {"__tensor__": "x"}, b"bytes"])
def test_what_cannot_be_saved_exactly_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="cannot be"):
        save_tree(tmp_path / "t", {"deep": [value]})
    assert not list(tmp_path.iterdir())


def test_a_torn_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tree(path, {"a": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_tree(path)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tree(path, {"a": 1})
    with pytest.raises(TypeError):
        save_tree(path, {"a": object()})
    assert load_tree(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
