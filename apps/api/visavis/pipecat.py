"""`visavis.pipecat`: see apps.plugs.pipecat_service."""

from __future__ import annotations

from apps.plugs.avatar import Source
from apps.plugs.pipecat_service import VisavisVideoService

__all__ = ["VisavisVideoService", "Source"]
