"""What cameras, crops and codecs do to a face picture, and to its labels. Pictures are [B, 3, S, S] in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.portrait.landmarks import LANDMARKS
from training.data.truth import ARKIT_UNITS


def _mirrored(names: tuple[str, ...], left: str, right: str) -> list[int]:
    """For each name the index of its mirror image."""
    other = {left: right, right: left}

    def mirror(name: str) -> str:
        return next((name.replace(side, other[side]) for side in (left, right) if side in name), name)

    return [names.index(mirror(name)) for name in names]


MIRROR_UNITS = _mirrored(ARKIT_UNITS, "Left", "Right")
MIRROR_POINTS = _mirrored(LANDMARKS, "_left", "_right")

Labels = dict[str, Tensor]


def uniform(like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """One draw per picture, shaped [B, 1, 1, 1] unless told otherwise."""
    return torch.empty(len(like), *(shape or (1, 1, 1)), device=like.device).uniform_(low, high)


def chance(like: Tensor, rate: float) -> Tensor:
    """bool [B, 1, 1, 1]."""
    return uniform(like, 0, 1) < rate


def mirror(image: Tensor, labels: Labels, rate: float = 0.5) -> tuple[Tensor, Labels]:
    """Mirror some of the pictures. labels: `landmarks` [B, 28, 2] and, where present, units [B, 52], head, gaze."""
    flipped = chance(image, rate)
    image = torch.where(flipped, image.flip(-1), image)
    row = flipped[:, :, 0, 0]
    sign = image.new_tensor((-1.0, 1.0))
    points = labels["landmarks"][:, MIRROR_POINTS]
    points = torch.stack((1 - points[..., 0], points[..., 1]), -1)
    out = labels | {"landmarks": torch.where(row[..., None], points, labels["landmarks"])}
    if "units" in labels:
        out["units"] = torch.where(row, labels["units"][:, MIRROR_UNITS], labels["units"])
        out["head"] = torch.where(row, labels["head"] * image.new_tensor((-1.0, 1.0, -1.0)), labels["head"])
        out["gaze"] = torch.where(row, labels["gaze"] * sign, labels["gaze"])
    return image, out


def recrop(
    image: Tensor, landmarks: Tensor, side_px: int, shift: float, scale: tuple[float, float], degrees: float
) -> tuple[Tensor, Tensor]:
    """Cut a displaced, scaled and turned square out of each picture, as a careless finder would.

    shift: largest displacement as a fraction of the cut's side; scale: range of the cut's side. What lies outside the
    picture repeats its edge, as `engine.portrait.paste.cut` does, or is a plain colour or another picture.
    Returns pictures [B, 3, side_px, side_px] and landmarks in them.
    """
    angle = uniform(image, -degrees, degrees, 1) * math.pi / 180
    log_low, log_high = math.log(scale[0]), math.log(scale[1])
    size = uniform(image, log_low, log_high, 1).exp()
    centre = size * uniform(image, -2 * shift, 2 * shift, 2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)), 1)
    affine = torch.cat((size[..., None] * turn, centre[..., None]), 2)
    grid = F.affine_grid(affine, [len(image), 3, side_px, side_px], align_corners=False)
    # Antialiased where the cut is coarser than the picture.
    source = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False) if side_px * 1.2 < image.shape[-1] else image
    inside = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
    outside = (grid.abs().amax(-1) > 1)[:, None]
    cut = torch.where(outside & chance(image, 0.5), _backdrop(image, side_px), inside)
    place = (landmarks * 2 - 1 - centre[:, None]) / size[:, None]
    return cut, torch.einsum("bji,bnj->bni", turn, place) / 2 + 0.5


def _backdrop(image: Tensor, side_px: int) -> Tensor:
    """A plain colour, or a magnified piece of another picture."""
    plain = uniform(image, -1, 1, 3, 1, 1).expand(-1, -1, side_px, side_px)
    piece = F.interpolate(image.roll(1, 0)[..., : image.shape[-1] // 2, :], size=(side_px, side_px), mode="bilinear")
    return torch.where(chance(image, 0.5), plain, piece)


def some(image: Tensor, rate: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a change of pictures to a random part of the batch, in place; the others cost nothing."""
    chosen = torch.randperm(len(image))[: round(rate * len(image))].to(image.device)
    if len(chosen):
        image[chosen] = change(image[chosen])
    return image


def colours(image: Tensor, strength: float) -> Tensor:
    """Brightness, contrast, white balance and saturation; strength 0 to 1. All are one affine map of colours."""
    grey = image.new_full((3, 3), 1 / 3)
    saturation = uniform(image, 1 - strength, 1 + 0.5 * strength, 1, 1)
    balance = (uniform(image, -0.3, 0.3, 1, 1) + uniform(image, -0.15, 0.15, 3, 1)).mul(strength).exp()
    contrast = uniform(image, 1 - 0.4 * strength, 1 + 0.3 * strength, 1, 1)
    matrix = balance * contrast * (grey + saturation * (torch.eye(3, device=image.device) - grey))
    # The map acts on [0, 1]; contrast turns about the middle.
    offset = matrix.sum(2) - 1 + (1 - contrast[..., 0]) * balance[..., 0]
    return torch.baddbmm(offset[..., None], matrix, image.flatten(2)).unflatten(2, image.shape[2:]).clamp_(-1, 1)


def gamma(image: Tensor, strength: float) -> Tensor:
    x = ((image + 1) / 2).clamp_(1e-3, 1)
    return x ** uniform(image, -strength, strength).exp() * 2 - 1


def greyscale(image: Tensor) -> Tensor:
    return image.mean(1, keepdim=True).expand_as(image)


def soften(image: Tensor, smallest: float = 0.35) -> Tensor:
    """At a lower resolution and back, one resolution per call."""
    side = image.shape[-1]
    small = max(16, round(side * float(torch.empty(()).uniform_(smallest, 0.9))))
    low = F.interpolate(image, size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(low, size=(side, side), mode="bilinear", align_corners=False)


def add_noise(image: Tensor, most: float) -> Tensor:
    """White noise, up to this standard deviation."""
    return image + uniform(image, 0, most) * torch.randn_like(image)


def quantise(image: Tensor, most: float = 0.25) -> Tensor:
    """What JPEG and H.264 leave behind: 8 x 8 cosine coefficients rounded, coarser for fine detail."""
    line = torch.arange(8, dtype=torch.float32, device=image.device)
    basis = torch.cos((2 * line[None] + 1) * line[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    step = uniform(image, 0.02, most)[..., None, None] * (1 + line[:, None] + line[None]) / 4
    blocks = image.unfold(2, 8, 8).unfold(3, 8, 8)
    rounded = ((basis @ blocks @ basis.T) / step).round() * step
    return (basis.T @ rounded @ basis).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
