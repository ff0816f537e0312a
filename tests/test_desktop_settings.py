"""What the desktop app remembers, and where: settings, the thread that saves them, the log and its export."""

from __future__ import annotations

import json
import logging
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apps.desktop import folders, keeper, logs, settings
from apps.desktop.folders import FOLDER_VARIABLE
from apps.desktop.keeper import SettingsKeeper
from apps.desktop.notice import Notice
from apps.desktop.settings import Place, Settings, load, save
from engine.errors import ArgumentError, OutputNotWritableError

OTHER = Settings(
    portrait="Renée",
    source="loopback",
    microphone="USB Audio: Mikrofon",
    mode="listen",
    mic_mode="push",
    headphones=True,
    hud=True,
    size_px=256,
    window=Place(-1200, 40, 900, 700),
    threads=2,
    server="wss://example.org/v1/avatar",
    recordings="/films",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setenv("VISAVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "config"


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / settings.FILE
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_remembered_at_first() -> None:
    assert load() == settings.Loaded(Settings())


def test_what_is_saved_is_loaded(folder: Path) -> None:
    save(OTHER)
    assert load() == settings.Loaded(OTHER)
    assert [path.name for path in folder.iterdir()] == [settings.FILE]


def test_what_a_newer_version_has_written_is_kept(folder: Path) -> None:
    path = written(folder, json.dumps({"version": 9, "hud": True, "mirror": {"x": 1}}))
    loaded = load()
    assert loaded.settings.hud and not loaded.notices
    save(replace(loaded.settings, hud=False))
    values = json.loads(path.read_text(encoding="utf-8"))
    assert (values["version"], values["mirror"], values["hud"]) == (9, {"x": 1}, False)


@pytest.mark.parametrize("text", ["{", "[1]", '"\\ud800', "[" * 100_000, "\0\0\0\0", "{}" + " " * settings._MOST_BYTES])
def test_a_damaged_file_is_put_aside_and_told(folder: Path, text: str) -> None:
    written(folder, text)
    loaded = load()
    assert loaded.settings == Settings() and [notice.code for notice in loaded.notices] == ["settings_broken"]
    assert (folder / settings.BROKEN_FILE).read_text(encoding="utf-8") == text
    assert load() == settings.Loaded(Settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "telepathy"),
        ("headphones", 1),
        ("size_px", 500),
        ("size_px", True),
        ("window", [1, 2, 3]),
        ("window", [0, 0, 0, 10]),
        ("microphone", "a\nb"),
        ("backend", "abacus"),
        ("threads", 0),
        ("server", "wss://user:secret@example.org/v1/avatar"),
        ("server", "wss://example.org/v1/avatar?token=secret"),
        ("server", "http://example.org"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_and_the_rest_kept(folder: Path, name: str, value: object) -> None:
    written(folder, json.dumps({"captions": True, name: value}))
    loaded = load()
    assert loaded.settings == Settings(captions=True)
    assert [notice.code for notice in loaded.notices] == ["settings_changed"] and name in loaded.notices[0].text
    with pytest.raises(ArgumentError, match=name):
        Settings(**{name: value})


def test_a_file_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert [notice.code for notice in load(tmp_path).notices] == ["settings_unreadable"]
    with pytest.raises(OutputNotWritableError, match=FOLDER_VARIABLE):
        save(Settings(), tmp_path / "file" / "settings.json")


def test_a_save_that_fails_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(OTHER)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(settings.os, "fsync", full)
    with pytest.raises(OutputNotWritableError):
        save(Settings())
    assert load().settings == OTHER and len(list(folder.iterdir())) == 1


def test_the_keeper_writes_only_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Settings] = []
    began, go_on = threading.Event(), threading.Event()

    def slowly(changed: Settings, path: Path | None) -> None:
        began.set()
        assert go_on.wait(5)
        saved.append(changed)

    monkeypatch.setattr(keeper, "save", slowly)
    kept = SettingsKeeper([].append)
    kept.change(hud=True)
    assert began.wait(5)
    for x in range(50):
        kept.change(window=Place(x, 0, 10, 10))
    assert kept.settings.window == Place(49, 0, 10, 10) and kept.settings.hud
    assert not kept.close(0.05)
    go_on.set()
    assert kept.close(5)
    assert [s.window for s in saved] == [None, Place(49, 0, 10, 10)]


def test_the_keeper_refuses_what_is_not_allowed_and_saves_nothing_for_no_change(folder: Path) -> None:
    kept = SettingsKeeper([].append)
    with pytest.raises(ArgumentError):
        kept.change(mode="sing")
    kept.change(mode="speak")
    assert kept.close(5) and not folder.exists()


def test_the_keeper_tells_once_that_it_cannot_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REST_S", 0.0)
    told: list[Notice] = []
    (tmp_path / "file").write_text("")
    kept = SettingsKeeper(told.append, tmp_path / "file" / settings.FILE)
    told.clear()  # That it cannot be read either.
    for hud in (True, False, True):
        kept.change(hud=hud)
    assert kept.close(5)
    assert [notice.code for notice in told] == ["settings_not_kept"]


@pytest.mark.parametrize(
    ("system", "config", "state"),
    [
        ("linux", ".config/visavis", ".local/state/visavis"),
        ("darwin", "Library/Application Support/visavis", "Library/Logs/visavis"),
        ("win32", "AppData/Roaming/visavis", "AppData/Local/visavis/state"),
    ],
)
def test_folders_of_each_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, config: str, state: str
) -> None:
    for name in (FOLDER_VARIABLE, "XDG_CONFIG_HOME", "XDG_STATE_HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(folders.sys, "platform", system)
    monkeypatch.setattr(folders.Path, "home", lambda: tmp_path)
    assert (folders.config_folder(), folders.state_folder()) == (tmp_path / config, tmp_path / state)


def test_recordings_go_where_the_desktop_keeps_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.sys, "platform", "linux")
    monkeypatch.setattr(folders.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Settings().recordings_path == tmp_path / "Videos" / "visavis"
    (tmp_path / "user-dirs.dirs").write_text('# comment\nXDG_VIDEOS_DIR="$HOME/Vídeos"\n', encoding="utf-8")
    assert Settings().recordings_path == tmp_path / "Vídeos" / "visavis"
    assert Settings(recordings="/films").recordings_path == Path("/films")


@pytest.fixture
def crashes() -> list[str]:
    return []


@pytest.fixture
def log(crashes: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[logs.Log]:
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    opened = logs.open_log(on_crash=crashes.append)
    yield opened
    opened.close()


def test_what_nobody_catches_is_logged_and_told(log: logs.Log, crashes: list[str]) -> None:
    thread = threading.Thread(target=lambda: 1 // 0, name="visavis-test")
    thread.start()
    thread.join()
    error = ValueError("broken")
    sys.excepthook(ValueError, error, None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert log.path is not None
    text = log.path.read_text(encoding="utf-8")
    assert "visavis-test failed" in text and "ZeroDivisionError" in text and "ValueError: broken" in text
    assert len(crashes) == 2 and str(log.path) in crashes[0] and "ZeroDivisionError" in crashes[0]


def test_the_log_turns_over(log: logs.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log._handler, "maxBytes", 1000)
    for number in range(200):
        logging.getLogger("visavis.test").warning("line %d", number)
    assert log.path is not None
    files = sorted(path.name for path in log.path.parent.glob("visavis.log*"))
    assert files == ["visavis.log", "visavis.log.1", "visavis.log.2"]
    assert all((log.path.parent / name).stat().st_size <= 1000 for name in files)


def test_without_a_folder_there_is_no_log_and_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    opened = logs.open_log(tmp_path / "file" / "state")
    assert opened.path is None
    opened.close()
    opened.close()


def test_a_report_names_nobody(log: logs.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "marie-curie"
    monkeypatch.setattr(logs.Path, "home", lambda: home)
    logging.getLogger("visavis.test").warning(
        "cannot open %s/radium.wav of marie-curie, ws://host?token=abc123&x=1", home
    )
    own = replace(OTHER, portrait="Marie", file=f"{home}/song.wav", kept={"later": str(home)})
    logs.export(tmp_path / "report.zip", own)
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        parts = {name: archive.read(name).decode("utf-8") for name in archive.namelist()}
    everything = "".join(parts.values())
    assert "marie" not in everything.lower() and "abc123" not in everything and "song" not in everything
    assert "cannot open ~/radium.wav of [user], ws://host?token=[token]&x=1" in parts[logs.FILE]
    assert json.loads(parts["settings.json"])["microphone"] == OTHER.microphone
    assert json.loads(parts["doctor.json"])["backends"]
    assert {name.rpartition(".")[2] for name in parts} <= {"json", "log"}


def test_a_report_that_cannot_be_written(log: logs.Log, tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritableError, match="another folder"):
        logs.export(tmp_path / "missing" / "report.zip", Settings())
