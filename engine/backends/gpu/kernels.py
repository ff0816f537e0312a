"""What TensorRT-RTX compiled for this GPU, kept between runs, so that only the first run waits for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from engine.backends.cache import cache_folder
from engine.backends.gpu.device import Device
from engine.backends.gpu.library import Library


class Kernels:
    """One cache of compiled kernels for all engines of a model. The library itself refuses one of another GPU, driver
    or version, and then compiles anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Let a runtime configuration of an engine use the cache."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._path is not None and self._path.is_file():
                self._cache.deserialize(self._path.read_bytes())
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write what was compiled to the user's cache."""
        if self._cache is None or self._path is None:
            return
        temporary = self._path.with_suffix(".part")
        try:
            temporary.write_bytes(bytes(self._cache.serialize()))
            temporary.replace(self._path)
        except OSError:
            pass  # It will be compiled again next time.


def open_kernels(library: Library, device: Device, key: str) -> Kernels | None:
    """The kept kernels of a model's engines on this GPU and driver; None for a library that has none."""
    if not library.compiles_on_device:
        return None
    folder = cache_folder("tensorrt")
    facts = "\n".join((library.version, device.name, device.architecture, device.driver, key))
    name = hashlib.sha256(facts.encode()).hexdigest()[:24]
    return Kernels(folder / f"{name}.kernels" if folder else None)
