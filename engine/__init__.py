"""visavis runtime: one portrait and a voice in, a talking, listening, idling face out.

Names resolve lazily, so that `import engine` costs nothing and `import engine.model` never pulls in the runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.backends.notices import Notice, NoticeKind, notices_to
    from engine.engine import AvatarEngine, load
    from engine.errors import AvatarError
    from engine.events import EventKind, SessionEvent
    from engine.portrait.portrait import Portrait
    from engine.session import AvatarSession, Interrupted, SessionConfig
    from engine.supervisor import SupervisedWorker
    from engine.types import EXPRESSIONS, FPS, SAMPLE_RATE_HZ, AvatarState, VideoFrame

_HOME = {
    "AvatarEngine": "engine.engine",
    "load": "engine.engine",
    "AvatarSession": "engine.session",
    "EventKind": "engine.events",
    "Interrupted": "engine.session",
    "Notice": "engine.backends.notices",
    "NoticeKind": "engine.backends.notices",
    "notices_to": "engine.backends.notices",
    "Portrait": "engine.portrait.portrait",
    "SessionConfig": "engine.session",
    "SessionEvent": "engine.events",
    "SupervisedWorker": "engine.supervisor",
    "AvatarError": "engine.errors",
    "AvatarState": "engine.types",
    "EXPRESSIONS": "engine.types",
    "FPS": "engine.types",
    "SAMPLE_RATE_HZ": "engine.types",
    "VideoFrame": "engine.types",
}

__version__ = "0.1.0"
__all__ = [
    "EXPRESSIONS",
    "FPS",
    "SAMPLE_RATE_HZ",
    "AvatarEngine",
    "AvatarError",
    "AvatarSession",
    "AvatarState",
    "EventKind",
    "Interrupted",
    "Notice",
    "NoticeKind",
    "Portrait",
    "SessionConfig",
    "SessionEvent",
    "SupervisedWorker",
    "VideoFrame",
    "load",
    "notices_to",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
