"""What the real section is measured on: held-out photographs and voices of an assets folder, or a user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.engine import AvatarEngine
from engine.errors import AvatarError, DataSettingsError, FileMissingError
from training.data.clips import Clip, render_clip
from training.data.held_out import TEST_PORTRAITS
from training.data.media import Bytes
from training.data.speech.recorded import RECORDED_TEST_SPEAKERS, RecordedLine, recorded_lines
from training.data.truth import Floats
from training.evaluate import metrics
from training.evaluate.real import PortraitCodec, RealFace, RealInstruments, RealVoice
from training.evaluate.second import Landmarker
from training.evaluate.sources import Source
from training.instruments.probe import Probe
from training.instruments.sync import SyncScorer

CODEC_PX = 256
VOICES = 5
_LINES = 3
"""Utterances of a speaker that are put one after the other."""
_CODEC_SECONDS, _CODEC_EVERY, _CODEC_SEED = 2.0, 3, 71
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SECOND_FILE = "face_landmarker_v2_with_blendshapes.task"


def faces_of(engine: AvatarEngine, paths: Sequence[Path]) -> list[RealFace]:
    """Portraits with their faces found; those without a usable face are left out.

    Raises DataSettingsError when none is left.
    """
    faces = []
    for path in paths:
        try:
            faces.append(RealFace(path.stem, engine.open_portrait(path)))
        except AvatarError:
            continue
    if not faces:
        raise DataSettingsError(
            "not one of the pictures shows a face that can be used; give --portraits another folder"
        )
    return faces


def pictures_in(folder: Path) -> list[Path]:
    """Picture files of a folder, sorted. Raises FileMissingError when there are none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if not paths:
        raise FileMissingError(f"there are no pictures in {folder}; give --portraits a folder with .jpg or .png files")
    return paths


def held_out_portraits(assets: Path) -> list[Path]:
    """The photographs of TEST_PORTRAITS below assets/portraits. Raises FileMissingError when there are none."""
    found = {path.stem: path for path in sorted((assets / "portraits").rglob("*")) if path.suffix.lower() in _PICTURES}
    paths = [found[name] for name in TEST_PORTRAITS if name in found]
    if not paths:
        raise FileMissingError(f"{assets} holds none of the held-out portraits; give --portraits a folder of your own")
    return paths


def held_out_voices(assets: Path, count: int = VOICES) -> list[RealVoice]:
    """The first `count` held-out speakers. Raises FileMissingError when there are none."""
    lines: dict[str, list[RecordedLine]] = {}
    for line in recorded_lines(assets, "test"):
        lines.setdefault(line.speaker, []).append(line)
    speakers = [name for name in RECORDED_TEST_SPEAKERS if name in lines][:count]
    if not speakers:
        raise FileMissingError(f"{assets} holds none of the held-out voices; give --voices a folder of your own")
    return [RealVoice(name, np.concatenate([line.audio() for line in lines[name][:_LINES]])) for name in speakers]


def instruments_in(folder: Path, second: Path | None) -> RealInstruments:
    """The instruments of a folder. Raises FileMissingError without a probe, or without a landmarker that was named."""
    probe, sync = folder / "probe.safetensors", folder / "sync.safetensors"
    if not probe.exists():
        raise FileMissingError(f"there is no probe at {probe}; train one with `visavis train probe`")
    scorer = SyncScorer.load(sync) if sync.exists() else None
    return RealInstruments(Probe.load(probe), scorer, Landmarker(second) if second else None)


def second_in(assets: Path | None) -> Path | None:
    """The second instrument's model in an assets folder, if it is there."""
    path = assets / "models" / SECOND_FILE if assets else None
    return path if path and path.is_file() else None


def measure_codec(
    codec: Source, assets: Path, cache: Path, names: Sequence[str] = TEST_PORTRAITS
) -> Iterator[PortraitCodec]:
    """Held-out photographs moved as puppets by held-out performances, at 256 px, and put through a codec that encodes
    frames beside their portrait. Raises what rendering raises.
    """
    for name, clip in puppet_clips(assets, cache, names):
        yield _codec_of(codec, name, clip)


def puppet_clips(assets: Path, cache: Path, names: Sequence[str]) -> Iterator[tuple[str, Clip]]:
    """Two seconds of each photograph that moves."""
    from training.data.performance import perform
    from training.data.puppets import PuppetSubject, list_portraits

    for i, path in enumerate(p for p in list_portraits(assets, "test", cache / "faces") if p.stem in names):
        subject = PuppetSubject(path, CODEC_PX, assets, 0, cache / "faces")
        try:
            performance = perform(_CODEC_SEED + i, _CODEC_SECONDS, "test", cache / "voices")
            rng = np.random.default_rng(_CODEC_SEED + i)
            yield path.stem, render_clip(subject, performance, truth_stride=len(performance), rng=rng)
        finally:
            subject.close()


def _codec_of(codec: Source, name: str, clip: Clip) -> PortraitCodec:
    truth, decoded = clip.frames[::_CODEC_EVERY], codec.frames(clip)[::_CODEC_EVERY]
    face = face_weight(clip.truth.landmarks[::_CODEC_EVERY], truth.shape[1])
    copied: Bytes = np.broadcast_to(clip.reference, truth.shape)
    return PortraitCodec(
        name=name,
        psnr=metrics.psnr(decoded, truth),
        psnr_face=metrics.psnr(decoded, truth, face),
        psnr_face_copy=metrics.psnr(copied, truth, face),
    )


def face_weight(landmarks: Floats, side: int) -> Floats:
    """Mask [F, side, side] of the box that forehead, chin and cheeks span; landmarks [F, 28, 2]."""
    low, high = landmarks.min(1), landmarks.max(1)
    line = (np.arange(side) + 0.5) / side
    inside = (line >= low[:, :, None]) & (line <= high[:, :, None])
    return (inside[:, 1, :, None] & inside[:, 0, None, :]).astype(np.float32)
