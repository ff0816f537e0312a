"""Microphone to picture: a word is said, and the mouth on the screen moves.

The clock starts outside the app, when the word is handed to the sound device, and stops outside it, when pixels of the
screen change. Everything between counts: buffers of the device and the sound server, the app's ear, the model, the
painting. A display's own refresh and backlight come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import sleep

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.eye import Eye
from apps.bench.desktop.screen import Box
from apps.bench.desktop.talker import Talker
from apps.bench.stats import Spread, spread

MOUTH = (0.38, 0.64, 0.62, 0.82)
"""Of the canonical crop: left, top, right, bottom."""

MOVED = 0.2
"""Grey levels, mean over the mouth's box, by which a mouth at rest differs from one that opens."""

_REST_S = (1.2, 2.2)
"""Silence before a word, so that the mouth is closed and the app's ear has shut."""

_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds. from_sound: since the word sounded at the device. from_written: since it was handed to it, so that
    the harness's own buffer counts, too.
    """

    from_sound_ms: Spread
    from_written_ms: Spread


def mouth_of(picture: Box) -> Box:
    """Where the mouth is in a square picture of a person."""
    return picture.inner(*MOUTH)


def measure_delay(
    talker: Talker,
    eye: Eye,
    words: Sequence[NDArray[np.float32]],
    repeats: int,
    say: Callable[[str], None] = lambda _: None,
) -> Delay:
    """Each word in turn, `repeats` in all, after random silences. The person must hold still in silence, as the mock
    model does; for those that never do, see apps.bench.desktop.follow.
    """
    random = np.random.default_rng(2)
    sounds: list[float | None] = []
    written: list[float | None] = []
    for number in range(repeats):
        say(f"word {number + 1} of {repeats}")
        sleep(float(random.uniform(*_REST_S)))
        eye.settle()
        said = talker.say(words[number % len(words)]).result(_PATIENCE_S)
        moved_s = eye.wait(said.written_s, MOVED, _PATIENCE_S)
        sounds.append(None if moved_s is None else 1e3 * (moved_s - said.sounds_s))
        written.append(None if moved_s is None else 1e3 * (moved_s - said.written_s))
    return Delay(spread(sounds), spread(written))
