"""Time as sessions see it: monotonic microseconds, and sleeping until a moment.

The event loop is the only source of time, so a loop with virtual time runs an hour's conversation in seconds.
"""

from __future__ import annotations

import asyncio

MICROSECONDS = 1_000_000


def now_us() -> int:
    """Monotonic time of the running event loop in microseconds."""
    return round(asyncio.get_running_loop().time() * MICROSECONDS)


async def sleep_until_us(moment_us: int) -> None:
    """Return at `moment_us` of `now_us`, at once when it has passed."""
    await asyncio.sleep(max(0, moment_us - now_us()) / MICROSECONDS)
