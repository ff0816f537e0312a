"""The desk itself: what is said is heard, what is shown is seen, and it touches nothing of the user's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from apps.bench.desktop.desk import Desk
from apps.bench.desktop.eye import Eye
from apps.bench.desktop.screen import Box
from apps.bench.desktop.sound import Ear
from apps.bench.desktop.talker import Talker


def test_what_is_said_is_heard_when_the_device_says(desk: Desk, marker: np.ndarray) -> None:
    desk.sound.plug_microphone("headset", 44_100)
    ear = Ear(desk.sound.environment["PULSE_SERVER"], "headset", 44_100)
    with Talker(desk.sound.play("headset", 44_100)) as talker:
        # A null sink that nobody used gathers two seconds before it gives the first.
        for _ in range(round(2.5 / 0.01)):
            ear.read()
        said = talker.say(marker).result(5)
        while np.abs(ear.read()).max() < 0.02:
            assert time.monotonic() < said.written_s + 3
        heard_s = time.monotonic() - ear.latency_us() / 1e6
    ear.close()
    assert abs(heard_s - said.sounds_s) < 0.15


def test_the_eye_sees_a_change_of_the_screen(desk: Desk, tmp_path: Path) -> None:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    desk.screen.colour_root(tmp_path / "red.png")
    assert (desk.screen.shot(Box(5, 5, 9, 7)) == (255, 0, 0)).all()
    with Eye(desk.screen, Box(0, 0, 50, 50)) as eye:
        asked_s = time.monotonic()
        desk.screen.colour_root(tmp_path / "blue.png")
        seen_s = eye.wait(asked_s, 100, 5)
    assert seen_s is not None and len(eye.seen().after(asked_s)) >= 1


def test_a_desk_leaves_nothing(desk: Desk) -> None:
    folder, programs = desk.folder, [child.pid for child in desk.children.running]
    assert len(programs) == 3
    assert os.environ.get("DISPLAY") != desk.screen.display
    desk.__exit__(None, None, None)
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in programs)
