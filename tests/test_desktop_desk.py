"""The desktop app without a window: errands, ears, desk and command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.cli import main
from apps.desktop.audio.source import Packet
from apps.desktop.desk import Desk, Devices, Means
from apps.desktop.ears import Ears, Hearing
from apps.desktop.errands import Errands
from apps.desktop.keeper import SettingsKeeper
from apps.desktop.library import PortraitLibrary
from apps.desktop.notice import Notice
from engine.errors import ArgumentError, FileMissingError


class Heard:
    """A DeskListener, and a stage, that write down what they are told."""

    heard_until_us = 0
    recording = False

    def __init__(self, *config: Any) -> None:
        self.config = config[0] if config else None
        self.told: list[tuple[Any, ...]] = []
        self.cards_there = threading.Event()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def tell(*values: Any) -> bool:
            self.told.append((name, *values))
            if name == "on_cards":
                self.cards_there.set()
            return True

        return tell

    def all(self, name: str) -> list[Any]:
        return [values for told, *values in self.told if told == name]


class Recorded:
    """A source that is played by hand."""

    name = "recorded"

    def __init__(self) -> None:
        self.stopped = False

    def start(self, deliver: Callable[[Packet], None], notice: Callable[[Notice], None]) -> None:
        self.deliver, self.notice = deliver, notice

    def stop(self) -> None:
        self.stopped = True


def loud() -> Packet:
    return Packet(np.full(320, 0.3, np.float32), 16_000, 10**7)


def test_of_errands_with_one_key_the_newest_counts() -> None:
    errands, gate, done = Errands("test"), threading.Event(), []
    begun = threading.Event()
    errands.do("first", lambda: (begun.set(), gate.wait(5)))
    assert begun.wait(5)
    for number in range(100):
        errands.do("list", lambda number=number: done.append(number))
    errands.do("other", lambda: done.append("other"))
    assert len(errands._waiting) == 2
    gate.set()
    finished = threading.Event()
    errands.do("last", finished.set)
    assert finished.wait(5) and done == [99, "other"]


def test_an_errand_that_fails_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    errands, finished = Errands("test"), threading.Event()
    errands.do("fails", lambda: 1 // 0)
    errands.do("works", finished.set)
    assert finished.wait(5) and "failed" in caplog.text


def test_closing_errands_forgets_what_waits() -> None:
    errands, gate, done = Errands("test"), threading.Event(), []
    begun = threading.Event()
    errands.do("first", lambda: (begun.set(), gate.wait(5)))
    assert begun.wait(5)
    errands.do("waits", lambda: done.append("waits"))
    errands.close(last=lambda: done.append("last"))
    errands.do("late", lambda: done.append("late"))
    gate.set()
    assert errands.join(5) and done == ["last"]


@pytest.fixture
def ears() -> tuple[Ears, Recorded, Heard]:
    source, heard = Recorded(), Heard()
    return Ears(heard.hear, heard.end_of_speech, heard.on_notice, heard, lambda _: source), source, heard


def test_mute_holds_for_every_source(ears: tuple[Ears, Recorded, Heard]) -> None:
    listening, source, heard = ears
    listening.listen(Hearing("file", "talk.wav"))
    source.deliver(loud())
    passed = len(heard.all("hear"))
    listening.set_mic_mode("muted")
    source.deliver(loud())
    assert passed and len(heard.all("hear")) == passed and listening.state == "muted"
    assert listening.level_db > -20


def test_push_to_talk_is_of_microphones_alone(ears: tuple[Ears, Recorded, Heard]) -> None:
    listening, source, heard = ears
    listening.listen(Hearing("microphone", "", "push"))
    source.deliver(loud())
    assert not heard.all("hear")
    listening.hold(True)
    source.deliver(loud())
    assert heard.all("hear")
    listening.listen(Hearing("file", "talk.wav", "push"))
    before = len(heard.all("hear"))
    source.deliver(loud())
    assert source.stopped and len(heard.all("hear")) > before


def test_the_end_of_a_file_ends_what_was_said(ears: tuple[Ears, Recorded, Heard]) -> None:
    listening, source, heard = ears
    listening.listen(Hearing("file", "talk.wav"))
    source.deliver(loud())
    source.notice(Notice("file_over", "It is over.", "info"))
    assert heard.all("end_of_speech") and listening.state == "off"


def test_what_cannot_be_opened_is_told() -> None:
    heard = Heard()

    def refuse(_: Hearing) -> Recorded:
        raise FileMissingError("there is no file talk.wav")

    listening = Ears(heard.hear, heard.end_of_speech, heard.on_notice, heard, refuse)
    listening.listen(Hearing("file", "talk.wav"))
    assert heard.all("on_notice") == [[Notice("file_missing", "There is no file talk.wav.", "error")]]
    listening.close()


def test_device_state_follows_notices(ears: tuple[Ears, Recorded, Heard]) -> None:
    listening, source, _ = ears
    listening.listen(Hearing())
    assert listening.device_state == "live"
    source.notice(Notice("microphone_lost", "It is gone.", "warning"))
    assert listening.device_state == "lost"
    source.notice(Notice("microphone_back", "It works.", "info"))
    assert listening.device_state == "live"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Desk, Heard]]:
    monkeypatch.setenv("VISAVIS_CONFIG", str(tmp_path))
    listener = Heard()
    keeper = SettingsKeeper(listener.on_notice)
    means = Means(
        lambda config, _: Heard(config),  # type: ignore[arg-type,return-value]
        lambda _: Recorded(),
        lambda: Devices(("Microphone",)),
        watch_devices=False,
        check=False,
    )
    made = Desk(keeper, PortraitLibrary(), listener, means, {"model": "mock"})
    yield made, listener
    assert made.close()


def test_desk_begins_with_what_holds_for_this_run(desk: tuple[Desk, Heard]) -> None:
    made, listener = desk
    made.start()
    assert made.stage.config.model == "mock" and made.settings.model == "auto"
    assert made.stage.told[-1][0] == "start"  # type: ignore[attr-defined]
    assert listener.cards_there.wait(20)
    made.use(size_px=256)
    assert made.stage.all("use")[0][0].size_px == 256  # type: ignore[attr-defined]
    assert made.stage.all("use")[0][0].model == "auto"  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_made_is_told(desk: tuple[Desk, Heard], tmp_path: Path) -> None:
    made, listener = desk
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    made.remember(recordings=str(tmp_path / "file" / "films"))
    made.toggle_recording()
    assert listener.all("on_notice")[0][0].code == "output_not_writable"
    assert not made.stage.all("record")  # type: ignore[attr-defined]


def test_recordings_do_not_overwrite_each_other(desk: tuple[Desk, Heard], tmp_path: Path) -> None:
    made, _ = desk
    made.remember(recordings=str(tmp_path / "films"))
    paths = []
    for _number in range(3):
        made.screenshot()
        paths.append(made.stage.all("screenshot")[-1][0])  # type: ignore[attr-defined]
        paths[-1].touch()
    assert len(set(paths)) == 3


def test_a_key_that_is_none_is_refused_and_not_kept(desk: tuple[Desk, Heard]) -> None:
    made, _ = desk
    with pytest.raises(ArgumentError):
        made.set_hotkey("Hyper+Nothing")
    assert made.settings.hotkey == ""


def test_without_pyside_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["live"]) == 5
    assert "pip install 'visavis[desktop]'" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["live", "--help"])
    assert "visavis live --portrait me.jpg" in capsys.readouterr().out
