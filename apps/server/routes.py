"""What GET requests are answered: the page's files, what this server can do, pictures of the library, its health."""

from __future__ import annotations

import json
import mimetypes
from http import HTTPStatus
from pathlib import Path

from websockets.datastructures import Headers
from websockets.http11 import Response

from apps.server.refusals import body_of, headers_of, status_of
from engine.errors import AvatarError

PAGE_PATHS = ("", "index.html")
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".webmanifest": "application/manifest+json"}
_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; media-src 'self' blob:; "
    "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
"""Nothing from elsewhere runs in the page, but it may talk to any avatar server."""

_ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Files:
    """The page's files, by path; read once, since they are small and a request must not wait for a disk."""

    def __init__(self, folder: Path | None) -> None:
        self._files: dict[str, tuple[str, bytes]] = {}
        for path in sorted(folder.rglob("*")) if folder is not None and folder.is_dir() else []:
            if path.is_file() and not path.name.startswith((".", "_")) and path.suffix != ".py":
                assert folder is not None
                self._files[path.relative_to(folder).as_posix()] = (_type(path), path.read_bytes())

    def answer(self, path: str) -> Response | None:
        """None for a path that is none of these."""
        name = path.lstrip("/")
        found = self._files.get("index.html" if name in PAGE_PATHS else name)
        return None if found is None else response(200, found[0], found[1], {"Content-Security-Policy": _POLICY})


def response(status: int, content_type: str, body: bytes, more: dict[str, str] | None = None) -> Response:
    """An HTTP answer, after which the connection is closed."""
    headers = Headers({"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"})
    headers.update({"Cache-Control": "no-cache", **_ALWAYS, **(more or {})})
    return Response(status, HTTPStatus(status).phrase, headers, body)


def shared(answer: Response, origin: str | None) -> Response:
    """The answer for a page of another origin that may connect."""
    if origin is not None:
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Vary"] = "Origin"
    return answer


def json_response(value: object, status: int = 200) -> Response:
    return response(status, "application/json", json.dumps(value).encode(), {"Cache-Control": "no-store"})


def refusal(error: AvatarError) -> Response:
    """What whoever may not come in is told."""
    more = headers_of(error)
    return response(status_of(error), more.pop("Content-Type"), body_of(error), more)


def not_found() -> Response:
    error = {"code": "not_found", "message": "there is nothing at this address", "retryable": False}
    return json_response({"error": error}, 404)


def upgrade_required() -> Response:
    error = {"code": "upgrade_required", "message": "this address speaks WebSocket only", "retryable": False}
    return response(426, "application/json", json.dumps({"error": error}).encode(), {"Upgrade": "websocket"})


def _type(path: Path) -> str:
    guessed = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
