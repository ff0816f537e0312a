"""A worker for LiveKit's stock bitHuman plugin, by its `AvatarSession(api_url="http://127.0.0.1:8766/bithuman")`.

Wire: livekit-plugins-bithuman 1.8.10, cloud mode. One POST, as a multipart form (own `api_url` and an expression
model) or as JSON, brings a LiveKit room and a token; from then on it is LiveKit's own avatar wire (see `rooms`). The
picture is `avatar_image` (uploaded, or base64 in JSON's `image`) or a portrait's name in `avatar_id`;
`avatar_image_url` is refused, since this server fetches nothing. bitHuman's models mean nothing here: every name is
answered with this server's.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from apps.plugs.desk import Desk, json_of, text_of
from engine.errors import ArgumentError


def routes(desk: Desk) -> list[web.RouteDef]:
    """For an aiohttp application."""

    async def launch(request: web.Request) -> web.Response:
        """POST /bithuman: answers once the avatar is in the room."""
        from apps.plugs.rooms import serve_in_background

        desk.admit(request)
        form = await _form(request)
        picture = form.get("picture")
        source = await desk.source_of(picture) if picture else desk.source(text_of(form, "avatar_id", ""))
        await serve_in_background(desk, text_of(form, "livekit_url"), text_of(form, "livekit_token"), source)
        return web.json_response({"status": "ok", "room_name": text_of(form, "room_name", "")})

    return [web.post("/bithuman", launch)]


async def _form(request: web.Request) -> dict[str, Any]:
    """Its fields; the picture's bytes as `picture`, when there is one. Raises ArgumentError."""
    if request.content_type == "application/json":
        body = await json_of(request)
        form = {**body, "avatar_id": body.get("agent_id", "")}
        if "image" in body:
            form["picture"] = _decoded(text_of(body, "image"))
        return form
    if request.content_type != "multipart/form-data":
        raise ArgumentError("send a multipart form or JSON")
    try:
        fields = await request.post()
    except ValueError as error:
        raise ArgumentError(f"the form cannot be read: {error}") from error
    if "avatar_image_url" in fields:
        raise ArgumentError("this server fetches no pictures; give avatar_image as a file, or avatar_id")
    form = {name: value for name, value in fields.items() if isinstance(value, str)}
    picture = fields.get("avatar_image")
    if isinstance(picture, web.FileField):
        form["picture"] = picture.file.read()
    return form


def _decoded(image: str) -> bytes:
    if image.startswith(("http://", "https://")):
        raise ArgumentError("this server fetches no pictures; give base64, or agent_id")
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArgumentError("`image` must be base64 of a picture file") from error
