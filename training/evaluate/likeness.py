"""Do frames show whom the portrait shows? Likeness by `training.evaluate.identity`, and what it can tell.

Every figure is put on the scale that the true frames of the same clips give: 1 is as like the portrait as true frames
are, 0 is as unlike as other people are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate.identity import descriptors

EVERY_FRAMES = 10


@dataclass(frozen=True, slots=True)
class Telling:
    """What the description tells apart on true frames. same, other: mean likeness of frames to their own portrait and
    to other people's. auc: chance that a frame is liker its own portrait than another person's (0.5: it tells nothing).
    """

    people: int
    same: float
    other: float
    auc: float

    def scaled(self, likeness: float) -> float:
        """Likeness with 1 for the true frames and 0 for other people; NaN where there is nobody else."""
        return (likeness - self.other) / (self.same - self.other) if self.same > self.other else float("nan")

    def as_json(self) -> dict[str, object]:
        return {k: None if np.isnan(v) else round(v, 4) for k, v in asdict(self).items()}


def describe_frames(frames: Bytes, landmarks: Floats) -> Floats:
    """Of every tenth frame, [N, D]."""
    return descriptors(frames[::EVERY_FRAMES], landmarks[::EVERY_FRAMES])


def person_of(clip: Clip) -> str:
    """Whose face it is: variations of one photograph, which end in a number of their own, are one person."""
    kind, subject = str(clip.meta.get("kind", "person")), str(clip.meta.get("subject", clip.key))
    return f"{kind}-{subject.rpartition('-')[0] or subject}" if kind == "puppet" else f"{kind}-{subject}"


@dataclass(frozen=True, slots=True)
class Gallery:
    """The portraits [D] of the clips, whose they are, and what true frames say about the description."""

    portraits: tuple[Floats, ...]
    people: tuple[str, ...]
    telling: Telling

    @staticmethod
    def of(portraits: Sequence[Floats], people: Sequence[str], truth: Sequence[Floats]) -> Gallery:
        """truth: descriptions [N, D] of every clip's true frames."""
        return Gallery(tuple(portraits), tuple(people), tell(truth, portraits, people))

    def likeness(self, clips: Sequence[Floats]) -> float:
        """Mean likeness of clips' frames [N, D] to their own portraits."""
        return float(np.mean([(frames @ self.portraits[i]).mean() for i, frames in enumerate(clips)]))

    def identity(self, clips: Sequence[Floats]) -> float:
        """The same on the scale from other people to true frames."""
        return self.telling.scaled(self.likeness(clips))

    def recognised(self, clips: Sequence[Floats]) -> float:
        """Share of frames that are liker their own portrait than that of anybody else; NaN where there is nobody."""
        return float(np.mean([self._recognised(i, frames) for i, frames in enumerate(clips)]))

    def _recognised(self, clip: int, frames: Floats) -> float:
        others = [p for p, who in zip(self.portraits, self.people, strict=True) if who != self.people[clip]]
        if not others:
            return float("nan")
        return float((frames @ self.portraits[clip] > (frames @ np.stack(others).T).max(1)).mean())


def tell(frames: Sequence[Floats], portraits: Sequence[Floats], people: Sequence[str]) -> Telling:
    """What true frames [N, D] of each clip and portraits [D] say about the description itself."""
    own = [frame @ portraits[i] for i, clip in enumerate(frames) for frame in clip]
    pairs = [(clip, j) for i, clip in enumerate(frames) for j in range(len(frames)) if people[i] != people[j]]
    others = [float(frame @ portraits[j]) for clip, j in pairs for frame in clip]
    count = len(set(people))
    if not others:
        return Telling(count, float(np.mean(own)), float("nan"), float("nan"))
    ranks = np.searchsorted(np.sort(others), own) / len(others)
    return Telling(count, float(np.mean(own)), float(np.mean(others)), float(np.mean(ranks)))
