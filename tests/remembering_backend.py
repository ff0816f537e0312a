"""workers.Remembering as a module that a child process can open."""

from __future__ import annotations

from workers import Remembering as open_backend

__all__ = ["open_backend"]
