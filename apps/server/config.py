"""What `visavis serve` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apps.server.access import AccessConfig
from apps.server.limits import Limits
from engine.bundle import AUTO


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """port: 0 for any free one. backend: see engine.engine.load. portraits: a folder. size_px: of the pictures, where
    a client does not say; max_size_px: the most that it may ask for. grace_s: how long a lost client may take to come
    back. page: the folder whose files are served at `/`, None for no page. pipeline: see engine.pipeline.plan.
    """

    portraits: Path
    port: int = 8765
    model: str = AUTO
    backend: str = "auto"
    threads: int | None = None
    pipeline: str | None = None
    size_px: int = 256
    max_size_px: int = 512
    grace_s: float = 20.0
    page: Path | None = None
    access: AccessConfig = AccessConfig()
    limits: Limits = Limits()
