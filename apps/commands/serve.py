"""`visavis serve`: sessions over WebSockets, and the web page."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ExtraMissingError

if TYPE_CHECKING:
    from apps.server.app import AvatarServer
    from apps.server.config import ServeConfig
    from apps.speech import Speaker

TOKEN_VARIABLE = "VISAVIS_TOKEN"
_STOPPED_BY_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EXAMPLES = f"""examples:
  visavis serve                                     this machine only, at http://127.0.0.1:8765
  visavis serve --model mock                        without a model, to try a client in a second
  visavis serve --host 0.0.0.0 --token SECRET       for others; put a proxy that speaks TLS before it
  visavis serve --portraits faces --sessions 4 --json

The token may come from the environment variable {TOKEN_VARIABLE}, which other users of the machine cannot see.
SIGTERM or Ctrl-C lets sessions end, up to --drain seconds; the second one stops at once.
The protocol is described in docs/protocol.md.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `serve`."""
    serve = subparsers.add_parser(
        "serve",
        help="serve sessions over WebSockets, and the web page",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_network(serve)
    _add_model(serve)
    _add_sessions(serve)
    serve.add_argument(
        "--speech",
        default="auto",
        metavar="CMD",
        help="what speaks texts: auto, none, hibari, kokoro, espeak-ng, or a command line (default %(default)s)",
    )
    serve.add_argument("--json", action="store_true", help="say that it is ready as one line of JSON")
    serve.add_argument("--verbose", action="store_true", help="log what happens, to stderr")
    serve.set_defaults(handler=_run)


def _add_network(serve: argparse.ArgumentParser) -> None:
    network = serve.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    network.add_argument("--port", type=int, default=8765, help="0 for any free one (default %(default)s)")
    network.add_argument("--token", help="what clients must know, 16 characters at least; needed beyond the loopback")
    network.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name of this server"
    )
    network.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="pages of there may connect, * for any"
    )
    network.add_argument(
        "--trust-proxy", action="append", default=[], metavar="NETWORK", help="whose X-Forwarded-For is believed"
    )


def _add_model(serve: argparse.ArgumentParser) -> None:
    model = serve.add_argument_group("model")
    model.add_argument("--model", default="auto", metavar="NAME|PATH", help="bundle, or mock (default %(default)s)")
    model.add_argument("--backend", default="auto", help="see `visavis doctor` (default %(default)s)")
    model.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    model.add_argument("--pipeline", metavar="PLAN", help="stages on places of their own, see docs/export.md")
    model.add_argument("--size", type=int, default=256, help="side of the pictures in pixels (default %(default)s)")
    model.add_argument(
        "--max-size", type=int, default=512, metavar="SIZE", help="the most a client may ask for (default %(default)s)"
    )
    model.add_argument(
        "--portraits", type=Path, metavar="DIR", help="library of portraits (default: those that are shipped)"
    )


def _add_sessions(serve: argparse.ArgumentParser) -> None:
    sessions = serve.add_argument_group("sessions")
    sessions.add_argument("--sessions", type=int, metavar="N", help="at once (default: what the machine sustains)")
    sessions.add_argument("--per-address", type=int, metavar="N", help="at once from one address (default: any)")
    sessions.add_argument("--session-seconds", type=float, metavar="S", help="longest session (default: any)")
    sessions.add_argument("--idle-seconds", type=float, metavar="S", help="longest without a request (default: any)")
    sessions.add_argument(
        "--grace", type=float, default=20.0, metavar="S", help="kept for a lost client (default %(default)g s)"
    )
    sessions.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="given to sessions at the end (default %(default)g s)"
    )


def _run(args: argparse.Namespace) -> int:
    try:
        from apps.server.app import AvatarServer, share_fairly
    except ModuleNotFoundError as error:
        raise ExtraMissingError(f"serving needs {error.name}; pip install 'visavis[server]'") from error
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, stream=sys.stderr)
    share_fairly()
    return asyncio.run(_serve(AvatarServer(_config(args), _speaker(args.speech)), args.json))


def _speaker(choice: str) -> Speaker | None:
    """None where nothing is to speak, or nothing that can is installed. Raises SpeakerMissingError."""
    from apps.speech import AUTO, installed_speaker, open_speaker

    if choice == "none":
        return None
    return installed_speaker() if choice == AUTO else open_speaker(choice)


def _config(args: argparse.Namespace) -> ServeConfig:
    """Raises ArgumentError."""
    from apps.server.access import AccessConfig
    from apps.server.config import ServeConfig
    from apps.server.limits import Limits
    from engine.bundle import shipped_models
    from engine.engine import MAX_SIZE_PX

    access = AccessConfig(
        host=args.host,
        token=args.token or os.environ.get(TOKEN_VARIABLE),
        hosts=tuple(args.allow_host),
        origins=tuple(args.allow_origin),
        trusted_proxies=tuple(args.trust_proxy),
    )
    limits = replace(
        Limits(),
        sessions=args.sessions,
        caller_sessions=args.per_address,
        session_s=args.session_seconds,
        idle_s=args.idle_seconds,
        drain_s=args.drain,
    )
    return ServeConfig(
        portraits=args.portraits or shipped_models().parent / "portraits",
        port=args.port,
        model=args.model,
        backend=args.backend,
        threads=args.threads,
        pipeline=args.pipeline,
        size_px=args.size,
        max_size_px=min(MAX_SIZE_PX, max(args.size, args.max_size)),
        grace_s=args.grace,
        page=Path(__file__).resolve().parents[1] / "web",
        access=access,
        limits=limits,
    )


async def _serve(server: AvatarServer, as_json: bool) -> int:
    """Until a signal; sessions may end after the first, the second stops at once."""
    signals = _signals()
    starting = asyncio.create_task(server.start(), name="server-start")
    stopping = asyncio.create_task(signals.get(), name="server-signal")
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            starting.cancel()
            return 0
        await starting
        _say_ready(server, as_json)
        await stopping
        draining = asyncio.create_task(server.drain(), name="server-drain")
        hurrying = asyncio.create_task(signals.get(), name="server-hurry")
        await asyncio.wait([draining, hurrying], return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        return 0
    finally:
        await server.aclose()


def _signals() -> asyncio.Queue[int]:
    """Those that stop the server, as they come."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in _STOPPED_BY_SIGNALS:
        try:
            loop.add_signal_handler(number, signals.put_nowait, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(signals.put_nowait, got))
    return signals


def _say_ready(server: AvatarServer, as_json: bool) -> None:
    host = server.config.access.host
    address = f"{f'[{host}]' if ':' in host else host}:{server.port}"
    ready = {
        "ready": True,
        "url": f"http://{address}/",
        "websocket": f"ws://{address}/v1/avatar",
        "port": server.port,
        "model": server.worker.info.model,
        "backend": server.worker.info.backend,
        "sessions": server.gate.places,
        "pid": os.getpid(),
    }
    text = f"serving {ready['model']} ({ready['backend']}), {ready['sessions']} sessions at once: {ready['url']}"
    sys.stdout.write((json.dumps(ready) if as_json else text) + "\n")
    sys.stdout.flush()
