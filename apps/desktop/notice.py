"""What the app tells its user: a sentence, and a way on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Notice:
    """code: stable, for programs and tests; text: for people, may change."""

    code: str
    text: str
    level: Level
