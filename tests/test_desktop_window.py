"""The desktop app's window, without a screen: keys, notices, texts that fit, pet mode, closing; stage and devices are
stand-ins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "PySide6.QtWidgets", reason="the window needs PySide6: pip install 'visavis[desktop]'", exc_type=ImportError
)
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QComboBox, QLabel, QLineEdit, QSlider, QWidget

from apps.desktop.app import Options
from apps.desktop.audio.source import Packet
from apps.desktop.desk import Devices, Examined, Means
from apps.desktop.examination import Doubt, Examination
from apps.desktop.firstrun import Progress, Verdict
from apps.desktop.keeper import SettingsKeeper
from apps.desktop.notice import Notice
from apps.desktop.stage.contract import Phase, PhaseKind, Shown, StageStats
from apps.desktop.window import notices, theme
from apps.desktop.window.actions import Actions, figures
from apps.desktop.window.bridge import Bridge
from apps.desktop.window.diary import Diary
from apps.desktop.window.face import image_of
from apps.desktop.window.keys import BINDINGS
from apps.desktop.window.run import Window, build_window, make_app
from engine.portrait.crop import CropBox
from engine.types import AvatarState

Key = Qt.Key
READY = Phase(PhaseKind.READY, 1.0, "")


class FakeStage:
    """Writes down what it is asked for."""

    heard_until_us = 0
    recording = False

    def __init__(self, config: Any, _listener: Any) -> None:
        self.config = config
        self.asked: list[tuple[Any, ...]] = []
        self.stuck_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.asked.append((name, *values))

    def stats(self) -> StageStats:
        return StageStats(first_frame_ms=700.4, fps=25.0, late=2)

    def close(self, timeout_s: float) -> bool:
        time.sleep(min(self.stuck_s, timeout_s))
        return self.stuck_s < timeout_s

    def times(self, name: str) -> int:
        return sum(one[0] == name for one in self.asked)


class FakeSource:
    """A microphone that gives one loud packet."""

    name = "microphone"

    def start(self, deliver: Any, _notice: Any) -> None:
        deliver(Packet(np.full(320, 0.5, np.float32), 16_000, 10**9))

    def stop(self) -> None:
        pass


@pytest.fixture(scope="module")
def app() -> QApplication:
    return make_app("light")


@pytest.fixture
def window(app: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    monkeypatch.setenv("VISAVIS_CONFIG", str(tmp_path))
    bridge = Bridge()
    keeper = SettingsKeeper(bridge.on_notice)
    keeper.change(recordings=str(tmp_path / "films"))
    devices = Devices(("Desk microphone", "A headset with a very long name, as they have"), ("Monitor",), ("Speakers",))
    means = Means(FakeStage, lambda _: FakeSource(), lambda: devices, watch_devices=False, check=False)  # type: ignore[arg-type]
    made = build_window(keeper, bridge, Options(), means)
    made.show()
    made.desk.start()
    QTest.qWait(50)
    yield made
    made.close()


def press(window: Window, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    QTest.keyClick(window.main.face, key, modifier)


def stage_of(window: Window) -> FakeStage:
    stage = window.desk.stage
    assert isinstance(stage, FakeStage)
    return stage


def shown(alpha: bool = False) -> Shown:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0], rgba[16:48, 16:48, 3] = 200, 255
    if alpha:
        return Shown(rgba[..., :3], rgba[..., 3], 0, AvatarState.SPEAKING, 1, None, rgba)
    return Shown(np.ascontiguousarray(rgba[..., :3]), None, 0, AvatarState.SPEAKING, 1, None)


def give(window: Window, picture: Shown) -> None:
    window.actions.bridge.on_phase(READY)
    window.actions.bridge.on_frame(picture)
    QTest.qWait(30)


def test_every_key_does_something_and_none_does_two() -> None:
    keys = [(key, binding.control) for binding in BINDINGS for key in binding.keys]
    assert len(keys) == len(set(keys))
    assert all(callable(getattr(Actions, binding.action, None)) for binding in BINDINGS)
    named = {way.action for way in notices.WAYS.values()}
    assert all(callable(getattr(Actions, action, None)) for action in named)


def test_keys_reach_the_stage(window: Window) -> None:
    stage = stage_of(window)
    press(window, Key.Key_1)
    assert stage.asked[-1] == ("set_expression", "happy", 0.6)
    press(window, Key.Key_Plus)
    assert stage.asked[-1] == ("set_expression", "happy", 0.7)
    press(window, Key.Key_9)
    assert stage.asked[-1][:2] == ("set_expression", None)
    press(window, Key.Key_F7)
    assert stage.asked[-1] == ("set_state", "listening")
    press(window, Key.Key_V)
    assert ("set_mode", "listen") in stage.asked
    press(window, Key.Key_Left)
    assert stage.asked[-1][1]["gaze_x"] < 0 < stage.asked[-1][1]["gaze_x"] ** 2
    press(window, Key.Key_Home)
    assert stage.asked[-1] == ("set_pose", None)
    press(window, Key.Key_R)
    press(window, Key.Key_S)
    press(window, Key.Key_C)
    assert [one[0] for one in stage.asked[-3:]] == ["record", "screenshot", "camera"]


def test_what_keys_switch_is_remembered(window: Window) -> None:
    before = window.desk.settings
    for key in (Key.Key_H, Key.Key_T, Key.Key_B, Key.Key_L, Key.Key_A):
        press(window, key)
    after = window.desk.settings
    for name in ("hud", "captions", "badge", "panel", "hear_aloud"):
        assert getattr(before, name) is not getattr(after, name)


def test_mute_goes_back_to_what_was(window: Window) -> None:
    window.actions.set_mic_mode("push")
    press(window, Key.Key_M)
    assert window.desk.settings.mic_mode == "muted"
    press(window, Key.Key_M)
    assert window.desk.settings.mic_mode == "push"


def test_talk_is_held_and_never_sticks(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    monkeypatch.setattr(window.desk.ears, "hold", held.append)
    QTest.keyPress(window.main.face, Key.Key_Space)
    assert held == [True]
    QTest.keyRelease(window.main.face, Key.Key_Space)
    assert held == [True, False]
    QTest.keyPress(window.main.face, Key.Key_F9)
    window.main.left.emit()
    assert held[-1] is False


def test_escape_closes_what_lies_over_the_picture_before_it_interrupts(window: Window) -> None:
    press(window, Key.Key_F1)
    assert window.main.sheet is not None
    QTest.keyClick(window.main.sheet.close_button, Key.Key_Escape)
    assert window.main.sheet is None and stage_of(window).times("interrupt") == 0
    press(window, Key.Key_Escape)
    assert stage_of(window).times("interrupt") == 1


def test_letters_do_nothing_behind_a_sheet(window: Window) -> None:
    press(window, Key.Key_F1)
    assert window.main.sheet is not None
    QTest.keyClick(window.main.sheet.close_button, Key.Key_R)
    assert stage_of(window).times("record") == 0


def test_window_stays_above_others_when_told(window: Window) -> None:
    flag = Qt.WindowType.WindowStaysOnTopHint
    for on in (True, False):
        window.desk.remember(on_top=on)
        window.actions.show_settings()
        assert bool(window.main.windowFlags() & flag) is on and window.main.isVisible()


def test_keyboard_alone_reaches_every_control(window: Window) -> None:
    window.main.show()
    window.main.activateWindow()
    window.main.face.setFocus()
    reached: set[QWidget] = set()
    for _ in range(200):
        QTest.keyClick(QApplication.focusWidget() or window.main, Key.Key_Tab)
        focused = QApplication.focusWidget()
        if focused is None or focused in reached:
            break
        reached.add(focused)
    missing = [
        control.accessibleName()
        for control in window.main.findChildren(QAbstractButton) + window.main.findChildren(QComboBox)
        if control.isVisible()
        and control.isEnabled()
        and control not in reached
        # Of exclusive buttons Tab reaches one; arrow keys reach the others.
        and not (isinstance(control, QAbstractButton) and control.group() is not None)
    ]
    assert missing == []


def test_every_control_has_a_name(window: Window) -> None:
    press(window, Key.Key_Comma, Qt.KeyboardModifier.ControlModifier)
    kinds = (QAbstractButton, QComboBox, QLineEdit, QSlider)
    nameless = [
        type(control).__name__
        for kind in kinds
        for control in window.main.findChildren(kind)
        if control.isVisible()
        and not control.objectName().startswith("qt_")
        and not (control.accessibleName() or (isinstance(control, QAbstractButton) and control.text()))
    ]
    assert nameless == []


def clipped(root: QWidget) -> list[str]:
    """Texts that need more room than they have."""
    found = []
    for widget in [*root.findChildren(QAbstractButton), *root.findChildren(QLabel)]:
        if not widget.isVisible() or not widget.text():
            continue
        need = widget.minimumSizeHint()
        if isinstance(widget, QLabel) and widget.wordWrap():
            need.setHeight(widget.heightForWidth(widget.width()))
            need.setWidth(0)
        if need.width() > widget.width() or need.height() > widget.height():
            found.append(widget.text())
    return found


@pytest.mark.parametrize("size", [(640, 400), (1080, 720)])
@pytest.mark.parametrize("letters", [1.0, 1.3])
def test_texts_fit(window: Window, app: QApplication, size: tuple[int, int], letters: float) -> None:
    """640 by 400 is what 200 % leaves of a small laptop's screen."""
    usual = app.font()
    app.setFont(theme.font(letters))
    try:
        window.main.resize(*size)
        window.actions.choose_source("socket")
        window.actions.bridge.on_notice(Notice("no_microphone", "There is no microphone. Plug one in. " * 4, "error"))
        QTest.qWait(60)
        assert clipped(window.main.panel) == []
        assert clipped(window.main.notices) == []
        for opened in (window.actions.help, window.actions.settings):
            opened()
            QTest.qWait(40)
            assert window.main.sheet is not None
            assert clipped(window.main.sheet.content) == []
        assert window.main.dock.geometry().right() <= window.main.width()
    finally:
        app.setFont(usual)


def test_the_gravest_notice_is_shown_and_good_news_end_it(window: Window) -> None:
    bar = window.main.notices
    bar.close_notice()
    for code, level in (("microphone_lost", "warning"), ("stage_failed", "error"), ("screenshot_saved", "info")):
        bar.tell(Notice(code, code, level))  # type: ignore[arg-type]
    assert bar.notice is not None and bar.notice.code == "stage_failed"
    bar.close_notice()
    assert bar.notice.code == "microphone_lost"
    bar.tell(Notice("microphone_back", "It works.", "info"))
    assert bar.notice.code == "microphone_back"
    for number in range(50):
        bar.tell(Notice(f"code_{number}", "text", "info"))
    assert len(bar._notices) == notices.MOST


def test_pictures_are_painted_where_they_lie_and_only_the_newest() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    image = image_of(pixels)
    pixels[1, 2] = (10, 20, 30)
    assert image.pixelColor(2, 1).getRgb()[:3] == (10, 20, 30)
    bridge, first, second = Bridge(), shown(), shown()
    bridge.on_frame(first)
    bridge.on_frame(second)
    assert bridge.take() is second and bridge.take() is None and bridge.overtaken == 1


def test_the_picture_is_what_is_on_the_screen(window: Window) -> None:
    give(window, shown())
    middle = window.main.face.picture_area.center()
    assert window.main.face.grab().toImage().pixelColor(middle).red() == 200


def test_pet_shows_the_person_alone_and_comes_back(window: Window) -> None:
    give(window, shown(alpha=True))
    press(window, Key.Key_P)
    pet = window.pets.pet
    assert pet is not None and ("transparent", True) in stage_of(window).asked
    picture = pet.grab().toImage()
    assert picture.pixelColor(pet.rect().center()).red() == 200
    at = QPoint(pet.width() // 2, pet.height() - 8)
    with_badge = picture.pixelColor(at)
    QTest.keyClick(pet, Key.Key_B)
    give(window, shown(alpha=True))
    assert pet.grab().toImage().pixelColor(at) != with_badge
    QTest.keyClick(pet, Key.Key_B)
    assert picture.hasAlphaChannel() and picture.pixelColor(2, 2).red() != 200
    bottom, width = pet.geometry().bottom(), pet.width()
    wheel = QWheelEvent(
        QPointF(5, 5), QPointF(5, 5), QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(pet, wheel)
    assert pet.width() > width and pet.geometry().bottom() == bottom
    QTest.keyClick(pet, Key.Key_X)
    assert pet.windowFlags() & Qt.WindowType.WindowTransparentForInput
    width = pet.width()
    QTest.keyClick(pet, Key.Key_P)
    assert window.pets.pet is None and window.main.isVisible()
    place = window.desk.settings.pet
    assert place is not None and place.width_px == width
    assert stage_of(window).asked[-1] == ("transparent", False)


def test_a_click_through_pet_ends_when_the_window_is_opened(window: Window) -> None:
    """It takes neither clicks nor keys; without a tray the task bar is all that is left."""
    window.actions.pet()
    window.actions.click_through()
    window.main.showNormal()
    QApplication.sendEvent(window.main, QEvent(QEvent.Type.WindowStateChange))
    assert window.pets.pet is None


def test_a_picture_is_looked_at_before_it_is_used(window: Window) -> None:
    seen = Examination(CropBox(0, 0, 256), np.zeros((256, 256, 3), np.uint8), (Doubt("dark", "It is dark."),))
    window.actions.bridge.on_examined(Examined(Path("face.jpg"), seen))
    QTest.qWait(30)
    sheet = window.main.sheet
    assert sheet is not None
    assert "It is dark." in [label.text() for label in sheet.findChildren(QLabel)]
    window.actions.bridge.on_examined(Examined(Path("cat.jpg"), None, "No face was found."))
    QTest.qWait(30)
    assert window.main.sheet is not None
    buttons = {button.text(): button for button in window.main.sheet.findChildren(QAbstractButton)}
    assert not buttons["Use this face"].isEnabled()


def test_first_run_tells_progress_and_verdict(window: Window) -> None:
    window.actions.bridge.on_progress(Progress("building", 0.4, "Building."))
    QTest.qWait(30)
    assert window.main.sheet is not None
    window.actions.bridge.on_verdict(Verdict("openvino", {256: 90.0}))
    QTest.qWait(30)
    assert any("Smooth at 256" in label.text() for label in window.main.sheet.findChildren(QLabel))


def test_failing_camera_is_switched_off_in_the_window(window: Window) -> None:
    window.actions.camera()
    assert window.main.dock.buttons["camera"].isChecked()
    window.actions.bridge.on_notice(Notice("camera_driver", "Install a driver.", "error"))
    QTest.qWait(30)
    assert not window.main.dock.buttons["camera"].isChecked() and not window.desk.camera_on


def test_unplugged_choice_stays_chosen(window: Window) -> None:
    window.actions.choose_device("Desk microphone")
    device = window.main.panel.sound.device
    window.actions.bridge.on_devices(Devices(("Another",)))
    QTest.qWait(30)
    assert device.currentData() == "Desk microphone" and "not there" in device.currentText()


def test_diary_tells_what_the_harness_reads(window: Window, tmp_path: Path) -> None:
    give(window, shown())
    diary = Diary(tmp_path / "stats.jsonl", window.actions, window.main)
    assert not diary.line()["sheet"]
    window.actions.help()
    assert diary.line()["sheet"]
    window.actions.escape()
    line = diary.line()
    diary.close()
    assert line["phase"] == "ready" and line["fps"] == 25.0 and line["drift_ms"] is None
    assert line["picture"][2] == line["picture"][3] > 100 and line["painted"] > 0


def test_closes_in_time_whatever_hangs(window: Window) -> None:
    stage_of(window).stuck_s = 60
    begun = time.monotonic()
    window.main.close()
    assert time.monotonic() - begun < 2 and not window.closed_in_time


def test_figures_leave_out_what_is_not_known() -> None:
    assert figures(StageStats(fps=24.96)) == ("pictures  25.0 fps", "late  0    dropped  0")


def test_both_schemes_are_readable() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    for look in (theme.LIGHT, theme.DARK):
        pairs = [
            (look.ink, look.paper), (look.ink, look.surface), (look.muted, look.surface), (look.muted, look.paper),
            (look.muted, look.sunken), (look.accent, look.accent_soft), (look.accent_ink, look.accent),
            (look.warn, look.warn_soft), (look.alarm, look.alarm_soft), (look.ink, look.warn_soft),
        ]  # fmt: skip
        assert [pair for pair in pairs if contrast(*pair) < 4.5] == []


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
