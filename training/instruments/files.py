"""Files of the instruments: fp16 weights in safetensors, with configurations and figures as JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

Config = TypeVar("Config")


def write_file(path: Path, header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Renamed into place when complete. header: JSON values by name."""
    from safetensors.torch import save_file

    temporary = path.with_suffix(".part")
    halves = {k: v.detach().cpu().half().contiguous() for k, v in weights.items()}
    save_file(halves, temporary, metadata={k: json.dumps(v) for k, v in header.items()})
    temporary.replace(path)


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header, its values still JSON text, and weights in fp32."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    return header, weights


def config_of(kind: type[Config], text: str) -> Config:
    """The dataclass whose fields were written as JSON."""
    values = json.loads(text)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
