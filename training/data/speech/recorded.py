"""Recorded human speech: which files there are, who speaks, what is said, and who is never trained on.

Files are named as in LibriSpeech (Panayotov et al., "Librispeech: an ASR corpus based on public domain audio books",
2015): the last three numbers of a name are speaker, chapter and utterance, as in `train-clean-100-103-1240-0000.opus`.
Transcripts lie beside them as LibriSpeech's own `*.trans.txt` (one `ID WORDS` a line); without them the phones are
recognised, see training.data.speech.recognition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from engine.errors import ArgumentError, AudioEmptyError, UnreadableMediaError
from engine.types import SAMPLE_RATE_HZ
from training.data.truth import Floats

RECORDED_TEST_SPEAKERS: tuple[str, ...] = (
    "1688", "1998", "2033", "2414", "2609", "3005", "3080", "3331", "367", "533",
)  # fmt: skip
"""Humans never trained on: the speakers of LibriSpeech's test-other that the assets hold, about ten utterances each."""

FOLDER = "voices"
SUFFIXES = frozenset({".opus", ".flac", ".wav", ".ogg"})
SPLITS: tuple[str, ...] = ("train", "test")


@dataclass(frozen=True, slots=True)
class RecordedLine:
    """One recorded utterance. name: `speaker-chapter-utterance`; text: the transcript, empty if there is none."""

    path: Path
    name: str
    text: str = ""

    @property
    def speaker(self) -> str:
        return self.name.partition("-")[0]

    def audio(self) -> Floats:
        """float32 [N] in [-1, 1] at 16 kHz.

        Raises UnreadableMediaError for a file that holds no sound that can be read, AudioEmptyError for an empty one.
        """
        try:
            with av.open(str(self.path)) as container:
                resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
                frames = [f for packet in container.decode(audio=0) for f in resampler.resample(packet)]
                frames += resampler.resample(None)
        except (av.error.FFmpegError, IndexError) as error:
            raise UnreadableMediaError(f"{self.path} cannot be read as sound: replace it or delete it") from error
        if not frames:
            raise AudioEmptyError(f"{self.path} holds no sound: replace it or delete it")
        return np.concatenate([f.to_ndarray().ravel() for f in frames]).astype(np.float32) / 32768


def recorded_split(speaker: str) -> str:
    """`test` for the speakers that are never trained on, else `train`."""
    return "test" if speaker in RECORDED_TEST_SPEAKERS else "train"


def recorded_lines(assets: Path, split: str) -> tuple[RecordedLine, ...]:
    """All recorded utterances of a split below `assets/voices`, sorted by name; empty if there are none.

    Raises ArgumentError for an unknown split.
    """
    if split not in SPLITS:
        raise ArgumentError(f"unknown split {split!r}: use train or test")
    return tuple(line for line in _all_lines(assets / FOLDER) if recorded_split(line.speaker) == split)


@lru_cache(maxsize=4)
def _all_lines(folder: Path) -> tuple[RecordedLine, ...]:
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    texts = _transcripts(folder)
    names = [(p, _utterance_name(p.stem)) for p in paths]
    lines = [RecordedLine(path, name, texts.get(name, "")) for path, name in names if name]
    return tuple(sorted(lines, key=lambda line: line.name))


def _utterance_name(stem: str) -> str:
    """The last three numbers of a file's name, or nothing if it is not named like LibriSpeech's files."""
    parts = stem.split("-")[-3:]
    return "-".join(parts) if len(parts) == 3 and all(part.isdigit() for part in parts) else ""


def _transcripts(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, words = line.strip().partition(" ")
            texts[name] = words
    return texts
