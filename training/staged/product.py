"""What a stage leaves: weights in shards, a sample grid and its figures; how the next one finds them."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import FileMissingError, WeightsDamagedError
from engine.model.avatar import AvatarModel, save_model
from engine.model.config import ModelConfig
from training.codec import PROBE_OUTPUTS
from training.shards_io import INDEX, load_shards, save_shards
from training.staged.plan import STAGES, Stage

METRICS, SAMPLES = "metrics.json", "samples.png"
_MOST_POINTS = 160
_PARTS: Mapping[Stage, tuple[str, ...]] = {
    "codec": ("codec.", "audio."),
    "teacher": ("denoiser.", "audio.", "codec.latent_scale"),
    "student": ("codec.", "audio.", "denoiser."),
}
"""Prefixes of the weights that a stage has changed; the last stage leaves the whole model."""


@dataclass(frozen=True, slots=True)
class Folders:
    """out: folder of the run, a folder for each stage in it. before: where else earlier stages may lie, or None.
    work: what only a stop in the middle of a stage needs (weights and optimiser in full precision)."""

    out: Path
    before: Path | None
    work: Path

    def of(self, stage: Stage) -> Path:
        return self.out / stage

    def find(self, stage: Stage) -> Path | None:
        """Folder of a stage that has been done, in `out` first."""
        roots = [root for root in (self.out, self.before) if root is not None]
        return next((root / stage for root in roots if (root / stage / INDEX).is_file()), None)


def save_product(model: AvatarModel, stage: Stage, folder: Path, meta: Mapping[str, Any]) -> None:
    """Write the weights that this stage has made; meta must be JSON."""
    weights = {k: v for k, v in model.state_dict().items() if k.startswith(_PARTS[stage])}
    save_shards(folder, weights, {"config": model.config.to_dict(), "stage": stage, **finite(meta)})


def load_products(folders: Folders, stages: Iterable[Stage], config: ModelConfig) -> tuple[AvatarModel, dict[str, Any]]:
    """A model with the weights of the stages named, later ones over earlier ones, and the last one's meta.

    Raises FileMissingError when a stage has not been done, WeightsDamagedError for weights of another model.
    """
    model, meta = AvatarModel(config, PROBE_OUTPUTS), dict[str, Any]()
    for stage in stages:
        folder = folders.find(stage)
        if folder is None:
            raise FileMissingError(
                f"the stage {stage!r} comes first, and {folders.out} has none; give it with --resume"
            )
        weights, meta = load_shards(folder)
        _load_into(model, weights, meta, folder)
    return model, meta


def _load_into(model: AvatarModel, weights: Mapping[str, Tensor], meta: Mapping[str, Any], folder: Path) -> None:
    if meta.get("config") != json.loads(json.dumps(model.config.to_dict())):
        raise WeightsDamagedError(f"{folder} holds another model than {model.config.name!r} of this version")
    try:
        unknown = model.load_state_dict(dict(weights), strict=False).unexpected_keys
    except RuntimeError as error:
        raise WeightsDamagedError(f"{folder} does not fit the model: {error}") from error
    if unknown:
        raise WeightsDamagedError(f"{folder} holds weights that the model lacks: {', '.join(unknown[:3])}")


def assemble(folder: Path, out: Path) -> Path:
    """One checkpoint, for `visavis export`, from the last stage that a run has finished; returns its path."""
    folders = Folders(folder, None, folder)
    stage = next((s for s in reversed(STAGES) if folders.find(s)), None)
    if stage is None or stage == "codec":
        raise FileMissingError(f"{folder} holds neither a student nor a teacher of `visavis train recipe`")
    needed: tuple[Stage, ...] = ("student",) if stage == "student" else ("codec", "teacher")
    found = folders.find(stage)
    assert found is not None
    config = ModelConfig.from_dict(load_shards(found)[1]["config"])
    model, meta = load_products(folders, needed, config)
    meta["stage"] = {"student": "consistency"}.get(stage, stage)
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, out / "model.safetensors", {k: v for k, v in meta.items() if k != "config"})
    return out / "model.safetensors"


def write_metrics(folder: Path, log: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's figures and a thinned copy of its log as one JSON file; returns them without the log."""
    curve = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    measured = [point for point in curve if any(key.startswith("test_") for key in point)]
    steps = [point for point in curve if "loss" in point]
    thinned = steps[:: max(1, len(steps) // _MOST_POINTS)]
    tail = steps[-10:]
    summary: dict[str, Any] = dict(figures)
    for key in ("loss", "data_wait"):
        values = [point[key] for point in tail if key in point]
        summary[key] = round(sum(values) / len(values), 5) if values else None
    # What the first steps wait for is the pool's filling, which is not the training's pace.
    later = [point["data_wait"] for point in steps[1:] if "data_wait" in point]
    summary["data_wait_mean"] = round(sum(later) / len(later), 4) if later else None
    summary["steps_per_s"] = _pace(steps)
    summary["machine"] = _machine()
    summary["test"] = {k: v for point in measured[-1:] for k, v in point.items() if k.startswith("test_")}
    folder.mkdir(parents=True, exist_ok=True)
    summary = finite(summary)
    whole = {**summary, "log": finite(thinned), "tests": finite(measured)}
    (folder / METRICS).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return summary


def finite(value: Any) -> Any:
    """JSON knows no NaN, which a measurement without a single speaking clip gives: None instead."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pace(steps: list[dict[str, float]]) -> float | None:
    if len(steps) < 2:
        return None
    first, last = steps[len(steps) // 2], steps[-1]
    spent_s = last["seconds"] - first["seconds"]
    return round((last["step"] - first["step"]) / spent_s, 3) if spent_s > 0 else None


def _machine() -> dict[str, str | float]:
    facts: dict[str, str | float] = {"python": platform.python_version(), "torch": torch.__version__, "device": "cpu"}
    if torch.cuda.is_available():
        facts |= {
            "device": torch.cuda.get_device_name(),
            "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        }
    return facts | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
