"""The window under a real X server: keys alone, the desktop behind the pet, films of what was shown."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

from apps.bench.desktop.app import App
from apps.bench.desktop.delay import MOVED, mouth_of
from apps.bench.desktop.desk import Desk
from apps.bench.desktop.eye import Eye
from apps.bench.desktop.screen import Box
from apps.bench.desktop.talker import Talker

PATIENCE_S = 15.0
SKEW_MS = 40.0
LOWER_FACE = (0.3, 0.62, 0.7, 0.88)
"""Of a film's picture: left, top, right, bottom."""
HERE = ("--mic", "headset", "--headphones")


def soon(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def unlike(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Which pixels of two screenshots differ, [H, W]."""
    return np.abs(now.astype(np.int16) - before).max(-1) > 12


@pytest.fixture
def app(desk: Desk) -> App:
    desk.sound.plug_microphone("headset")
    return desk.open(*QUICK, *HERE, HOME=str(desk.folder)).ready()


def test_keys_alone_do_it_all(desk: Desk, app: App) -> None:
    screen = desk.screen
    app.until(lambda stats: stats["microphone"] == "live", PATIENCE_S)
    screen.key("m")
    app.until(lambda stats: stats["microphone"] == "muted", PATIENCE_S)
    screen.key("m")
    app.until(lambda stats: stats["microphone"] == "live", PATIENCE_S)
    plain = screen.shot(app.picture)
    for key, undo in (("F1", "Escape"), ("h", "h")):
        screen.key(key)
        soon(lambda: unlike(plain, screen.shot(app.picture)).mean() > 0.01, f"{key} shows nothing")
        screen.key(undo)
        soon(lambda: unlike(plain, screen.shot(app.picture)).mean() < 0.001, f"{undo} does not take {key} back")
    screen.key("s")
    soon(lambda: any(desk.folder.rglob("Videos/**/*.png")), "no screenshot was saved")
    screen.key("ctrl+q")
    assert app.process.wait(PATIENCE_S) == 0


def test_the_focus_walks_and_can_be_seen(desk: Desk, app: App) -> None:
    """Tab alone, without a pointer: what has the focus looks different from how it looked without it."""
    soon(lambda: _rests(desk), "it moves by itself, so this would say nothing")
    looks = [desk.screen.shot()]
    for _ in range(6):
        desk.screen.key("Tab")
        time.sleep(0.3)
        looks.append(desk.screen.shot())
    assert all(unlike(before, now).sum() > 20 for before, now in zip(looks, looks[1:], strict=False))


def _rests(desk: Desk) -> bool:
    before = desk.screen.shot()
    time.sleep(1)
    return bool(unlike(before, desk.screen.shot()).sum() <= 20)


def test_push_to_talk_is_heard_only_while_held(desk: Desk, marker: np.ndarray) -> None:
    desk.sound.plug_microphone("headset")
    app = desk.open(*QUICK, *HERE, "--mic-mode", "push").ready()
    with Talker(desk.sound.play("headset")) as talker, Eye(desk.screen, mouth_of(app.picture)) as eye:
        time.sleep(2)
        eye.settle()
        said = talker.say(marker).result(5)
        assert eye.wait(said.written_s, MOVED, 1.5) is None
        desk.screen.hold("space", down=True)
        time.sleep(0.5)
        said = talker.say(marker).result(5)
        assert eye.wait(said.written_s, MOVED, 2) is not None
        desk.screen.hold("space", down=False)


def test_the_desktop_is_seen_behind_the_pet(desk: Desk, tmp_path: Path) -> None:
    if shutil.which("picom") is None:
        pytest.skip("needs picom, a compositor")
    down, across = Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)
    Image.merge("RGB", [down, Image.new("L", down.size, 40), across]).resize((1280, 800)).save(tmp_path / "root.png")
    desk.screen.colour_root(tmp_path / "root.png")
    desk.screen.manage("picom", "--backend", "xrender")
    time.sleep(1)
    bare = desk.screen.shot()
    assert bare.std() > 40, "the desktop is not painted"
    app = desk.open(*QUICK, "--pet").ready()
    soon(lambda: 0.005 < unlike(bare, desk.screen.shot()).mean() < 0.2, "no pet, or a window beside it")
    time.sleep(2)
    person = unlike(bare, desk.screen.shot())
    rows, columns = (np.flatnonzero(person.any(axis)) for axis in (1, 0))
    head = person[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = min(head.shape) // 8
    assert not head[:side, :side].any() and not head[:side, -side:].any(), "the corners hide the desktop"
    assert head[len(head) // 2, head.shape[1] // 4 : -head.shape[1] // 4].mean() > 0.95, "the face is see-through"
    assert app.fresh()["phase"] == "ready"


def test_a_film_is_in_step(desk: Desk, app: App, marker: np.ndarray) -> None:
    with Talker(desk.sound.play("headset")) as talker:
        time.sleep(2)
        desk.screen.key("r")
        for _ in range(3):
            time.sleep(1.5)
            talker.say(marker).result(5)
        time.sleep(2)
        desk.screen.key("r")
    films = desk.folder.rglob("Videos/**/*.mp4")
    soon(lambda: any(film for film in desk.folder.rglob("Videos/**/*.mp4")), "no film was saved")
    app.close()
    skews_ms = skews(next(films))
    print(f"skew of picture and sound, ms: {[round(skew, 1) for skew in skews_ms]}")
    assert len(skews_ms) == 3
    assert np.abs(skews_ms).max() <= SKEW_MS


def skews(film: Path) -> list[float]:
    """Milliseconds from each word of the sound to the first picture whose mouth moves."""
    onsets_s, moved_s = word_onsets(film), mouth_moves(film)
    return [1e3 * min((moment - onset for moment in moved_s if moment > onset - 0.3), key=abs) for onset in onsets_s]


def word_onsets(film: Path) -> list[float]:
    with av.open(str(film)) as container:
        frames = list(container.decode(audio=0))
    rate_hz = frames[0].sample_rate
    sound = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    first = loud[np.concatenate([[True], np.diff(loud) > 0.7 * rate_hz])]
    return [frames[0].time + place / rate_hz for place in first]


def mouth_moves(film: Path) -> list[float]:
    """Moments at which the mouth stops to be at rest."""
    found, still = [], 100
    with av.open(str(film)) as container:
        rest = None
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            box = Box(0, 0, image.shape[1], image.shape[0]).inner(*LOWER_FACE)
            mouth = image[box.y : box.y + box.height, box.x : box.x + box.width].astype(np.int16)
            rest = mouth if rest is None else rest
            # Ten times what counts on the screen, since a film's pictures are not exact.
            moved = np.abs(mouth - rest).mean() > 10 * MOVED
            if moved and still > 10:
                found.append(frame.time)
            still = 0 if moved else still + 1
    return found
