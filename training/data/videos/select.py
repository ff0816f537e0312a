"""From what was seen and heard in a film to the clips that are made of it, and why the rest is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLES_PER_FRAME, AvatarState
from training.data.media import Floats
from training.data.videos.config import VideoConfig
from training.data.videos.framing import crop_path, outside_share
from training.data.videos.gates import Rejected, clip_ranges, frame_reasons, good_stretches
from training.data.videos.labels import Take, choose_reference, opening_of
from training.data.videos.pose import neutral_scores
from training.data.videos.reading import fitted
from training.data.videos.shots import Range, shots
from training.data.videos.states import States, label, silent_talk
from training.data.videos.sync import Evidence, Sync, evidence, judge, out_of_step, shifted
from training.data.videos.voice import Listener, speech_by_frame, spoken
from training.data.videos.watch import Seen

SILENT_TALK = 0.35
"""A clip in which the mouth moves without a voice for longer than this share teaches that idle people talk."""
_SPEAKING_SHARE = 0.2
_REFERENCE_REACH_FRAMES = 750
"""A reference is looked for within 30 s around its clip, where light and dress are still the same."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A range of frames that looks good. stretch: what it is part of. neutral [52]: the person's scores at rest."""

    frames: Range
    stretch: Range
    neutral: Floats


@dataclass(frozen=True, slots=True)
class Selection:
    """takes: the clips to cut, in order. sure: per take, how sure its states are, in [0, 1]. voice [F * 640]."""

    takes: list[Take]
    sure: list[float]
    rejected: list[Rejected]
    voice: Floats
    sync: Sync
    shots: int


@dataclass(frozen=True, slots=True)
class _Heard:
    voice: Floats
    probability: Floats
    speech: NDArray[np.bool_]

    @staticmethod
    def of(voice: Floats, frames: int, listen: Listener) -> _Heard:
        probability = speech_by_frame(listen(voice), frames)
        return _Heard(voice, probability, spoken(probability))


def select(seen: Seen, track: Floats | None, listen: Listener, config: VideoConfig) -> Selection:
    """Everything that is decided about a film between the two passes over it. track: its sound, if it has one."""
    found_shots = shots(seen)
    candidates, rejected = _candidates(seen, found_shots, config)
    silent = np.zeros(0, np.float32) if track is None else track
    heard = _Heard.of(fitted(silent, len(seen) * SAMPLES_PER_FRAME), len(seen), listen)
    parts = [part for part in (_evidence(seen, c.frames, heard) for c in candidates) if part]
    sync = judge(parts)
    if sync.shift_ms:
        heard = _Heard.of(shifted(heard.voice, sync.shift_ms), len(seen), listen)
    takes, sure = [], []
    for candidate in candidates:
        states = _label(seen, candidate.frames, heard)
        reason = _fault(seen, candidate, states, heard, sync)
        take = None if reason else _take(seen, candidate, states, config)
        if take is None:
            rejected.append(Rejected(*candidate.frames, reason or "outside_the_picture"))
        else:
            takes.append(take)
            sure.append(float(states.sure.mean()))
    return Selection(takes, sure, rejected, heard.voice, sync, len(found_shots))


def _candidates(seen: Seen, ranges: Sequence[Range], config: VideoConfig) -> tuple[list[Candidate], list[Rejected]]:
    candidates, rejected = [], []
    for shot in ranges:
        reasons = frame_reasons(seen, shot, config.gates)
        stretches, others = good_stretches(reasons, shot, config.frames)
        rejected += others
        if stretches:
            good = np.concatenate([np.arange(*stretch) for stretch in stretches])
            neutral = neutral_scores(seen.scores[good])
        for stretch in stretches:
            clips, ends = clip_ranges(stretch, config.frames)
            candidates += [Candidate(clip, stretch, neutral) for clip in clips]
            rejected += ends
    return candidates, rejected


def _label(seen: Seen, frames: Range, heard: _Heard) -> States:
    part = slice(*frames)
    return label(opening_of(seen, frames), heard.probability[part], heard.speech[part])


def _evidence(seen: Seen, frames: Range, heard: _Heard) -> Evidence | None:
    """What a clip says about sync: nothing where the mouth rests while others talk."""
    states = _label(seen, frames, heard)
    if not _speaks(states):
        return None
    sound = heard.voice[frames[0] * SAMPLES_PER_FRAME : frames[1] * SAMPLES_PER_FRAME]
    return evidence(opening_of(seen, frames), sound, states.state == AvatarState.SPEAKING)


def _speaks(states: States) -> bool:
    return bool((states.state == AvatarState.SPEAKING).mean() > _SPEAKING_SHARE)


def _fault(seen: Seen, candidate: Candidate, states: States, heard: _Heard, sync: Sync) -> str | None:
    """Why sound and picture of a clip must not teach anything, if so."""
    if silent_talk(states, heard.speech[slice(*candidate.frames)]) > SILENT_TALK:
        return "mouth_moves_without_voice"
    if not _speaks(states):
        return None
    if sync.verdict in ("out_of_sync", "voice_does_not_fit"):
        return sync.verdict
    part = _evidence(seen, candidate.frames, heard)
    return "out_of_sync" if part and out_of_step(part) else None


def _take(seen: Seen, candidate: Candidate, states: States, config: VideoConfig) -> Take | None:
    """The clip's crops and reference; None when its crop leaves the picture too far."""
    first, stop = candidate.frames
    reach = _REFERENCE_REACH_FRAMES
    around = (max(candidate.stretch[0], first - reach), min(candidate.stretch[1], stop + reach))
    reference = choose_reference(seen, around)
    # Smoothed over the whole neighbourhood, so that a crop that follows is the same in clips that adjoin.
    path = crop_path(seen.points[slice(*around)], seen.points[reference])
    crops = path[first - around[0] : stop - around[0]]
    if max(outside_share(crop, seen.size) for crop in crops) > config.gates.outside:
        return None
    return Take(candidate.frames, reference, crops, path[reference - around[0]], candidate.neutral, states.state)
