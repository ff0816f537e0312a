"""The three networks of one avatar model, and their checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from engine.model.audio import AudioEncoder
from engine.model.codec import PortraitCodec
from engine.model.config import ModelConfig
from engine.model.denoiser import Denoiser
from engine.model.experts import Experts, make_denoiser


class AvatarModel(nn.Module):
    """Codec, audio encoder and denoiser of one ModelConfig."""

    def __init__(self, config: ModelConfig, probe_outputs: int = 0) -> None:
        super().__init__()
        self.config = config
        self.codec = PortraitCodec(config, probe_outputs)
        self.audio = AudioEncoder(config)
        self.denoiser: Denoiser | Experts = make_denoiser(config)


def save_model(model: AvatarModel, path: Path, meta: dict[str, Any]) -> None:
    """Weights and config as one safetensors file; written beside and renamed, so a crash leaves the old one."""
    from safetensors.torch import save_file

    header = {"config": json.dumps(model.config.to_dict()), "meta": json.dumps(meta)}
    temporary = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary, metadata=header)
    temporary.replace(path)


def load_model(path: Path) -> tuple[AvatarModel, dict[str, Any]]:
    """Model in eval mode and the meta it was saved with. Missing or unknown weights are an error (strict)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    config = ModelConfig.from_dict(json.loads(header["config"]))
    probe = weights.get("codec.probe.bias")
    model = AvatarModel(config, 0 if probe is None else len(probe))
    model.load_state_dict(weights)
    return model.eval(), json.loads(header["meta"])
