"""Clips that a teacher draws for its student, with its states on the way: the data set of AccVideo."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import ArgumentError
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Denoiser
from training.objectives.blocks import conditions, encode_voices, random_blocks
from training.objectives.trajectories import euler_times, trajectories
from training.run import Batch, autocast


class Taught:
    """Batches of drawn clips under `folder`, drawn once; iterating repeats them in random order."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._paths = sorted(folder.glob("*.safetensors"))
        self._generator = torch.Generator().manual_seed(seed)
        if not self._paths:
            raise ArgumentError(f"{folder} holds no drawn clips; give the teacher more minutes to draw some")

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Batch]:
        from safetensors.torch import load_file

        while True:
            choice = int(torch.randint(len(self._paths), (), generator=self._generator))
            yield load_file(self._paths[choice])


@torch.no_grad()
def draw_lessons(
    batches: Iterator[Batch], teacher: Denoiser, audio: AudioEncoder, folder: Path, steps: int, keys: int,
    shift: float, guidance: float, minutes: float, most: int, device: torch.device, seed: int = 0,
) -> int:  # fmt: skip
    """Draw batches of clips by the teacher's Euler sampler of so many steps until time or number is used up; returns
    how many there are. Each file is the batch with `states` [B, keys + 1, F, C, G, G] (fp16) at evenly many steps from
    one another, and `blocks`. Batches that are there already count.
    """
    from safetensors.torch import save_file

    if steps % keys:
        raise ArgumentError(f"{keys} key times do not divide {steps} steps of the teacher")
    folder.mkdir(parents=True, exist_ok=True)
    teacher, audio, times = teacher.to(device).eval(), audio.to(device).eval(), euler_times(steps, shift)
    begun, count = time.monotonic(), len(list(folder.glob("*.safetensors")))
    torch.manual_seed(seed)
    while count < most and (count == 0 or time.monotonic() - begun < 60 * minutes):
        batch = {k: v.to(device) for k, v in next(batches).items()}
        blocks = random_blocks(batch["latent"].shape[1], teacher.config.block_lengths).to(device)
        noise = torch.randn_like(batch["latent"])
        with autocast(device):
            given = conditions(teacher, *encode_voices(audio, batch), batch, None)
            states = trajectories(teacher, given, batch["reference"], blocks, times, noise, guidance)
        kept: dict[str, Tensor] = batch | {"states": states[:: steps // keys].transpose(0, 1).half(), "blocks": blocks}
        path = folder / f"{count:05d}.safetensors"
        save_file({k: v.cpu().contiguous() for k, v in kept.items()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        count += 1
    return count
