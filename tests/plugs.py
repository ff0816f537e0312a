"""What the tests of the plugs share: people without weights, a tone to say, and WebRTC that stays on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.plugs.avatar import Source

PORTRAIT = Path(__file__).resolve().parent.parent / "assets" / "portraits" / "anna.jpg"
MOCK = Source(portrait=PORTRAIT, model="mock", size=128)

KEY = "a-key-of-enough-characters"

PATIENCE_S = 60.0
"""What a busy machine may take; nothing that works takes a tenth of it."""


def tone(seconds: float, rate_hz: int) -> bytes:
    """int16 PCM that is clearly no silence."""
    return (np.sin(np.arange(round(seconds * rate_hz)) * 600 / rate_hz) * 8000).astype("<i2").tobytes()


async def until(true: Callable[[], Any]) -> None:
    """Look again and again, since what is waited for is told to others."""
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up, "it did not come about in time"
        await asyncio.sleep(0.01)


def keep_webrtc_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioice looks for every address but loopback."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
