"""What a person looks like beyond the shape of the head: skin tone, hair, brows, eyes, teeth, clothes.

`sample_look` decides from a generator; `AssetFolder` finds the files of an asset folder (skins/, hair/, brows/,
lashes/, teeth/, tongue/, clothes/). Without a folder the same look is filled by `training.data.heads.procedural`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import FileMissingError
from training.data.heads.base import base_head
from training.data.heads.glasses import Glasses, sample_glasses
from training.data.heads.identity import Identity
from training.data.heads.mesh import Fit, Floats, QuadMesh, read_mhclo, read_obj
from training.data.heads.regions import BEARD_STYLES

Colour = tuple[float, float, float]

_SKIN_TONES = {
    "caucasian": ((232, 197, 178), (224, 184, 162), (214, 170, 145), (198, 152, 126)),
    "asian": ((230, 196, 172), (219, 180, 153), (204, 161, 131), (182, 137, 107)),
    "african": ((162, 118, 94), (134, 96, 76), (108, 77, 62), (84, 61, 50)),
}
_HAIR_COLOURS = {
    "black": (36, 31, 29), "dark brown": (56, 41, 33), "brown": (80, 55, 38), "light brown": (118, 86, 58),
    "blond": (166, 138, 100), "red": (124, 62, 34), "grey": (138, 136, 134), "white": (196, 194, 190),
}  # fmt: skip
_IRISES = {
    "brown": ((74, 44, 24), (52, 28, 14)), "dark brown": ((50, 30, 19), (34, 20, 12)),
    "hazel": ((112, 88, 48), (96, 58, 26)), "green": ((98, 112, 74), (116, 92, 50)),
    "blue": ((92, 122, 150), (128, 140, 142)), "grey": ((116, 126, 132), (130, 130, 122)),
}  # fmt: skip
_MALE_HAIR = {"short01": 1.2, "short02": 1.1, "short03": 0.8, "short04": 1.2, "shaved": 0.7, "afro01": 0.04}
_FEMALE_HAIR = {
    "bob01": 0.6,
    "bob02": 0.7,
    "braid01": 0.6,
    "long01": 1.3,
    "ponytail01": 1.3,
    "short03": 0.4,
    "afro01": 0.05,
}
_BROWS = {True: ("001", "008", "009", "010", "012"), False: ("001", "005", "006", "008", "010", "011")}
"""Brow styles by `male`; the others of the pack look angry on most faces."""

FRINGED_HAIR = frozenset({"bob01", "bob02", "braid01", "short03"})
"""Styles that hang over an eye; they are cut above the brows."""


@dataclass(frozen=True, slots=True)
class Look:
    """Choices of one person. Colours are sRGB in [0, 255] unless the name says otherwise; hair `shaved` has no mesh.

    beard: one of regions.BEARD_STYLES or None. The integer `pick` fields choose among whatever files exist.
    """

    tone: Colour
    flush: float
    oil: float
    freckles: float
    lip_strength: float
    stubble: float
    hair: str
    hair_colour: Colour
    iris: tuple[Colour, Colour]
    iris_size: float
    pupil_size: float
    cloth_colour: Colour
    cloth_hue_deg: float
    pick_skin: int
    pick_brow: int
    pick_lash: int
    pick_teeth: int
    pick_cloth: int
    texture_seed: int
    beard: str | None
    beard_density: float
    glasses: Glasses | None
    ivory: Colour


def sample_look(identity: Identity, rng: np.random.Generator) -> Look:
    """Draw a look that goes with an identity: tones by ancestry, grey by age, hair by sex."""
    ancestry = identity.main_ancestry
    styles = dict(_MALE_HAIR if identity.male else _FEMALE_HAIR)
    if ancestry == "african":
        styles["afro01"] = 1.6
    weights = np.array(list(styles.values()))
    iris = _pick_iris(ancestry, rng)
    return Look(
        tone=_blend_tone(identity, rng),
        flush=float(rng.uniform(0.2, 1.0)),
        oil=float(rng.uniform(0.2, 1.1)),
        freckles=float(max(0.0, rng.normal(-0.2, 0.5)) * (ancestry == "caucasian")),
        lip_strength=float(rng.uniform(0.1, 0.35) if identity.male else rng.uniform(0.3, 0.9)),
        stubble=float(rng.uniform(0, 0.9) * (rng.random() < 0.6)) if identity.male else 0.0,
        hair=list(styles)[rng.choice(len(weights), p=weights / weights.sum())],
        hair_colour=_pick_hair_colour(identity, rng),
        iris=iris,
        iris_size=float(rng.uniform(0.47, 0.52)),
        pupil_size=float(rng.uniform(0.30, 0.44)),
        cloth_colour=tuple(float(c) for c in _muted_colour(rng)),
        cloth_hue_deg=float(rng.uniform(0, 360)),
        pick_skin=int(rng.integers(1 << 30)),
        pick_brow=int(rng.integers(1 << 30)),
        pick_lash=int(rng.integers(1 << 30)),
        pick_teeth=int(rng.integers(1 << 30)),
        pick_cloth=int(rng.integers(1 << 30)),
        texture_seed=int(rng.integers(1 << 30)),
        beard=BEARD_STYLES[rng.integers(len(BEARD_STYLES))] if rng.random() < 0.42 * identity.male else None,
        beard_density=float(rng.uniform(0.55, 0.95)),
        glasses=sample_glasses(rng, identity.age),
        ivory=_pick_ivory(identity, rng),
    )


def _blend_tone(identity: Identity, rng: np.random.Generator) -> Colour:
    """Tone of the main ancestry, drawn towards the others by their shares."""
    shares = dict(zip(("african", "asian", "caucasian"), identity.ancestry, strict=True))
    tone = np.zeros(3)
    for name, share in shares.items():
        tones = np.array(_SKIN_TONES[name], float)
        x = rng.uniform(0, len(tones) - 1)
        low = min(int(x), len(tones) - 2)
        tone += share * ((1 - (x - low)) * tones[low] + (x - low) * tones[low + 1])
    tone *= 1 + rng.normal(0, 0.012, 3)
    return tuple(float(t) for t in np.clip(tone, 40, 245))


def _pick_hair_colour(identity: Identity, rng: np.random.Generator) -> Colour:
    fair = identity.main_ancestry == "caucasian"
    names = (
        ["black", "dark brown", "brown", "light brown", "blond", "red"] if fair else ["black", "black", "dark brown"]
    )
    name = names[rng.choice(len(names), p=[0.12, 0.26, 0.24, 0.16, 0.16, 0.06] if fair else None)]
    if identity.age > 0.5 and rng.random() < (identity.age - 0.35) * 1.6:
        name = "white" if rng.random() < 0.3 else "grey"
    colour = np.array(_HAIR_COLOURS[name]) * rng.uniform(0.85, 1.2) * (1 + rng.normal(0, 0.02, 3))
    return tuple(float(c) for c in np.clip(colour, 8, 220))


def _pick_iris(ancestry: str, rng: np.random.Generator) -> tuple[Colour, Colour]:
    names = list(_IRISES) if ancestry == "caucasian" else ["brown", "dark brown", "dark brown"]
    outer, inner = _IRISES[names[rng.integers(len(names))]]
    vary = rng.uniform(0.85, 1.2)
    return tuple(float(c * vary) for c in outer), tuple(float(c * vary) for c in inner)


def _pick_ivory(identity: Identity, rng: np.random.Generator) -> Colour:
    """Enamel from bright to yellow; it yellows and darkens with age."""
    worn = float(np.clip(rng.uniform(0, 0.6) + 0.5 * identity.age, 0, 1))
    colour = (1 - worn) * np.array([238, 233, 222.0]) + worn * np.array([214, 196, 160.0])
    return tuple(float(c) for c in colour)


def _muted_colour(rng: np.random.Generator) -> Floats:
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(10, 110), rng.uniform(50, 225)
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


class AssetFolder:
    """Files of an asset folder. Raises FileMissingError for a folder that lacks the expected content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        missing = [
            name
            for name in ("skins", "hair", "brows", "lashes", "teeth", "tongue", "clothes")
            if not (folder / name).is_dir()
        ]
        if missing:
            raise FileMissingError(f"{folder} is no folder of head assets: it lacks {', '.join(missing)}")

    def skin(self, identity: Identity, look: Look) -> NDArray[np.uint8]:
        """The skin texture nearest in age, sex and ancestry, uint8 [512, 512, 3]."""
        years = "young" if identity.age < 0.35 else "middleage" if identity.age < 0.62 else "old"
        shade = "darkskinned" if identity.main_ancestry == "african" else "lightskinned"
        sex = "male" if identity.male else "female"
        files = sorted((self.folder / "skins").glob(f"{years}_{shade}_{sex}_*.png"))
        eastern = [f for f in files if f.stem.endswith("diffuse3" if years == "young" else "diffuse2")]
        if identity.main_ancestry == "asian":
            files = eastern or files
        elif len(files) > 1:
            files = [f for f in files if f not in eastern]
        return _read_image(files[look.pick_skin % len(files)], 3)

    def worn(self, kind: str, pick: int | str) -> tuple[str, QuadMesh, Fit, Path]:
        """Name, mesh, fit and colour texture of the chosen item of a kind."""
        names = sorted(path.name for path in (self.folder / kind).iterdir() if path.is_dir())
        name = pick if isinstance(pick, str) else names[pick % len(names)]
        return name, *_read_item(self.folder / kind / name, name)

    def brows(self, identity: Identity, look: Look) -> tuple[str, QuadMesh, Fit, Path]:
        """Brows that suit the person's sex."""
        styles = _BROWS[identity.male]
        return self.worn("brows", f"eyebrow{styles[look.pick_brow % len(styles)]}")

    def cloth(self, identity: Identity, look: Look) -> tuple[str, QuadMesh, Fit, Path]:
        """A suit for the person's sex."""
        prefix = "male_" if identity.male else "female_"
        names = sorted(path.name for path in (self.folder / "clothes").glob(f"{prefix}*"))
        return self.worn("clothes", names[look.pick_cloth % len(names)])


@functools.lru_cache(maxsize=64)
def _read_item(folder: Path, name: str) -> tuple[QuadMesh, Fit, Path]:
    images = sorted(p for p in folder.glob("*.png") if not p.stem.endswith(("_normal", "_ao")))
    image = images[0] if images else folder.parent / f"{folder.parent.name}.png"
    if not (folder / f"{name}.obj").is_file() or not image.is_file():
        raise FileMissingError(f"{folder} lacks {name}.obj, {name}.mhclo or a texture; restore the asset folder")
    return read_obj(folder / f"{name}.obj"), read_mhclo(folder / f"{name}.mhclo", len(base_head().mesh.vertices)), image


@functools.lru_cache(maxsize=48)
def _read_image(path: Path, channels: int) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FileMissingError(f"cannot read the texture {path}; restore the asset folder")
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    code = {
        (3, 3): cv2.COLOR_BGR2RGB,
        (4, 4): cv2.COLOR_BGRA2RGBA,
        (3, 4): cv2.COLOR_BGR2RGBA,
        (4, 3): cv2.COLOR_BGRA2RGB,
    }
    return cv2.cvtColor(image, code[image.shape[2], channels])


def hair_texture(path: Path, colour: Colour, contrast: float = 0.6) -> NDArray[np.uint8]:
    """Recolour a strand texture: its own luminance, relative to its mean, shades the wanted colour. uint8 RGBA."""
    image = _read_image(path, 4).astype(np.float32)
    alpha = image[..., 3]
    grey = cv2.cvtColor(image[..., :3] / 255, cv2.COLOR_RGB2GRAY)
    solid = (alpha > 128).astype(np.float32)
    mean = float((grey * solid).sum() / max(float(solid.sum()), 1.0))
    shade = np.clip((grey + 0.02) / (mean + 0.02), 0.15, 3.0) ** contrast
    shade = np.where(solid > 0, shade, 1.0)[..., None]
    return np.concatenate([np.clip(np.array(colour) * shade, 0, 255), alpha[..., None]], -1).astype(np.uint8)


def cloth_texture(path: Path, look: Look) -> NDArray[np.uint8]:
    """Shift a suit's hue, mute it and darken its folds by the ambient occlusion map beside it. uint8 RGBA."""
    image = _read_image(path, 4)
    hsv = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + look.cloth_hue_deg / 2) % 180
    hsv[..., 1] *= 0.42
    hsv[..., 2] = np.clip(hsv[..., 2] * (0.55 + 0.45 * max(look.cloth_colour) / 225), 0, 235)
    rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    occlusion = path.with_name(path.stem.replace("_diffuse", "_ao") + path.suffix)
    if occlusion != path and occlusion.is_file():
        rgb *= (
            _read_image(occlusion, 3).astype(np.float32) / 255
            if rgb.shape[:2] == _read_image(occlusion, 3).shape[:2]
            else 1
        )
    return np.concatenate([rgb.astype(np.uint8), image[..., 3:]], -1)


def teeth_texture(path: Path, ivory: Colour) -> NDArray[np.uint8]:
    """Teeth as painted, in a person's ivory, in gums as pink as living ones. uint8 RGBA."""
    image = _read_image(path, 4)
    rgb = image[..., :3].astype(np.float32) / 255
    grey = rgb.max(-1, keepdims=True)
    red = np.clip(4 * (rgb[..., :1] - rgb[..., 1:].max(-1, keepdims=True)), 0, 1)
    enamel = np.array(ivory, np.float32) / 255 * np.clip(0.25 + 0.95 * grey, 0, 1)
    gum = np.float32([0.80, 0.45, 0.44]) * np.clip(0.45 + 0.75 * grey, 0, 1)
    painted = enamel + red * (gum - enamel)
    return np.concatenate([(255 * painted).astype(np.uint8), image[..., 3:]], -1)


def plain_texture(path: Path) -> NDArray[np.uint8]:
    """A texture as it is, uint8 RGBA."""
    return _read_image(path, 4)
