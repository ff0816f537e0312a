"""The model card that lies beside a bundle's manifest: the same facts, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """# {name}

One portrait and a voice in; a talking, listening, idling face out. Part of visavis, licence {licence}.

## Use

    visavis talk portrait.jpg voice.wav -o talk.mp4 --model {name}

For people who agreed to be shown, or who do not exist. Not for making someone seem to say what they did not say.
Every film that `visavis talk` writes says in its metadata that it is generated.

## Network

{parameters} parameters: {parts}. Latent {channels} x {grid} x {grid} a frame at 25 frames a second; pictures of any
size. Sampling: {sampler}, {steps} steps a block of {block} frames, {first} for the first block of {first_block}{mouth}.
Weights in {weights}.

## Trained on

{trained_on}

## Measured

{metrics}

## Limits

- Frontal faces with a visible, closed mouth work best; large turns and hands before the face do not work.
- Teeth and tongue are painted from what the model has seen, not from the person.
- The portrait decides who is shown; people unlike those in the training data may be shown less well.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown for a manifest."""
    config, sampling, parts = manifest["config"], manifest["sampling"], manifest["parameters"]
    return _TEMPLATE.format(
        name=manifest["name"],
        licence=manifest["licence"],
        parameters=_millions(sum(parts.values())),
        parts=", ".join(f"{part} {_millions(count)}" for part, count in parts.items()),
        channels=config["latent_channels"],
        grid=config["latent_grid"],
        sampler=sampling["sampler"],
        steps=sampling["steps"],
        block=sampling["block_frames"],
        first=sampling["first_steps"],
        first_block=sampling["first_block_frames"],
        mouth=_mouth(sampling.get("stress", 0.0)),
        weights=manifest["precisions"]["weights"],
        trained_on=manifest["trained_on"],
        metrics=_table({**manifest["training"].get("test", {}), **manifest["metrics"]}),
    )


def _mouth(stress: float) -> str:
    return f";\nthe mouth by a step without noise, {stress:g} times" if stress else ""


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(metrics: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_short(value)} |" for name, value in metrics.items() if isinstance(value, (int, float, str))]
    return "\n".join(["| what | value |", "|---|---|", *rows]) if rows else "Nothing yet."
