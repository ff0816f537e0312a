"""What the server says, as JSON text; docs/protocol.md has every field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.server.errors import ServerError
from apps.server.protocol import RequestId
from engine.errors import AvatarError
from engine.types import SAMPLE_RATE_HZ

KEPT_EVENTS = 1024
"""Numbered events that are kept for a client that resumes: more than a cut of all utterances makes at once."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an utterance ended. samples: of it that were sent, at 16 kHz."""

    utterance: int
    samples: int
    reason: str

    @property
    def interrupted(self) -> bool:
        return self.reason not in ("complete", "empty")


@dataclass(slots=True)
class Journal:
    """Numbers the events that must not be lost, and remembers the newest."""

    newest: int = 0
    _kept: dict[int, str] = field(default_factory=dict)

    def note(self, kind: str, fields: Mapping[str, Any], request_id: RequestId = None) -> str:
        self.newest += 1
        text = say(kind, request_id, event=self.newest, **fields)
        self._kept[self.newest] = text
        self._kept.pop(self.newest - KEPT_EVENTS, None)
        return text

    def after(self, event: int) -> Sequence[str]:
        """What came after an event, as far as it is remembered."""
        return [text for number, text in self._kept.items() if number > event]


def say(kind: str, request_id: RequestId = None, /, **fields: Any) -> str:
    """A message of a type."""
    message = {"type": kind, **fields}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def error_text(error: AvatarError, fatal: bool, request_id: RequestId = None, utterance: int = 0) -> str:
    """An error of the tree; `error`'s own request id goes before the given one."""
    own = error.request_id if isinstance(error, ServerError) else None
    fields: dict[str, Any] = {"utterance": utterance} if utterance else {}
    return say(
        "error",
        own if own is not None else request_id,
        code=error.code,
        message=str(error),
        retryable=error.retryable,
        fatal=fatal,
        **fields,
    )


def position(samples: int) -> dict[str, float | int]:
    return {"position_s": round(samples / SAMPLE_RATE_HZ, 6), "position_samples": samples}


def finish_fields(finish: Finish, pts_us: int) -> dict[str, Any]:
    """Of playback.finished."""
    return {
        "utterance": finish.utterance,
        "pts_us": pts_us,
        **position(finish.samples),
        "interrupted": finish.interrupted,
        "reason": finish.reason,
    }
