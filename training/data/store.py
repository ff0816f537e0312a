"""Arrays that grow on disk: one raw file per array, one small index, read back as memory maps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.errors import DataSettingsError

Array = NDArray[np.generic]
Spec = tuple[str, tuple[int, ...], DTypeLike]
"""Group, shape of one row, type. All arrays of a group have the same number of rows."""

_INDEX = "index.json"


class GrowingArrays:
    """Named append-only arrays in one folder, and the sources they were filled from (name -> bytes).

    The index is replaced after the rows are written: rows beyond it are left-overs of an interrupted run and are
    overwritten. Raises DataSettingsError when the folder holds arrays of other shapes.
    """

    def __init__(self, folder: Path, specs: dict[str, Spec]) -> None:
        self._folder = folder
        self._specs = specs
        self._layout = {name: [group, list(shape), np.dtype(kind).str] for name, (group, shape, kind) in specs.items()}
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / _INDEX
        state = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
        if state.get("layout", self._layout) != self._layout:
            raise DataSettingsError(f"{folder} is a cache of clips of another size; delete it or use another folder")
        self.rows: dict[str, int] = state.get("rows") or {group: 0 for group, _, _ in specs.values()}
        self.sources: dict[str, int] = state.get("sources", {})

    def append(self, arrays: dict[str, Array]) -> None:
        """Add rows to every array. Raises ValueError when arrays of one group differ in length."""
        added: dict[str, int] = {}
        for name, (group, shape, kind) in self._specs.items():
            rows = np.ascontiguousarray(arrays[name], dtype=kind).reshape(-1, *shape)
            if added.setdefault(group, len(rows)) != len(rows):
                raise ValueError(f"array {name} has {len(rows)} rows, others of its group have {added[group]}")
            self._write(name, rows)
        for group, count in added.items():
            self.rows[group] += count

    def save(self, source: str, size: int) -> None:
        """Make the appended rows part of the cache, as coming from a source of that many bytes."""
        self.sources[source] = size
        state = {"layout": self._layout, "rows": self.rows, "sources": self.sources}
        partial = self._folder / f"{_INDEX}.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, self._folder / _INDEX)

    def open(self, name: str) -> Array:
        """Read-only array [rows, ...]."""
        group, shape, kind = self._specs[name]
        if not self.rows[group]:
            return np.zeros((0, *shape), kind)
        return np.memmap(self._path(name), kind, "r", shape=(self.rows[group], *shape))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def _write(self, name: str, rows: Array) -> None:
        group, shape, kind = self._specs[name]
        path = self._path(name)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(self.rows[group] * int(np.prod(shape)) * np.dtype(kind).itemsize)
            file.write(rows.tobytes())
