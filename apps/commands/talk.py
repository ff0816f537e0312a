"""`visavis talk`: a portrait and a recording to a film."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from engine.errors import ArgumentError, FileMissingError, StateTrackError, UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from apps.media import Sound
    from engine.engine import AvatarEngine
    from engine.portrait.portrait import Portrait
    from engine.types import VideoFrame

_EXAMPLE = "example: visavis talk face.jpg voice.wav -o talk.mp4 --expression happy:0.6"
_MAX_TRACK_BYTES = 1 << 20
_FRAMES_AHEAD = 16
"""Two blocks: one is generated while the other is encoded."""


@dataclass(frozen=True, slots=True)
class TalkReport:
    """Figures of one run. seconds_wall counts everything: loading, reading, generating, encoding.

    first_frame_ms: from everything read and loaded to the first picture. realtime_factor: seconds of film per second.
    """

    output: str
    frames: int
    fps: int
    size: int
    seconds_audio: float
    seconds_wall: float
    realtime_factor: float
    seconds_load: float
    first_frame_ms: float
    backend: str
    model: str
    steps: int
    states: dict[str, int]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `talk`."""
    talk = subparsers.add_parser("talk", help="make a film of a portrait that speaks a recording", epilog=_EXAMPLE)
    talk.add_argument("portrait", type=Path, help="picture of one person: JPEG, PNG, WebP, AVIF, ...")
    talk.add_argument("voice", type=Path, help="what the person says: any audio file, or a video for its sound")
    talk.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.mp4", help="the film to write")
    talk.add_argument(
        "--size",
        type=int,
        help="side of the animated square in pixels (default 512; with --whole as many as the portrait has there)",
    )
    talk.add_argument(
        "--whole", action="store_true", help="film the whole portrait, not only the square about the face"
    )
    talk.add_argument("--expression", metavar="NAME:STRENGTH", help="such as happy:0.6, or several joined by commas")
    talk.add_argument("--partner", type=Path, metavar="AUDIO", help="the other party's voice, to listen to")
    talk.add_argument(
        "--state-track", type=Path, metavar="FILE", help="lines of SECONDS and speaking, listening, idle or auto"
    )
    talk.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's own)")
    talk.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed moves otherwise (default %(default)s)"
    )
    talk.add_argument("--model", default="auto", metavar="NAME|PATH", help="model bundle (default %(default)s)")
    talk.add_argument(
        "--backend", default="auto", help="auto, or one that `visavis doctor` lists (default %(default)s)"
    )
    talk.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    talk.add_argument(
        "--pipeline",
        metavar="PLAN",
        help="stages on places of their own, such as denoise@cpu:0/decode@cpu:1, or a file of `export pipeline --save`",
    )
    talk.add_argument("--json", action="store_true", help="report figures as one JSON document")
    talk.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the film. Raises AvatarError."""
    began = perf_counter()
    from apps.media import check_output, read_sound
    from engine.direction import parse_expression
    from engine.engine import load
    from engine.vad import automatic_states

    _check_numbers(arguments)
    check_output(arguments.out)
    expression = parse_expression(arguments.expression) if arguments.expression is not None else None
    sound = read_sound(arguments.voice)
    partner = read_sound(arguments.partner).pcm if arguments.partner else None
    states = automatic_states(sound.pcm, partner)
    if arguments.state_track:
        states = _read_states(arguments.state_track, states)
    with load(arguments.model, arguments.backend, arguments.threads, arguments.pipeline) as engine:
        portrait, size = _frame(arguments, engine.open_portrait(arguments.portrait))
        loaded = perf_counter()
        frames = engine.generate(
            portrait,
            sound.pcm,
            partner=partner,
            states=states,
            expression=expression,
            steps=arguments.steps,
            seed=arguments.seed,
            size=size,
        )
        first = _film(arguments, size, engine, portrait, sound, frames, len(states))
        report = _report(arguments, size, engine, sound, states, began, loaded, first)
    sys.stdout.write(json.dumps(asdict(report)) + "\n" if arguments.json else _sentence(report))
    return 0


def _film(
    arguments: argparse.Namespace, size: int, engine: AvatarEngine, portrait: Portrait, sound: Sound,
    frames: Iterable[VideoFrame], count: int,
) -> float:  # fmt: skip
    """Write the frames as they come, with a progress bar; returns when the first one came. With a pipeline, the writer
    is kept where its plan wants it.
    """
    from apps.media import Mp4Writer
    from engine.ahead import run_ahead
    from engine.pipeline.placing import on_cores
    from engine.pipeline.plan import Place

    height, width = portrait.source.shape[:2] if arguments.whole else (size, size)
    place, first = engine.line.plan.place_of("encode") if engine.line.plan else Place(), 0.0
    with (
        on_cores(place),
        Mp4Writer(arguments.out, (width, height), sound.track, sound.track_rate_hz, place.threads or 0) as film,
    ):
        for frame in _with_progress(run_ahead(frames, _FRAMES_AHEAD), count):
            first = first or perf_counter()
            film.write(portrait.paste(frame.image) if arguments.whole else frame.image)
    return first


def _frame(arguments: argparse.Namespace, portrait: Portrait) -> tuple[Portrait, int]:
    """The portrait, and the side of its frames. A whole film without a size takes the portrait's own pixels, so that
    the face is as sharp as what is around it.
    """
    from engine.engine import DEFAULT_SIZE_PX, MAX_SIZE_PX, MIN_SIZE_PX, SIZE_STEP_PX

    if arguments.size is not None:
        return portrait, int(arguments.size)
    if not arguments.whole:
        return portrait, DEFAULT_SIZE_PX
    box = portrait.box.on_pixels(SIZE_STEP_PX)
    if not MIN_SIZE_PX <= box.side <= MAX_SIZE_PX:
        return portrait, min(MAX_SIZE_PX, max(MIN_SIZE_PX, int(box.side)))
    return replace(portrait, box=box), int(box.side)


def _with_progress(frames: Iterable[VideoFrame], count: int) -> Iterable[VideoFrame]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(frames, total=count, description="frames")


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None and arguments.threads < 1:
        raise ArgumentError(f"--threads must be at least 1, not {arguments.threads}")
    if arguments.seed < 0:
        raise ArgumentError(f"--seed must not be negative, but is {arguments.seed}")


def _read_states(path: Path, automatic: NDArray[np.int8]) -> NDArray[np.int8]:
    from engine.direction import parse_state_track

    if not path.exists():
        raise FileMissingError(f"there is no state track {path}")
    try:
        if path.stat().st_size > _MAX_TRACK_BYTES:
            raise StateTrackError(f"{path} is too large for a state track")
        return parse_state_track(path.read_text(encoding="utf-8"), automatic)
    except UnicodeDecodeError as error:
        raise StateTrackError(f"{path} is not a text file; a state track has lines such as: 2.5 listening") from error
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error}") from error


def _report(
    arguments: argparse.Namespace, size: int, engine: AvatarEngine, sound: Sound, states: NDArray[np.int8],
    began: float, loaded: float, first: float,
) -> TalkReport:  # fmt: skip
    from engine.types import FPS, AvatarState

    seconds = perf_counter() - began
    counts = Counter(AvatarState(int(state)).name.lower() for state in states)
    return TalkReport(
        output=str(arguments.out),
        frames=len(states),
        fps=FPS,
        size=size,
        seconds_audio=round(sound.seconds, 3),
        seconds_wall=round(seconds, 3),
        realtime_factor=round(len(states) / FPS / seconds, 3),
        seconds_load=round(loaded - began, 3),
        first_frame_ms=round(1e3 * (first - loaded), 1),
        backend=engine.backend.name,
        model=engine.model,
        steps=arguments.steps or engine.backend.sampling.steps,
        states=dict(counts),
    )


def _sentence(report: TalkReport) -> str:
    return (
        f"{report.output}: {report.frames} frames, {report.seconds_audio:.1f} s, made in {report.seconds_wall:.1f} s "
        f"({report.realtime_factor:.1f} x real time, {report.backend}, {report.model}, {report.steps} steps)\n"
    )
