"""`visavis.fastrtc`: see apps.plugs.fastrtc_handler."""

from __future__ import annotations

from apps.plugs.avatar import Source
from apps.plugs.fastrtc_handler import AvatarHandler

__all__ = ["AvatarHandler", "Source"]
