"""Artefacts and where they are kept: origins, tampering, builds by several processes at once, bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.backends import engines
from engine.backends.artefacts import MANIFEST, Artefact, Origin, read_artefact, write_artefact
from engine.backends.cache import FOLDER_VARIABLE, Memory
from engine.backends.engines import LIMIT_VARIABLE, obtained, prune
from engine.backends.notices import Notice, NoticeKind, notices_to
from engine.errors import ArtefactCorruptError

ROOT = Path(__file__).resolve().parent.parent
ORIGIN = Origin(
    library="library",
    library_version="1.2",
    device="GPU One",
    driver="570.1",
    precisions={"decode": "fp16"},
    sources={"decode.onnx": "ab" * 32},
    settings={"frames": 12, "cuda graphs": True},
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test keeps engines."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    return tmp_path / "cache" / engines.FOLDER


class Builder:
    """Writes one file, and counts."""

    def __init__(self, content: bytes = b"engine", check: Callable[[Path], None] = lambda _: None) -> None:
        self.content, self.check, self.times = content, check, 0

    def __call__(self, place: Path) -> None:
        self.times += 1
        self.check(place)
        (place / "decode.engine").write_bytes(self.content)


def obtain(builder: Builder, origin: Origin = ORIGIN, wait_s: float = 5.0) -> bytes:
    with obtained(origin, builder, "engines of x", wait_s=wait_s) as root:
        return read_artefact(root).file("decode.engine").read_bytes()


def told(builder: Builder, origin: Origin = ORIGIN) -> list[str]:
    """The lines that obtaining it gives."""
    notices: list[Notice] = []
    with notices_to(notices.append):
        obtain(builder, origin)
    assert all(notice.kind is NoticeKind.BUILDING for notice in notices)
    return [notice.text for notice in notices]


def written(root: Path) -> Artefact:
    root.mkdir()
    (root / "a.blob").write_bytes(b"12345")
    return write_artefact(root, ORIGIN)


def test_manifest_says_where_it_comes_from(tmp_path: Path) -> None:
    artefact = written(tmp_path / "x")
    assert artefact.origin == ORIGIN and artefact.file("a.blob").read_bytes() == b"12345"
    manifest = json.loads((tmp_path / "x" / MANIFEST).read_text())
    assert manifest["files"]["a.blob"]["bytes"] == 5 and manifest["created_by"].startswith("visavis ")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"library_version": "1.3"}, "library version is 1.2, not 1.3"),
        ({"device": "GPU Two"}, "device is GPU One, not GPU Two"),
        ({"driver": "580"}, "driver is 570.1, not 580"),
        ({"precisions": {"decode": "int8"}}, "precisions differ in decode"),
        ({"sources": {"decode.onnx": "cd" * 32}}, "sources differ in decode.onnx"),
        ({"settings": {"frames": 8, "cuda graphs": True}}, "settings differ in frames"),
    ],
)
def test_every_difference_counts_and_is_named(changed: dict[str, object], says: str) -> None:
    wanted = replace(ORIGIN, **changed)  # type: ignore[arg-type]
    assert wanted.key != ORIGIN.key
    assert ORIGIN.differences(wanted) == [f"its {says}"] and ORIGIN.differences(ORIGIN) == []


def test_altered_and_absent_files_are_refused(tmp_path: Path) -> None:
    artefact = written(tmp_path / "x")
    (tmp_path / "x" / "a.blob").write_bytes(b"12346")
    with pytest.raises(ArtefactCorruptError, match="not the file its manifest describes"):
        artefact.verify()
    (tmp_path / "x" / "a.blob").unlink()
    with pytest.raises(ArtefactCorruptError, match=r"lacks a\.blob"):
        artefact.verify()
    with pytest.raises(ArtefactCorruptError, match=r"lacks other\.blob"):
        artefact.file("other.blob")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"files": {"../a": {"sha256": "0"}}},
        {"files": ["a"]},
        {"origin": {"library": "x", "library_version": "1", "surprise": 1}},
        {"origin": None},
        {"origin": {"library": "x", "library_version": 1}},
        {"origin": {"library": "x", "library_version": "1", "sources": []}},
    ],
)
def test_manifest_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    written(tmp_path / "x")
    path = tmp_path / "x" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtefactCorruptError, match="artefact.json"):
        read_artefact(tmp_path / "x")


def test_built_once_and_then_read(folder: Path) -> None:
    first, second = Builder(b"one"), Builder(b"two")
    assert told(first) == ["engines of x for this machine"]
    assert told(second) == [] and obtain(second) == b"one"
    assert (first.times, second.times) == (1, 0)
    assert [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")] == [ORIGIN.key]


def test_new_driver_builds_again_and_says_why() -> None:
    obtain(Builder())
    again = Builder(b"new")
    assert told(again, replace(ORIGIN, driver="580.2")) == [
        "engines of x for this machine, since its driver is 570.1, not 580.2"
    ]
    assert again.times == 1 and obtain(Builder()) == b"engine", "the old one is still there for the old driver"


@pytest.mark.parametrize("damage", ["engine", "manifest", "lost", "swapped"])
def test_unsound_entry_is_built_again(folder: Path, damage: str) -> None:
    obtain(Builder(b"right"))
    entry = folder / ORIGIN.key
    if damage == "engine":
        (entry / "decode.engine").write_bytes(b"wrong")
    elif damage == "manifest":
        (entry / MANIFEST).write_text("{")
    elif damage == "lost":
        (entry / "decode.engine").unlink()
    else:
        write_artefact(entry, replace(ORIGIN, device="GPU Two"))
    again = Builder(b"right again")
    assert len(told(again)) == 1 and again.times == 1
    assert obtain(Builder()) == b"right again"


def test_failed_build_leaves_nothing(folder: Path) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        obtain(Builder(check=fail))
    assert [entry.name for entry in folder.iterdir()] == [engines._LOCKS]
    assert obtain(Builder()) == b"engine"


def test_without_a_folder_it_is_built_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    builder = Builder()
    assert obtain(builder) == obtain(builder) == b"engine" and builder.times == 2


def test_full_disk_costs_only_the_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engines, "_put", full)
    notices: list[Notice] = []
    with notices_to(notices.append):
        assert obtain(Builder()) == b"engine"
    assert any("cannot be kept" in notice.text and "No space left" in notice.text for notice in notices)


_PROCESS = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}]
from engine.backends.artefacts import Origin
from engine.backends.engines import obtained
def build(place):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    time.sleep({seconds})
    (place / "decode.engine").write_bytes(b"x")
with obtained(Origin("library", "1"), build, "engines", wait_s=60) as root:
    assert (root / "decode.engine").read_bytes() == b"x"
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    code = _PROCESS.format(root=str(ROOT), log=str(tmp_path / "log"), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


def builds(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def test_processes_at_once_build_once(tmp_path: Path) -> None:
    first = start(tmp_path, 1.5)
    wait_for(lambda: builds(tmp_path) == 1)
    others = [start(tmp_path, 0.0) for _ in range(2)]
    results = [process.communicate(timeout=120)[1] for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0], results
    assert builds(tmp_path) == 1


def test_a_killed_builder_leaves_no_lock(tmp_path: Path, folder: Path) -> None:
    process = start(tmp_path, 600.0)
    wait_for(lambda: builds(tmp_path) == 1)
    process.kill()
    process.communicate(timeout=30)
    began = time.monotonic()
    builder = Builder()
    with obtained(Origin("library", "1"), builder, "engines", wait_s=60.0):
        assert builder.times == 1 and time.monotonic() - began < 30
    left = list(folder.glob(".new-*"))
    assert len(left) == 1, "what it was making"
    os.utime(left[0], (0, 0))
    prune(folder)
    assert not list(folder.glob(".new-*")), "nobody's any more"


def test_who_waits_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(engines, "_try_lock", lambda _: next(answers))
    monkeypatch.setattr(engines, "_PATIENCE_S", 0.0)
    assert told(Builder())[0] == "waiting for another process, which builds engines of x"


@pytest.mark.skipif(sys.platform == "win32", reason="locks by flock")
def test_who_has_waited_long_enough_builds(folder: Path) -> None:
    import fcntl

    (folder / engines._LOCKS).mkdir(parents=True)
    with (folder / engines._LOCKS / ORIGIN.key[:1]).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert obtain(Builder(), wait_s=0.2) == b"engine"


def test_size_is_bounded_and_the_longest_unused_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    origins = [replace(ORIGIN, settings={"number": n}) for n in range(3)]
    for age, origin in enumerate(origins[:2]):
        obtain(Builder(bytes(400_000)), origin)
        os.utime(folder / origin.key / MANIFEST, (1_000 + age, 1_000 + age))
    obtain(Builder(), origins[0])  # Used, so no longer the oldest.
    obtain(Builder(bytes(400_000)), origins[2])
    assert {entry.name for entry in folder.glob("[!.]*")} == {origins[0].key, origins[2].key}


def test_one_too_large_is_kept_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    obtain(Builder())
    obtain(Builder(), replace(ORIGIN, driver="other"))
    assert len(list(folder.glob("[!.]*"))) == 1


def test_memory_keeps_the_newest(tmp_path: Path) -> None:
    memory = Memory("x.json", most=2)
    assert memory.recall() == {}
    for key in ("a", "b", "a", "c"):
        memory.keep(key, {"of": key})
    assert memory.recall() == {"a": {"of": "a"}, "c": {"of": "c"}}
    (tmp_path / "cache" / "choices" / "x.json").write_text('{"a": 3, "b": {"of": "b"}}')
    assert memory.recall() == {"b": {"of": "b"}}
