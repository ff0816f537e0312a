"""What a user writes to direct the person: expressions such as `happy:0.6`, and tracks of states."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from engine.errors import ArgumentError, StateTrackError, UnknownExpressionError
from engine.types import EXPRESSIONS, FPS, AvatarState


def parse_expression(text: str) -> dict[str, float]:
    """`happy:0.6`, `happy` (strength 1) or several joined by commas, to strengths by name."""
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    if not pairs:
        raise ArgumentError("an expression looks like happy:0.6; none was given")
    strengths = {}
    for name, colon, strength in pairs:
        try:
            strengths[name.strip()] = float(strength) if colon else 1.0
        except ValueError as error:
            raise ArgumentError(f"{strength!r} is not a strength; write {name}:0.6") from error
    expression_vector(strengths)
    return strengths


def expression_vector(strengths: Mapping[str, float]) -> NDArray[np.float32]:
    """Strengths by name to [8] in the order of engine.types.EXPRESSIONS."""
    vector = np.zeros(len(EXPRESSIONS), np.float32)
    for name, strength in strengths.items():
        if name not in EXPRESSIONS:
            near = get_close_matches(name, EXPRESSIONS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UnknownExpressionError(f"there is no expression {name!r}; known are {', '.join(EXPRESSIONS)}.{hint}")
        if not 0 <= strength <= 1:
            raise ArgumentError(f"the strength of {name} must lie between 0 and 1, not {strength}")
        vector[EXPRESSIONS.index(name)] = strength
    return vector


def parse_state_track(text: str, automatic: NDArray[np.int8]) -> NDArray[np.int8]:
    """States [F] from lines of `SECONDS STATE`, each holding until the next; `#` starts a comment.

    STATE is speaking, listening, idle, or auto, which takes the given automatic states [F], as do frames before the
    first line.
    """
    states = automatic.copy()
    previous_s = -1.0
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].split():
            start_s, label = _track_line(words, number)
            if start_s <= previous_s:
                raise StateTrackError(f"line {number} of the state track: times must rise")
            previous_s = start_s
            first = round(start_s * FPS)
            states[first:] = automatic[first:] if label == "auto" else AvatarState[label.upper()]
    if previous_s < 0:
        raise StateTrackError("the state track has no lines; write for example: 2.5 listening")
    return states


def _track_line(words: list[str], number: int) -> tuple[float, str]:
    labels = [state.name.lower() for state in AvatarState] + ["auto"]
    where = f"line {number} of the state track"
    if len(words) != 2 or words[1].lower() not in labels:
        raise StateTrackError(f"{where} must be SECONDS and one of {', '.join(labels)}; it is {' '.join(words)!r}")
    try:
        start_s = float(words[0])
    except ValueError as error:
        raise StateTrackError(f"{where}: {words[0]!r} is not a time in seconds") from error
    if not 0 <= start_s < 1e6:
        raise StateTrackError(f"{where}: {words[0]} s is not a time in the recording")
    return start_s, words[1].lower()
