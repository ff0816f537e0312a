"""Errors a user of the puppets can meet."""

from __future__ import annotations

from engine.errors import DataError, PortraitError


class AssetsMissing(DataError):
    """A file that the data engine needs is not under --assets."""

    code = "assets_missing"


class PortraitUnusable(PortraitError):
    """A photograph cannot become a puppet; the message says why."""

    code = "portrait_unusable"


class GraphicsUnavailable(DataError):
    """No OpenGL context can be made."""

    code = "graphics_unavailable"
