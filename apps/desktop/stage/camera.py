"""What other programs take for a camera, through pyvirtualcam (GPL-2.0, so an extra of its own: `virtualcam`).

It needs a driver: v4l2loopback on Linux, OBS Studio's on macOS and Windows, or Unity Capture on Windows. Pictures are
framed to 16:9, as call programs expect, and sent from a thread of their own, since drivers may block. The newest
counts: a driver that is slow misses pictures, it does not fall behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Condition, Thread
from typing import Protocol

from apps.desktop.notice import Notice
from apps.desktop.stage.contract import Pixels, Shown
from apps.desktop.stage.pictures import framed, without_holes
from engine.errors import AvatarError, ExtraMissingError
from engine.types import FPS

WIDTH_PX, HEIGHT_PX = 1280, 720


class CameraError(AvatarError):
    """The virtual camera cannot be opened, or was lost."""

    code = "camera_driver"


_DRIVERS = {
    "linux": "install v4l2loopback (Debian, Ubuntu: `sudo apt install v4l2loopback-dkms`), then run "
    "`sudo modprobe v4l2loopback exclusive_caps=1 card_label=visavis`",
    "darwin": "install OBS Studio 30 or newer, start its virtual camera once and allow it in the system settings, "
    "then quit OBS",
    "win32": "install OBS Studio, whose virtual camera is used, or Unity Capture; no other program may send to it",
}


def driver_advice(platform: str = sys.platform) -> str:
    """What to install so that there is a virtual camera."""
    return _DRIVERS.get(platform, "there is no virtual camera for this system; show the window in the call instead")


class Camera(Protocol):
    """What pyvirtualcam.Camera offers of use here."""

    @property
    def device(self) -> str: ...

    def send(self, frame: Pixels) -> None: ...

    def close(self) -> None: ...


OpenCamera = Callable[[int, int], Camera]
"""By width and height in pixels. May block; raises AvatarError."""


def open_virtual_camera(width_px: int, height_px: int) -> Camera:
    """Raises ExtraMissingError or CameraError, which say what to install."""
    try:
        import pyvirtualcam
    except ImportError as error:
        raise ExtraMissingError(
            "the virtual camera needs a package of its own; install it with: pip install 'visavis[virtualcam]'"
        ) from error
    try:
        camera: Camera = pyvirtualcam.Camera(width_px, height_px, FPS)
    except RuntimeError as error:  # All that it raises when no driver answers.
        raise CameraError(f"there is no virtual camera: {driver_advice()}") from error
    return camera


class CameraThread:
    """Opens a camera and feeds it until `stop`, which returns at once. What goes wrong becomes a notice."""

    def __init__(self, open_camera: OpenCamera, tell: Callable[[Notice], None]) -> None:
        self._open, self._tell = open_camera, tell
        self._changed = Condition()
        self._next: Shown | None = None
        self._stopped = False
        self.sent = self.missed = 0
        self._thread = Thread(target=self._run, name="visavis camera", daemon=True)
        self._thread.start()

    def send(self, shown: Shown) -> None:
        """The newest picture; one that was not yet sent gives way to it."""
        with self._changed:
            self.missed += self._next is not None
            self._next = shown
            self._changed.notify()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopped

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait until the camera is closed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            camera = self._open(WIDTH_PX, HEIGHT_PX)
        except AvatarError as error:
            self._tell(Notice(error.code, str(error), "error"))
            return
        self._tell(Notice("camera_on", f"Choose the camera {camera.device} in your call program.", "info"))
        try:
            while (shown := self._take()) is not None:
                camera.send(framed(without_holes(shown), WIDTH_PX, HEIGHT_PX))
                self.sent += 1
        except (RuntimeError, OSError) as error:
            text = f"The virtual camera stopped: {error}. Switch it off and on again."
            self._tell(Notice("camera_lost", text, "error"))
        finally:
            camera.close()

    def _take(self) -> Shown | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next is not None)
            shown, self._next = self._next, None
            return None if self._stopped else shown
