"""`visavis bench desktop`: the desktop app on a screen and sound devices of its own, measured from outside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from apps.bench.desktop.app import App
from apps.bench.desktop.delay import Delay, measure_delay, mouth_of
from apps.bench.desktop.desk import Desk
from apps.bench.desktop.eye import Eye
from apps.bench.desktop.follow import Follow, follow, mouth_curve, summary
from apps.bench.desktop.steady import Steady, Talk, judge, talk
from apps.bench.desktop.talker import Talker, words
from apps.bench.desktop.tape import LONGEST_LAG_S, WARM_UP_S, Tape
from apps.bench.machine import machine_facts
from apps.bench.report import FORMAT, shown
from apps.bench.setup import PICTURES, SOUNDS, Settings, shipped
from apps.media import read_sound
from engine.engine import load
from engine.errors import AvatarError
from engine.types import SAMPLE_RATE_HZ

MICROPHONE, SPEAKER = "bench_microphone", "bench_speaker"
_COME_BACK_S = 15.0
_ALOUD = "a"
"""The app's key for hearing the person."""

_APPS_OWN = ("microphone_to_shown_p50_ms", "microphone_to_shown_p95_ms", "fps", "interval_p95_ms", "drift_ms")

Say = Callable[[str], None]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Opened:
    """start_s: from the command to the person on the screen. memory_mb: resident, then. close_s: until it had ended."""

    start_s: float
    memory_mb: float | None
    close_s: float | None = None


@dataclass(frozen=True, slots=True)
class Replugged:
    """noticed_s: from taking the microphone away until the app said so; back_s: from plugging it in again until it was
    heard. None for what did not happen in time.
    """

    noticed_s: float | None
    back_s: float | None


def measure_desktop(settings: Settings, minutes: float, say: Say) -> dict[str, Any]:
    """minutes: of talk. Raises AvatarError, of them ExtraMissingError where there is nothing to make a screen of."""
    portrait = shipped(settings.portrait, "portraits", PICTURES)
    speeches = [read_sound(settings.voice).pcm] if settings.voice else _shipped_speeches()
    model = _model_name(settings)
    found: dict[str, Any] = {}
    with Desk() as desk:
        desk.sound.plug_microphone(MICROPHONE)
        desk.sound.plug_speaker(SPEAKER)
        say("starting the app")
        with Talker(desk.sound.play(MICROPHONE)) as talker:
            app, start_s = _open(desk, settings, portrait)
            opened = Opened(start_s, app.memory_mb)
            with Eye(desk.screen, mouth_of(app.picture)) as eye:
                found["delay"] = _delay(settings, talker, eye, portrait, speeches, say)
                found["app"] = {name: app.fresh()[name] for name in _APPS_OWN}
                found["steady"] = _steady(desk, app, talker, eye, speeches, minutes, say)
        found["replugged"] = _replug(desk, app, say)
        found["opened"] = Opened(opened.start_s, opened.memory_mb, app.close())
    return {
        "format": FORMAT,
        "kind": "desktop",
        "machine": asdict(machine_facts()),
        "settings": {
            "model": model,
            "backend": settings.backend,
            "size_px": settings.size_px,
            "repeats": settings.repeats,
            "minutes": minutes,
        },
        **{name: part if isinstance(part, dict) else asdict(part) for name, part in found.items()},
    }


def print_desktop(report: dict[str, Any], console: Console) -> None:
    """For people."""
    settings, opened, steady = report["settings"], report["opened"], report["steady"]
    console.print(f"{settings['model']} on {settings['backend']}, {settings['size_px']} pixels", highlight=False)
    table = Table("ms", "n", "missed", "p50", "p95", "p99", "max")
    for title, values in _rows(report):
        percentiles = (shown(values[name]) for name in ("p50", "p95", "p99", "max"))
        table.add_row(title, str(values["n"]), str(values["missed"]), *percentiles)
    console.print(table)
    own = report["app"]
    console.print(
        f"the app's own figure, microphone to picture: p50 {shown(own['microphone_to_shown_p50_ms'])} ms, "
        f"p95 {shown(own['microphone_to_shown_p95_ms'])} ms\n"
        f"{steady['minutes']:.1f} min of talk: {steady['pictures']} pictures, {steady['standstills']} standstills, "
        f"{steady['late']} late, {steady['dropped']} dropped, {shown(steady['sound_gaps_ms'])} ms of sound missing; "
        f"memory {shown(steady['memory_mb'])} MB, {shown(steady['memory_mb_per_minute'])} MB a minute\n"
        f"start {opened['start_s']:.1f} s, close {opened['close_s']:.1f} s; microphone unplugged: noticed after "
        f"{shown(report['replugged']['noticed_s'])} s, heard again {shown(report['replugged']['back_s'])} s after it "
        "was plugged in",
        highlight=False,
    )


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    delay = report["delay"]
    if "from_sound_ms" in delay:
        yield "sound to picture", delay["from_sound_ms"]
        yield "the same, with the probe's buffer", delay["from_written_ms"]
    else:
        yield "sound to picture, by phrase", delay["lag_ms"]
    yield "picture to picture", report["steady"]["interval_ms"]
    if report["steady"]["sound_lag_ms"]:
        yield "microphone to speaker", report["steady"]["sound_lag_ms"]


def _open(desk: Desk, settings: Settings, portrait: Path) -> tuple[App, float]:
    began_s = monotonic()
    app = desk.open(
        "--portrait", str(portrait), "--model", settings.model, "--backend", settings.backend,
        "--size", str(settings.size_px), "--mic", MICROPHONE, "--headphones",
    ).ready()  # fmt: skip
    start_s = monotonic() - began_s
    if app.fresh()["sheet"]:
        # Where machine or model are new, the app greets with what it found out; that covers the mouth and takes keys.
        desk.screen.key("Escape")
        app.until(lambda stats: not stats["sheet"], _COME_BACK_S)
    return app, start_s


def _delay(
    settings: Settings, talker: Talker, eye: Eye, portrait: Path, speeches: list[Floats], say: Say
) -> Delay | Follow:
    if settings.backend == "mock":
        markers = [word for pcm in speeches for word in words(pcm)]
        # Not counted: an app that has just opened its ear, and devices that nobody used.
        measure_delay(talker, eye, markers, 2)
        return measure_delay(talker, eye, markers, settings.repeats, say)
    phrases: list[tuple[float, float]] = []
    curves = [mouth_curve(portrait, pcm, settings.model, settings.backend, settings.size_px) for pcm in speeches]
    for number in range(settings.repeats):
        say(f"recording {number + 1} of {settings.repeats}")
        pcm, curve = speeches[number % len(speeches)], curves[number % len(speeches)]
        said = talker.say(pcm).result()
        eye.wait(said.sounds_s + len(pcm) / SAMPLE_RATE_HZ + 1, 0, len(pcm) / SAMPLE_RATE_HZ + 2)
        phrases += follow(eye.seen(), said.sounds_s, curve)
    return summary(phrases)


def _steady(desk: Desk, app: App, talker: Talker, eye: Eye, speeches: list[Floats], minutes: float, say: Say) -> Steady:
    # Aloud from now on only: a picture waits for its sound, and a speaker is later than a screen.
    desk.screen.key(_ALOUD)
    app.until(lambda stats: bool(stats["aloud"]), _COME_BACK_S)
    sleep(WARM_UP_S)
    with Tape(desk.sound.record(SPEAKER, SAMPLE_RATE_HZ)) as tape:
        before = app.fresh()
        done: Talk = talk(app, talker, speeches, minutes, say)
        after = app.fresh()
        # What was said last is heard later: a tape that stops with the talk would miss it.
        sleep(2 * LONGEST_LAG_S)
    return judge(done, eye.seen(), tape, before, after)


def _replug(desk: Desk, app: App, say: Say) -> Replugged:
    """The talker has gone by then, since its device goes, too."""
    say("unplugging the microphone")
    noticed_s = _until(app, lambda: desk.sound.unplug(MICROPHONE), lambda mic: mic != "live")
    say("plugging it in again")
    return Replugged(noticed_s, _until(app, lambda: desk.sound.plug_microphone(MICROPHONE), lambda mic: mic == "live"))


def _until(app: App, act: Callable[[], None], holds: Callable[[str], bool]) -> float | None:
    began_s = monotonic()
    act()
    try:
        app.until(lambda stats: bool(stats["moment_s"] > began_s) and holds(stats["microphone"]), _COME_BACK_S)
    except AvatarError:
        return None
    return monotonic() - began_s


def _shipped_speeches() -> list[Floats]:
    folder = shipped(None, "speech", SOUNDS).parent
    return [read_sound(path).pcm for path in sorted(folder.iterdir()) if path.suffix in SOUNDS]


def _model_name(settings: Settings) -> str:
    """Which bundle `auto` is. Raises AvatarError before anything is started."""
    with load(settings.model, settings.backend) as engine:
        return engine.model
