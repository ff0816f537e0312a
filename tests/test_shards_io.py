"""Weights in small files: exact in fp16, never too large, and refused when altered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.errors import FileMissingError, WeightsDamagedError
from training.shards_io import INDEX, SHARD_BYTES, load_shards, save_shards


def some_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(3000, 2000).half().float(),
        "b.weight": torch.randn(2000, 2000).bfloat16() / 8,
        "count": torch.tensor(7),
    }


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors = some_tensors()
    files = save_shards(tmp_path, tensors, {"step": 3})
    assert [path.name for path in files] == ["weights-00.safetensors", "weights-01.safetensors", INDEX]
    assert all(path.stat().st_size <= SHARD_BYTES for path in files)
    loaded, meta = load_shards(tmp_path)
    assert meta == {"step": 3} and set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=1e-7)


def test_a_smaller_save_leaves_no_stale_shard(tmp_path: Path) -> None:
    save_shards(tmp_path, some_tensors(), {})
    save_shards(tmp_path, {"x": torch.ones(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights-00.safetensors", INDEX]


def test_an_altered_shard_is_refused(tmp_path: Path) -> None:
    path = save_shards(tmp_path, {"x": torch.ones(64)}, {})[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsDamagedError, match="weights-00"):
        load_shards(tmp_path)


def test_a_missing_shard_and_a_missing_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError):
        load_shards(tmp_path)
    save_shards(tmp_path, {"x": torch.ones(64)}, {})[0].unlink()
    with pytest.raises(WeightsDamagedError):
        load_shards(tmp_path)


@pytest.mark.parametrize(
    "change", [{"format": 9}, {"files": {"../x": "0"}}, {"types": {"x": "load"}}, {"types": {"y": "float32"}}]
)
def test_an_altered_index_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save_shards(tmp_path, {"x": torch.ones(64)}, {})
    index = json.loads((tmp_path / INDEX).read_text()) | change
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsDamagedError):
        load_shards(tmp_path)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16"):
        save_shards(tmp_path, {"x": torch.tensor([1e6])}, {})
    with pytest.raises(ValueError, match="shard"):
        save_shards(tmp_path, {"x": torch.zeros(9_000_000)}, {})
