"""`visavis.livekit`: see apps.plugs.livekit_agents."""

from __future__ import annotations

from apps.plugs.avatar import Source
from apps.plugs.livekit_agents import AvatarGenerator, AvatarSession

__all__ = ["AvatarGenerator", "AvatarSession", "Source"]
