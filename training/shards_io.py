"""Weights as fp16 safetensors shards of at most 16 MiB, with an index that names every file and its sha256.

    weights.json             format, meta, and per file its sha256 and its tensors' own types
    weights-00.safetensors   ...

Small files travel where large ones may not, and a cut or altered one is refused instead of loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import FileMissingError, WeightsDamagedError
from training.data.cast.cast import digest

FORMAT = 1
INDEX = "weights.json"
SHARD_BYTES = 16 * 2**20
_HEADER_ROOM = 64 * 2**10


def save_shards(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[Path]:
    """Write tensors, floating ones as fp16, and return the files written, index last. meta must be JSON.

    Stale shards of an earlier save are removed. Raises ValueError for a tensor that no shard can hold or that fp16
    cannot.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("weights-*.safetensors"):
        stale.unlink()
    files: dict[str, str] = {}
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    for number, part in enumerate(_parts(tensors)):
        path = folder / f"weights-{number:02d}.safetensors"
        save_file(part, path)
        files[path.name] = digest(path)
    index = {"format": FORMAT, "meta": dict(meta), "files": files, "types": types}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return [*(folder / name for name in files), folder / INDEX]


def load_shards(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in the types they were saved from, and the meta.

    Raises FileMissingError where there is no index, WeightsDamagedError for anything cut short, altered or missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = _read_index(folder)
    tensors: dict[str, Tensor] = {}
    for name, expected in index["files"].items():
        path = folder / name
        if not path.is_file() or digest(path) != expected:
            raise WeightsDamagedError(f"{path} is missing or not the file that {INDEX} names; copy the folder again")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise WeightsDamagedError(f"{path} cannot be read ({error}); copy the folder again") from error
    types = index["types"]
    if set(types) != set(tensors):
        raise WeightsDamagedError(f"{folder} lacks tensors that {INDEX} names; copy the folder again")
    return {name: tensor.to(getattr(torch, types[name])) for name, tensor in tensors.items()}, index["meta"]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise FileMissingError(f"{folder} holds no trained weights ({INDEX})")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        known = index["format"] == FORMAT and all(isinstance(index[k], dict) for k in ("files", "types", "meta"))
        typed = known and all(isinstance(getattr(torch, t), torch.dtype) for t in index["types"].values())
        local = known and all(Path(name).name == name for name in index["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsDamagedError(f"{path} cannot be read ({error!r}); copy the folder again") from error
    if not (known and typed and local):
        raise WeightsDamagedError(f"{path} is of another format or altered; copy the folder again")
    return index


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors in their order, packed into shards."""
    part: dict[str, Tensor] = {}
    used = 0
    for name, tensor in tensors.items():
        kept = _small(name, tensor)
        size = kept.numel() * kept.element_size()
        if size > SHARD_BYTES - _HEADER_ROOM:
            raise ValueError(f"{name} has {size} bytes, more than a shard of {SHARD_BYTES} can hold")
        if part and used + size > SHARD_BYTES - _HEADER_ROOM:
            yield part
            part, used = {}, 0
        part[name] = kept
        used += size
    if part:
        yield part


def _small(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous().clone()
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} holds values that fp16 cannot")
    return half
