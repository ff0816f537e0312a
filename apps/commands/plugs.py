"""`visavis plugs`: one server with the wire shapes of Simli, LiveAvatar LITE and bitHuman, and WebRTC calls."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ArgumentError, FileMissingError

if TYPE_CHECKING:
    from apps.plugs.desk import LiveKitAccount, Settings

TOKEN_VARIABLE = "VISAVIS_TOKEN"
SECRET_VARIABLE = "LIVEKIT_API_SECRET"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_EXAMPLES = """examples:
  visavis plugs                             this machine only, the model in this process
  visavis plugs --model mock                without a model, to try a client in a second
  visavis plugs --server ws://gpu-box:8765/v1/avatar
                                            the pictures are computed there
then, for instance, with Simli's Python client:
  SimliClient("any key", SimliConfig("anna"), simliURL="http://127.0.0.1:8766")

Clients send the token where they send their API key. It may come from the environment variable VISAVIS_TOKEN, which is
also what --server is told. For rooms of this server's own (LiveKit mode of Simli's client, LiveAvatar without
livekit_config) give --livekit and the variables LIVEKIT_API_KEY and LIVEKIT_API_SECRET.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `plugs`."""
    plugs = subparsers.add_parser(
        "plugs",
        help="serve clients that were written for other avatars: Simli, LiveAvatar, bitHuman; and WebRTC",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plugs.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    plugs.add_argument("--port", type=int, default=8766, help="0 for any free one (default %(default)s)")
    plugs.add_argument("--token", help="what clients must send as their key; needed beyond the loopback")
    plugs.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name of this server"
    )
    plugs.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="pages of there may call, * for any"
    )
    computed = plugs.add_mutually_exclusive_group()
    computed.add_argument("--model", default="auto", metavar="NAME|PATH", help="bundle, or mock (default %(default)s)")
    computed.add_argument("--server", metavar="URL", help="a visavis server that computes, instead of this process")
    plugs.add_argument("--size", type=int, default=512, help="side of the pictures in pixels (default %(default)s)")
    plugs.add_argument("--portraits", type=Path, metavar="DIR", help="faces by name (default: those that are shipped)")
    plugs.add_argument(
        "--strict", action="store_true", help="refuse faces that are not there, instead of showing the first"
    )
    plugs.add_argument("--sessions", type=int, default=4, metavar="N", help="at once (default %(default)s)")
    plugs.add_argument(
        "--session-seconds", type=float, default=3600.0, metavar="S", help="longest session (default %(default)g)"
    )
    plugs.add_argument("--livekit", metavar="URL", help="LiveKit server to open rooms at")
    plugs.add_argument("--json", action="store_true", help="say that it is ready as one line of JSON")
    plugs.add_argument("--verbose", action="store_true", help="log what happens, to stderr")
    plugs.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> int:
    from apps.plugs.lookalike import serving

    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, stream=sys.stderr)
    settings = _settings(args)

    async def serve() -> int:
        from apps.plugs.avatar import load_engine

        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with AsyncExitStack() as stack:
            source = settings.source
            if source.model is not None:
                source = replace(source, engine=await stack.enter_async_context(await load_engine(source.model)))
            port = await stack.enter_async_context(serving(replace(settings, source=source), args.port))
            _say_ready(args.host, port, args.json)
            await stopped.wait()
        return 0

    return asyncio.run(serve())


def _settings(args: argparse.Namespace) -> Settings:
    """Raises ArgumentError or FileMissingError."""
    from apps.plugs.avatar import Source
    from apps.plugs.desk import Settings
    from apps.server.access import AccessConfig

    token = args.token or os.environ.get(TOKEN_VARIABLE)
    if args.sessions < 1 or not 0 < args.session_seconds:
        raise ArgumentError("--sessions must be 1 or more, and --session-seconds above 0")
    model = None if args.server else args.model
    return Settings(
        source=Source(url=args.server, token=os.environ.get(TOKEN_VARIABLE), model=model, size=args.size),
        portraits=_portraits(args.portraits),
        access=AccessConfig(
            host=args.host, token=token, hosts=tuple(args.allow_host), origins=tuple(args.allow_origin)
        ),
        sessions=args.sessions,
        session_s=args.session_seconds,
        strict=args.strict,
        livekit=_livekit(args.livekit),
    )


def _portraits(folder: Path | None) -> dict[str, Path]:
    from engine.bundle import shipped_models

    folder = folder or shipped_models().parent / "portraits"
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not files:
        raise FileMissingError(f"{folder} holds no portraits; give a folder of {', '.join(PICTURES)} files")
    return {path.stem: path for path in files}


def _livekit(url: str | None) -> LiveKitAccount | None:
    from apps.plugs.desk import LiveKitAccount

    if url is None:
        return None
    key, secret = os.environ.get("LIVEKIT_API_KEY"), os.environ.get(SECRET_VARIABLE)
    if not key or not secret:
        raise ArgumentError(f"--livekit needs the environment variables LIVEKIT_API_KEY and {SECRET_VARIABLE}")
    return LiveKitAccount(url, key, secret)


def _say_ready(host: str, port: int, as_json: bool) -> None:
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{port}"
    text = (
        json.dumps({"ready": True, "url": url, "port": port})
        if as_json
        else f"serving Simli, LiveAvatar, bitHuman and WebRTC at {url}"
    )
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
