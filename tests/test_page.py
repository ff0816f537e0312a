"""The web page in a real browser, against a real server with the mock model.

VISAVIS_PAGE_SECONDS: how long picture and sound are watched (default 4); 60 for the figure that is published. When it
is set, the promised limits hold as they are; otherwise three times as much, for busy machines.
VISAVIS_PAGE_PICTURES: a folder for screenshots.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="the page is served by the extra [server]")

import chromium  # noqa: E402

from apps.media import read_sound  # noqa: E402

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="there is no Chromium here")

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "assets" / "speech" / "welcome.flac"
SECONDS = float(os.environ.get("VISAVIS_PAGE_SECONDS", "4"))
# The figures that the page promises, on its own clock, hold on a quiet machine, which is where they are measured.
SLACK = 1 if "VISAVIS_PAGE_SECONDS" in os.environ else 3
SKEW_MS, INTERRUPT_MS = 60 * SLACK, 150 * SLACK

LIVE = "visavis.room.live && visavis.room.figures.shown > 5"
NO_WEBCODECS = "delete globalThis.VideoDecoder"
BRIGHTNESS_SPREAD = """(() => {
  const canvas = document.querySelector("#face");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const reds = data.filter((_, i) => i % 4 === 0);
  return Math.max(...reds.slice(0, 60000)) - Math.min(...reds.slice(0, 60000));
})()"""
WATCHED_SOCKETS = """
globalThis.sockets = [];
globalThis.WebSocket = class extends WebSocket { constructor(...given) { super(...given); sockets.push(this) } };
"""


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo speech as a WAV file."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    sound = read_sound(SPEECH)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.track_rate_hz)
        file.writeframes(sound.track.tobytes())
    return path


@pytest.fixture(scope="module")
def server(voice: Path) -> Iterator[str]:
    """The page's address. Whatever text the server is given, it says the demo speech."""
    options = ["--model", "mock", "--port", "0", "--sessions", "4", "--speech", f"cat {voice}", "--json"]
    command = [sys.executable, "-m", "apps.cli", "serve", *options]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "apps" / "api")])
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@pytest.fixture(scope="module")
def browser(voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    """Its microphone hears the demo speech over and over."""
    flags = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={voice}",
    )
    with chromium.Chromium(tmp_path_factory.mktemp("chromium"), *flags) as running:
        yield running


@pytest.fixture
def page(browser: chromium.Chromium) -> Iterator[chromium.Page]:
    with browser.page() as tab:
        tab.size(1440, 900)
        yield tab


def enter(page: chromium.Page, url: str, before: str = "") -> None:
    """Open the page and begin a conversation as a user does."""
    page.open(url, before)
    page.until("document.querySelector('#poster').src")
    page.click("#start")
    page.until(LIVE)


def speak(page: chromium.Page) -> None:
    """The microphone is the person's own voice from now on."""
    page.click("[name=role][value=speak]")
    page.click("#mic")
    page.until("visavis.room.doing === 'speaking' && visavis.room.player.sound.report.queued > 0")


def photograph(page: chromium.Page, name: str, see_through: bool = False) -> None:
    if folder := os.environ.get("VISAVIS_PAGE_PICTURES"):
        page.screenshot(Path(folder) / f"{name}.png", see_through)


def brightness_spread(page: chromium.Page) -> float:
    """How much the pixels of the face differ: 0 for an empty canvas."""
    return float(page.evaluate(BRIGHTNESS_SPREAD))


def test_a_click_brings_a_face_by_webcodecs_and_nothing_goes_wrong(server: str, page: chromium.Page) -> None:
    enter(page, server)
    report = page.evaluate("visavis.report()")
    assert report["session"]["video"]["codec"] == "h264"
    assert report["page"]["first_picture_ms"] > 0
    assert brightness_spread(page) > 100
    photograph(page, "live")
    assert page.faults == []


def test_the_microphone_is_listened_to(server: str, page: chromium.Page) -> None:
    enter(page, server)
    page.click("#mic")
    page.until("visavis.room.doing === 'listening'")
    page.until("Number(document.querySelector('#meter').ariaValueNow) > 20")
    assert page.evaluate("visavis.room.player.sound.report.audible") == 0


def test_the_microphone_as_their_voice_stays_with_the_lips_and_stops_at_once(server: str, page: chromium.Page) -> None:
    enter(page, server)
    speak(page)
    until_ms = page.evaluate("performance.now()") + 1000 * SECONDS
    page.until(f"performance.now() > {until_ms}", SECONDS + 30)
    page.until("visavis.report().page.av_skew_ms?.count > 40")
    page.evaluate("document.querySelector('#figures-card').open = true")
    photograph(page, "speaking")
    skew = page.evaluate("visavis.report().page.av_skew_ms")
    assert skew["p95"] <= SKEW_MS, skew

    page.until("visavis.room.doing === 'speaking' && visavis.room.player.sound.report.queued > 0")
    page.click("#mic")
    page.key("keyDown", "Escape", "Escape")
    cut = page.until("visavis.room.figures.cut")
    assert cut["sound_ms"] <= INTERRUPT_MS and cut["picture_ms"] <= INTERRUPT_MS, cut
    print(json.dumps(page.evaluate("visavis.report()")))


def test_push_to_talk_ends_with_the_key(server: str, page: chromium.Page) -> None:
    enter(page, server)
    page.click("#hold")
    page.key("keyDown", " ", "Space")
    page.until("document.querySelector('#mic').ariaPressed === 'true'")
    page.until("visavis.room.doing === 'listening'")
    page.key("keyUp", " ", "Space")
    page.until("document.querySelector('#mic').ariaPressed === 'false'")
    page.until("visavis.room.doing !== 'listening'")


def test_a_text_is_spoken_with_a_caption_until_it_is_interrupted(server: str, page: chromium.Page) -> None:
    enter(page, server)
    page.click("#text")
    page.send("Input.insertText", text="Good morning. Shall we begin?")
    page.click("#say")
    page.until("visavis.room.doing === 'speaking'")
    assert "Shall we begin?" in page.until("document.querySelector('#caption').textContent")
    photograph(page, "caption")
    page.click("#stop")
    page.until("document.querySelector('#caption').hidden")
    page.until("visavis.room.doing !== 'speaking'")


def test_a_sound_file_is_spoken(server: str, page: chromium.Page) -> None:
    enter(page, server)
    give_file(page, "#file-input", SPEECH)
    page.until("visavis.room.doing === 'speaking'")
    assert "welcome.flac" in page.evaluate("document.querySelector('#hint').textContent")
    page.until("visavis.report().page.answer_ms")


def test_without_webcodecs_pictures_are_jpeg_and_the_check_says_so(server: str, page: chromium.Page) -> None:
    enter(page, server, NO_WEBCODECS)
    assert page.evaluate("visavis.report().session.video.codec") == "jpeg"
    assert brightness_spread(page) > 100
    answers = {answer["name"]: answer for answer in page.evaluate("visavis.check()")}
    assert answers["Picture"]["verdict"] == "warn" and "WebCodecs" in answers["Picture"]["advice"]
    assert answers["WebSocket"]["verdict"] == "good"
    speak(page)
    page.until("visavis.report().page.av_skew_ms?.count > 20")
    assert page.evaluate("visavis.report().page.av_skew_ms.p95") <= SKEW_MS


def test_an_own_portrait_is_shown_and_a_bad_one_explained(server: str, page: chromium.Page) -> None:
    enter(page, server)
    give_file(page, "#portrait-input", ROOT / "assets" / "portraits" / "mei.jpg")
    page.until("visavis.room.figures.shown > 5 && visavis.room.avatar?.welcome?.portrait.library === null")
    give_file(page, "#portrait-input", SPEECH)
    assert "not a picture" in page.until("document.querySelector('#face-warning').textContent")
    assert page.evaluate("visavis.room.live")


def test_moods_reach_the_server(server: str, page: chromium.Page) -> None:
    enter(page, server)
    page.click("[name=state][value=listening]")
    page.until("visavis.room.doing === 'listening'")
    before = page.evaluate("document.querySelector('#face').toDataURL()")
    page.click("[name=expression][value=happy]")
    page.until(f"document.querySelector('#face').toDataURL() !== {json.dumps(before)}")
    assert page.evaluate("document.querySelector('#mood-value').textContent") == "Happy"
    assert page.faults == []


def test_a_lost_connection_comes_back_and_a_refusal_is_explained(server: str, page: chromium.Page) -> None:
    enter(page, server, WATCHED_SOCKETS)
    page.evaluate("sockets.at(-1).close(4900)")
    page.until("document.body.dataset.phase === 'resuming'")
    page.until("document.body.dataset.phase === 'live' && visavis.room.avatar.welcome.resumed")
    shown = page.evaluate("visavis.room.figures.shown")
    page.until(f"visavis.room.figures.shown > {shown} + 5")

    page.evaluate("document.querySelector('#connection-card').open = true")
    page.evaluate("document.querySelector('#url').value = 'ws://127.0.0.1:9'")
    page.click("#connect")
    page.until("document.body.dataset.phase === 'refused'")
    assert "visavis serve" in page.evaluate("document.querySelector('#notice-text').textContent")


def test_transparent_shows_the_person_and_nothing_else(server: str, page: chromium.Page) -> None:
    page.open(f"{server}?bg=transparent")
    page.until(LIVE)
    seen = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && e.getClientRects().length"
        " && !e.querySelector('*')).map((e) => e.id || e.tagName).filter((name) => name !== 'announce')"
    )
    assert seen == ["face"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert page.evaluate("visavis.report().session.video.codec") == "rgba"
    photograph(page, "transparent", see_through=True)


def test_everything_to_press_has_a_name(server: str, page: chromium.Page) -> None:
    page.open(server)
    page.until("document.querySelector('#poster').src")
    page.evaluate("document.querySelectorAll('details').forEach((card) => { card.open = true })")
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "radio", "checkbox", "slider", "combobox", "meter", "radiogroup", "complementary"}
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(found) > 30
    assert [node["role"]["value"] for node in found if not node.get("name", {}).get("value")] == []


def give_file(page: chromium.Page, selector: str, path: Path) -> None:
    """Choose a file as the dialog would."""
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
