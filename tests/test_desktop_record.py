"""Films of the desktop app: in step, whole, and playable whatever ends them. And its virtual camera."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from apps.desktop.notice import Notice
from apps.desktop.stage.camera import HEIGHT_PX, WIDTH_PX, CameraError, CameraThread, driver_advice, open_virtual_camera
from apps.desktop.stage.contract import Shown
from apps.desktop.stage.pictures import BEHIND, framed, without_holes
from apps.desktop.stage.recorder import MOST_FRAMES, MOST_PICTURES, Recorder
from engine.errors import OutputFolderMissingError, OutputNotWritableError
from engine.types import FPS, FRAME_US, SAMPLES_PER_FRAME, AvatarState

SIDE_PX = 64
PATIENCE_S = 20.0
IN_STEP_S = 0.04


def shown(index: int, level: int = 40, side_px: int = SIDE_PX) -> Shown:
    image = np.full((side_px, side_px, 3), level, np.uint8)
    return Shown(image, None, index * FRAME_US, AvatarState.IDLE, 0, None)


def marked(index: int) -> tuple[Shown, np.ndarray]:
    """Dark and silent, but once in a second, in the same frame, white and loud."""
    marker = index % FPS == 10
    sound = np.sin(np.arange(SAMPLES_PER_FRAME) * 0.5) if marker else np.zeros(SAMPLES_PER_FRAME)
    return shown(index, 240 if marker else 20), sound.astype(np.float32)


@dataclass
class Watched:
    """What a player makes of a film. flashes_s, beeps_s: when markers begin."""

    pictures: int = 0
    seconds_sound: float = 0.0
    flashes_s: list[float] = field(default_factory=list)
    beeps_s: list[float] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def watch(path: Path) -> Watched:
    film, light, loud = Watched(), False, False
    with av.open(str(path)) as container:
        film.metadata = dict(container.metadata)
        for packet in container.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    film.pictures += 1
                    now_light = frame.to_ndarray(format="gray").mean() > 128
                    if now_light and not light:
                        film.flashes_s.append(float(frame.time))
                    light = now_light
                else:
                    pcm = np.abs(np.asarray(frame.to_ndarray(), np.float32).ravel())
                    for start in range(0, len(pcm), 240):
                        now_loud = pcm[start : start + 240].max() > 0.3
                        if now_loud and not loud:
                            film.beeps_s.append(float(frame.time) + start / frame.sample_rate)
                        loud = now_loud
                    film.seconds_sound += len(pcm) / frame.sample_rate
    return film


def recorded(path: Path, frames: list[tuple[Shown, np.ndarray]]) -> list[Notice]:
    notices: list[Notice] = []
    recorder = Recorder(path, notices.append)
    for one, sound in frames:
        while recorder.running and len(recorder._waiting) > MOST_PICTURES // 2:
            time.sleep(0.001)
        recorder.add(one, sound)
    recorder.stop()
    assert recorder.wait(PATIENCE_S)
    return notices


def in_step(film: Watched, markers: int) -> None:
    assert len(film.flashes_s) == len(film.beeps_s) == markers
    assert np.abs(np.subtract(film.flashes_s, film.beeps_s)).max() <= IN_STEP_S


def test_picture_and_sound_are_in_step(tmp_path: Path) -> None:
    notices = recorded(tmp_path / "film.mp4", [marked(i) for i in range(8 * FPS)])
    film = watch(tmp_path / "film.mp4")
    assert [notice.code for notice in notices] == ["recording_saved"]
    assert film.pictures == 8 * FPS and film.seconds_sound == pytest.approx(8, abs=0.05)
    in_step(film, 8)
    assert film.metadata["ai_generated"] == "true"


def test_frames_that_never_came_are_silent_and_leave_the_rest_in_step(tmp_path: Path) -> None:
    frames = [marked(i) for i in range(6 * FPS) if not 30 <= i < 43 and i != 80]
    recorded(tmp_path / "film.mp4", frames)
    film = watch(tmp_path / "film.mp4")
    # The marker of frame 35 is in the gap.
    in_step(film, 5)
    assert film.seconds_sound == pytest.approx(6, abs=0.05)


def test_a_busy_machine_loses_pictures_and_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[Notice] = []
    go = threading.Event()
    take = Recorder._take
    monkeypatch.setattr(Recorder, "_take", lambda self: go.wait(PATIENCE_S) and take(self))
    recorder = Recorder(tmp_path / "film.mp4", notices.append)
    for i in range(4 * FPS):
        recorder.add(*marked(i))
    assert recorder.missed == 4 * FPS - MOST_PICTURES
    recorder.stop()
    go.set()
    assert recorder.wait(PATIENCE_S)
    film = watch(tmp_path / "film.mp4")
    # It begins with the first picture that is left.
    assert film.pictures == MOST_PICTURES
    assert film.seconds_sound == pytest.approx(MOST_PICTURES / FPS, abs=0.05)
    in_step(film, 2)
    assert notices[0].level == "warning" and "missing" in notices[0].text


def test_a_disk_that_stands_still_ends_the_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[Notice] = []
    go = threading.Event()
    take = Recorder._take
    monkeypatch.setattr(Recorder, "_take", lambda self: go.wait(PATIENCE_S) and take(self))
    recorder = Recorder(tmp_path / "film.mp4", notices.append)
    silence = np.zeros(SAMPLES_PER_FRAME, np.float32)
    for i in range(MOST_FRAMES + 2):
        recorder.add(shown(i, side_px=16), silence)
    assert not recorder.running and len(recorder._waiting) == MOST_FRAMES
    go.set()
    assert recorder.wait(PATIENCE_S)
    assert notices[0].code == "recording_empty"


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Files of this process may not grow beyond a size, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_film_and_leaves_it_playable(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    noise = np.random.default_rng(0)
    frames = [
        (replace(one, image=noise.integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)), sound)
        for one, sound in (marked(i) for i in range(10 * FPS))
    ]
    small_disk(600_000)
    notices = recorded(tmp_path / "film.mp4", frames)
    assert [notice.code for notice in notices] == ["recording_failed"]
    assert "disk is full" in notices[0].text and str(tmp_path) in notices[0].text
    film = watch(tmp_path / "film.mp4")
    assert film.pictures >= FPS and film.seconds_sound > 0.5


_CRASHES = """
import os, sys, time
from pathlib import Path
from tests.test_desktop_record import marked
from apps.desktop.stage.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), print)
for i in range(200):
    recorder.add(*marked(i))
    while recorder._waiting:
        time.sleep(0.001)
os._exit(9)
"""


def test_a_crash_leaves_the_film_playable(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", _CRASHES, str(path)], env=environment, cwd=root, timeout=60)
    assert done.returncode == 9
    film = watch(path)
    # Of eight seconds, the last two may be lost.
    assert film.pictures >= 6 * FPS
    assert np.abs(np.subtract(film.flashes_s[:5], film.beeps_s[:5])).max() <= IN_STEP_S


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputFolderMissingError):
        Recorder(tmp_path / "none" / "film.mp4", print)
    with pytest.raises(OutputNotWritableError, match=r"\.mp4"):
        Recorder(tmp_path / "film.avi", print)
    assert recorded(tmp_path / "film.mp4", [])[0].code == "recording_empty"
    assert not (tmp_path / "film.mp4").exists()


def test_another_size_amid_the_film_is_framed(tmp_path: Path) -> None:
    silence = np.zeros(SAMPLES_PER_FRAME, np.float32)
    frames = [(shown(i, 200, SIDE_PX if i < 10 else 2 * SIDE_PX), silence) for i in range(20)]
    recorded(tmp_path / "film.mp4", frames)
    with av.open(str(tmp_path / "film.mp4")) as container:
        sizes = {(frame.height, frame.width) for frame in container.decode(video=0)}
    assert sizes == {(SIDE_PX, SIDE_PX)}


def test_who_was_cut_out_stands_before_one_colour() -> None:
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[..., 3] = [0, 128, 255, 255]
    cut = replace(shown(0), image=rgba[..., :3], alpha=rgba[..., 3], rgba=rgba)
    row = without_holes(cut)[0]
    assert row[0].tolist() == list(BEHIND) and row[3].tolist() == [200, 200, 200]
    assert BEHIND[0] < row[1, 0] < 200


def test_a_square_is_framed_for_a_call() -> None:
    wide = framed(np.full((512, 512, 3), 250, np.uint8), WIDTH_PX, HEIGHT_PX)
    assert wide.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert wide[360, 640].tolist() == [250] * 3 and wide[360, 100].tolist() == list(BEHIND)
    assert wide[0, 640].tolist() == [250] * 3


class FakeBackend:
    """The interface of pyvirtualcam's backends."""

    sent: list[np.ndarray] = []
    closed = 0
    hold = threading.Event()
    fails = False

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None, **_: Any) -> None:
        assert (width, height, fps) == (WIDTH_PX, HEIGHT_PX, FPS)

    def close(self) -> None:
        type(self).closed += 1

    def send(self, frame: np.ndarray) -> None:
        if self.fails:
            raise RuntimeError("the device is gone")
        self.hold.wait(PATIENCE_S)
        self.sent.append(np.array(frame).reshape(HEIGHT_PX, WIDTH_PX, 3))

    def device(self) -> str:
        return "/dev/video9"

    def native_fourcc(self) -> int | None:
        return None


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> type[FakeBackend]:
    """The only one that pyvirtualcam knows."""
    pyvirtualcam = pytest.importorskip("pyvirtualcam", reason="the extra `virtualcam` is not installed")

    class Backend(FakeBackend):
        sent: list[np.ndarray] = []
        hold = threading.Event()

    monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {"fake": Backend})
    return Backend


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_camera_shows_the_newest_picture(backend: type[FakeBackend]) -> None:
    notices: list[Notice] = []
    camera = CameraThread(open_virtual_camera, notices.append)
    camera.send(shown(0, 10))
    until(lambda: camera._next is None)
    for i in range(1, 6):
        camera.send(shown(i, 10 + i))
    backend.hold.set()
    until(lambda: camera.sent == 2)
    camera.stop()
    camera.join(PATIENCE_S)
    assert [int(frame[360, 640, 0]) for frame in backend.sent] == [10, 15]
    assert camera.missed == 4 and backend.closed == 1 and not camera.running
    assert notices[0].code == "camera_on" and "/dev/video9" in notices[0].text


def test_a_camera_that_is_lost_is_told(backend: type[FakeBackend]) -> None:
    notices: list[Notice] = []
    backend.fails = True
    camera = CameraThread(open_virtual_camera, notices.append)
    camera.send(shown(0))
    until(lambda: not camera.running)
    assert [notice.code for notice in notices] == ["camera_on", "camera_lost"] and backend.closed == 1


def test_a_missing_driver_is_told_with_what_to_install(backend: type[FakeBackend]) -> None:
    import pyvirtualcam

    pyvirtualcam.camera.BACKENDS.clear()
    notices: list[Notice] = []
    camera = CameraThread(open_virtual_camera, notices.append)
    camera.join(PATIENCE_S)
    assert notices[0].code == CameraError.code and driver_advice() in notices[0].text
    assert "v4l2loopback" in driver_advice("linux") and "OBS" in driver_advice("win32")


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    notices: list[Notice] = []
    CameraThread(open_virtual_camera, notices.append).join(PATIENCE_S)
    assert notices[0].code == "extra_missing" and "visavis[virtualcam]" in notices[0].text
