"""`visavis live`: a portrait that speaks with your voice, or listens to you, in a window of its own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

_SOURCES = ("microphone", "loopback", "file", "socket")
_EXAMPLES = """examples:
  visavis live                                      the window, as you left it
  visavis live --portrait me.jpg --mic "USB"        your picture, and the microphone with USB in its name
  visavis live --mode listen                        the person listens to you instead of speaking for you
  visavis live --source file --file talk.wav        without a microphone
  visavis live --pet                                only the person, on top of everything
  visavis live --model mock                         without a model, to try the window in a second
  visavis live --server ws://gpu-box:8765/v1/avatar the pictures are computed there

F1 in the window lists its keys. What you choose there is remembered, and so is what you say here of sound.
VISAVIS_CONFIG names a folder for settings, portraits and logs other than the usual one; VISAVIS_TOKEN holds what
--server asks for. The guide is docs/desktop.md.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `live`."""
    live = subparsers.add_parser(
        "live",
        help="the desktop app: your microphone, a portrait, a window or a virtual camera",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    live.add_argument("--portrait", default="", metavar="NAME|FILE", help="a person of the library, or a picture")
    _add_sound(live)
    _add_model(live)
    live.add_argument("--camera", choices=("virtual",), help="be a camera for other programs")
    live.add_argument("--pet", action="store_true", help="begin with the person alone: no frame, always on top")
    live.add_argument("--theme", choices=("auto", "light", "dark"), default="auto", help="(default %(default)s)")
    live.add_argument("--stats", type=Path, metavar="FILE", help="append a line of JSON a second to this file")
    live.add_argument("--exit-after", type=float, metavar="S", help="close after so many seconds")
    live.set_defaults(handler=_run)


def _add_sound(live: argparse.ArgumentParser) -> None:
    sound = live.add_argument_group("sound")
    sound.add_argument("--source", choices=_SOURCES, help="what is heard; loopback is what this machine plays")
    sound.add_argument("--mic", metavar="NAME", help="microphone, by its name or a part of it")
    sound.add_argument("--file", type=Path, metavar="FILE", help="sound or video file, for --source file")
    sound.add_argument("--speaker", metavar="NAME", help="play the avatar's sound there")
    sound.add_argument("--hear-aloud", action="store_true", default=None, help="play the avatar's sound")
    sound.add_argument("--mode", choices=("speak", "listen"), help="your voice is the avatar's own, or its partner's")
    sound.add_argument("--mic-mode", choices=("open", "push", "muted"), help="push: only while Space is held")
    sound.add_argument("--headphones", action="store_true", default=None, help="there is no echo to guard against")


def _add_model(live: argparse.ArgumentParser) -> None:
    model = live.add_argument_group("model")
    model.add_argument("--model", metavar="NAME|PATH", help="bundle, or mock")
    model.add_argument("--backend", help="see `visavis doctor`")
    model.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    model.add_argument("--size", type=int, metavar="PX", help="side of the picture in pixels")
    model.add_argument("--server", metavar="URL", help="a visavis server that computes, instead of this machine")


def _run(args: argparse.Namespace) -> int:
    from apps.desktop.app import Options, run

    options = Options(
        settings=_settings(args),
        computing=_computing(args),
        portrait=args.portrait,
        theme=args.theme,
        pet=args.pet,
        camera=args.camera is not None,
        stats=args.stats,
        exit_after_s=args.exit_after,
        token=os.environ.get("VISAVIS_TOKEN"),
    )
    return run(options)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the settings; what it leaves out stays as it is remembered."""
    return _said(
        source=args.source or ("file" if args.file else "microphone" if args.mic else None),
        microphone=args.mic,
        file=str(args.file.resolve()) if args.file else None,
        speaker=args.speaker,
        hear_aloud=True if args.speaker else args.hear_aloud,
        mode=args.mode,
        mic_mode=args.mic_mode,
        headphones=args.headphones,
    )


def _computing(args: argparse.Namespace) -> dict[str, Any]:
    return _said(model=args.model, backend=args.backend, threads=args.threads, size_px=args.size, server=args.server)


def _said(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
