"""Where pictures and sound go beside the window: loudspeaker, film, virtual camera, screenshot.

While the sound is played, pictures wait for as long as the sound device takes to sound it, so that whoever watches the
window or the camera sees a mouth that moves with what is heard. A film takes both as they come: in it they are one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.desktop.notice import Notice
from apps.desktop.stage.background import in_background
from apps.desktop.stage.camera import CameraThread, OpenCamera, open_virtual_camera
from apps.desktop.stage.contract import Floats, Loudspeaker, Shown
from apps.desktop.stage.pictures import save_picture
from apps.desktop.stage.recorder import Recorder
from engine.clock import MICROSECONDS
from engine.errors import AvatarError

LONGEST_DELAY_US = 500_000
"""A device that claims to take longer is not waited for."""

_FOLLOW = 0.1
"""How much of a change of the device's latency each picture takes up."""

_IN_ORDER_S = 1e-6

Tell = Callable[[Notice], None]
Out = Callable[[Shown, int | None], None]
"""Gets a picture at its moment, and by how many microseconds the sound that is heard is ahead of it."""

OpenSpeaker = Callable[[str | None], Loudspeaker]
"""By the name of a device, None for the usual one; what it returns is not yet started. Raises AvatarError."""


def open_usual_speaker(device: str | None) -> Loudspeaker:
    """Raises AvatarError when there is no way to play sound."""
    from apps.desktop.audio.echo import usual_canceller
    from apps.desktop.audio.speaker import Speaker

    echo = usual_canceller()
    return Speaker(device, played=None if echo is None else echo.played)


@dataclass(frozen=True, slots=True)
class Doors:
    """How devices are opened; tests have their own."""

    open_speaker: OpenSpeaker = open_usual_speaker
    open_camera: OpenCamera = open_virtual_camera


class Outlets:
    """Belongs to the stage's event loop, but for `tell`, which is called from any thread."""

    def __init__(self, tell: Tell, doors: Doors) -> None:
        self._tell, self._doors = tell, doors
        self._speaker: Loudspeaker | None = None
        self._speaker_wanted: tuple[bool, str | None] = (False, None)
        self._recorder: Recorder | None = None
        self._camera: CameraThread | None = None
        self._last: Shown | None = None
        self._delay_us = self._last_due_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def give(self, shown: Shown, audio: Floats, out: Out) -> int | None:
        """A frame as it is due, with its sound, float32 [640]. Returns the moment that the loudspeaker plays now."""
        self._last = shown
        if self._recorder is not None:
            self._recorder.add(shown, audio)
        playing_us: int | None = None
        self._delay_us = 0.0 if self._speaker is None else self._delay_of(self._speaker)
        if self._speaker is not None:
            self._speaker.play(audio, shown.pts_us)
            playing_us = self._speaker.playing_pts_us()
        loop = asyncio.get_running_loop()
        due_s = max(loop.time() + self._delay_us / MICROSECONDS, self._last_due_s)
        if due_s <= loop.time():
            self._emit(shown, out)
        else:
            # Timers of one moment have no order of their own.
            self._last_due_s = due_s + _IN_ORDER_S
            loop.call_at(due_s, self._emit, shown, out)
        return playing_us

    def _delay_of(self, speaker: Loudspeaker) -> float:
        """For how long pictures wait. What is told jumps by a device's buffer, and pictures should not."""
        told_us = min(speaker.latency_us, LONGEST_DELAY_US)
        return self._delay_us + _FOLLOW * (told_us - self._delay_us) if self._delay_us else told_us

    def _emit(self, shown: Shown, out: Out) -> None:
        playing_us = self._speaker.playing_pts_us() if self._speaker is not None else None
        out(shown, None if playing_us is None else playing_us - shown.pts_us)
        if self._camera is not None:
            self._camera.send(shown)

    def fall_silent(self) -> None:
        """What was not yet heard is not played any more."""
        if self._speaker is not None:
            self._speaker.flush()

    def hear_aloud(self, on: bool, device: str | None) -> None:
        """Play the person's sound on a device, or none."""
        if (on, device) == self._speaker_wanted:
            return
        self._speaker_wanted = (on, device)
        old, self._speaker = self._speaker, None
        self._do(self._change_speaker(old, on, device))

    async def _change_speaker(self, old: Loudspeaker | None, on: bool, device: str | None) -> None:
        if old is not None:
            await in_background("visavis close speaker", old.stop)
        if not on:
            return
        try:
            speaker = await in_background(
                "visavis open speaker", lambda: self._opened(device), lambda late: late.stop()
            )
        except AvatarError as error:
            if self._speaker_wanted == (on, device):
                self._speaker_wanted = (False, None)
            self._tell(Notice(error.code, str(error), "error"))
            return
        if self._speaker_wanted == (on, device):
            self._speaker = speaker
        else:  # Wanted otherwise meanwhile.
            await in_background("visavis close speaker", speaker.stop)

    def _opened(self, device: str | None) -> Loudspeaker:
        speaker = self._doors.open_speaker(device)
        speaker.start(self._tell)
        return speaker

    @property
    def heard_until_us(self) -> int:
        """When the last loud sound of the speaker is over, 0 without one. In any thread."""
        speaker = self._speaker
        return 0 if speaker is None else speaker.heard_until_us

    def record(self, path: Path) -> None:
        """Write a film from the next frame on; the one that is being written is finished first."""
        self.stop_recording()
        try:
            self._recorder = Recorder(path, self._tell)
        except AvatarError as error:
            self._tell(Notice(error.code, str(error), "error"))

    def stop_recording(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.stop()

    @property
    def recording(self) -> bool:
        return self._recorder is not None and self._recorder.running

    def camera(self, on: bool) -> None:
        """Send pictures to other programs as a camera; one that had failed is opened again."""
        running = self._camera is not None and self._camera.running
        if self._camera is not None and not (on and running):
            self._camera.stop()
            self._camera = None
        if on and not running:
            self._camera = CameraThread(self._doors.open_camera, self._tell)

    def screenshot(self, path: Path) -> None:
        """Write the picture that was shown last, with its opacity if it has one, as PNG."""
        if self._last is None:
            self._tell(Notice("no_picture", "There is no picture yet; wait until somebody is on stage.", "warning"))
            return
        shown = self._last
        self._do(self._save(shown, path))

    async def _save(self, shown: Shown, path: Path) -> None:
        try:
            await in_background("visavis screenshot", lambda: save_picture(shown, path))
        except AvatarError as error:
            self._tell(Notice(error.code, str(error), "error"))
        else:
            self._tell(Notice("screenshot_saved", f"The picture was saved as {path}", "info"))

    async def aclose(self) -> None:
        """Finish the film, within a time, and close the devices."""
        recorder = self._recorder
        self.stop_recording()
        self.camera(False)
        self.hear_aloud(False, None)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if recorder is not None:
            await in_background("visavis end film", recorder.wait)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="stage outlet")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
