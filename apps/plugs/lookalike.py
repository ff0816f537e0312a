"""One server with the wire shapes of Simli, LiveAvatar LITE and bitHuman, and WebRTC for anybody.

Their paths do not meet, so one port serves them all. `visavis plugs` starts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from apps.plugs.desk import Desk, Settings, errors, guard
from apps.plugs.given import needs
from apps.server.access import Access
from engine.errors import ArgumentError

try:
    from aiohttp import web
except ImportError as error:
    raise needs("webrtc", error) from error

DEFAULT_PORT = 8766
LARGEST_BODY = 16 << 20
SHUTDOWN_S = 2.0


def application(desk: Desk) -> web.Application:
    """All routes, behind the checks that are the same for all."""
    from apps.plugs import bithuman, calls, liveavatar, simli

    # Errors innermost as well, so that pages that are allowed can read them.
    checks = [errors, guard(Access(desk.settings.access)), errors]
    app = web.Application(middlewares=checks, client_max_size=LARGEST_BODY)
    for shape in (simli, liveavatar, bithuman, calls):
        app.add_routes(shape.routes(desk))
    return app


@asynccontextmanager
async def serving(settings: Settings, port: int = DEFAULT_PORT) -> AsyncIterator[int]:
    """Serve while the block runs, on the host of `settings.access`; gives the port. Port 0 takes any free one.

    Raises ArgumentError where others could reach a server that has no token, or when the port is taken.
    """
    host = settings.access.host
    desk = Desk(settings)
    runner = web.AppRunner(application(desk), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ArgumentError(f"port {port} of {host} cannot be used: {error.strerror}; choose another") from error
        yield int(runner.addresses[0][1])
    finally:
        await desk.aclose()
        await runner.cleanup()
