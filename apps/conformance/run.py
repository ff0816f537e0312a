"""`visavis bench conformance URL`: every transcript against one server, one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from rich.console import Console

from apps.conformance.play import Outcome, Target, Transcript, play, read_transcripts
from engine.errors import ArgumentError

PATH = "/v1/avatar"
_CODECS = ("h264", "fmp4", "jpeg", "rgb24", "rgba")
_INFO_S = 10.0


async def run_conformance(target: Target, only: Sequence[str], slow: bool, say: Callable[[str], None]) -> list[Outcome]:
    """only: names of transcripts, none for all. slow: those, too, that take minutes. Raises ArgumentError."""
    transcripts = _chosen(read_transcripts(), only)
    info = await asyncio.to_thread(read_info, target)
    outcomes = []
    for number, transcript in enumerate(transcripts, 1):
        say(f"{number} of {len(transcripts)}: {transcript.name}")
        lacks = _lacks(transcript, target, info, slow or bool(only))
        skipped = Outcome(transcript.name, transcript.about, skipped=lacks)
        outcomes.append(skipped if lacks else await play(transcript, target))
    return outcomes


def full_url(text: str) -> str:
    """A WebSocket URL of what somebody typed: `http` becomes `ws`, the path may be left out. Raises ArgumentError."""
    parts = urlsplit(text if "://" in text else f"ws://{text}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ArgumentError(f"{text} is no WebSocket address; give one as ws://127.0.0.1:8765")
    return urlunsplit(parts._replace(scheme=scheme, path=parts.path if parts.path.strip("/") else PATH))


def read_info(target: Target) -> dict[str, Any]:
    """What the server says that it can do; empty when it does not."""
    parts = urlsplit(target.url)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    request = Request(urlunsplit((scheme, parts.netloc, "/v1/info", "", "")))
    if target.token is not None:
        request.add_header("Authorization", f"Bearer {target.token}")
    try:
        with urlopen(request, timeout=_INFO_S) as response:
            info = json.load(response)
    except (URLError, TimeoutError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def document_of(target: Target, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report as one JSON document, format 1. The URL's query is left out: a token may be in it."""
    counts = {
        "passed": sum(outcome.passed for outcome in outcomes),
        "failed": sum(bool(outcome.faults) for outcome in outcomes),
        "skipped": sum(bool(outcome.skipped) for outcome in outcomes),
    }
    url = urlunsplit(urlsplit(target.url)._replace(query=""))
    cases = [asdict(outcome) for outcome in outcomes]
    return {"format": 1, "kind": "conformance", "url": url, **counts, "cases": cases}


def print_outcomes(outcomes: Sequence[Outcome], console: Console) -> None:
    """For people: what failed and why, what was skipped, and how many passed."""
    for outcome in outcomes:
        mark = "skipped" if outcome.skipped else "passed" if outcome.passed else "FAILED"
        console.print(f"{mark:8} {outcome.name}: {outcome.skipped or outcome.about}", highlight=False, markup=False)
        for fault in outcome.faults:
            console.print(f"         {fault}", highlight=False, markup=False)
    played = [outcome for outcome in outcomes if not outcome.skipped]
    passed = sum(outcome.passed for outcome in played)
    console.print(f"{passed} of {len(played)} passed, {len(outcomes) - len(played)} skipped", highlight=False)


def _chosen(transcripts: list[Transcript], only: Sequence[str]) -> list[Transcript]:
    known = {transcript.name for transcript in transcripts}
    for name in only:
        if name not in known:
            raise ArgumentError(f"there is no transcript {name!r}; known are {', '.join(sorted(known))}")
    return [transcript for transcript in transcripts if not only or transcript.name in only]


def _lacks(transcript: Transcript, target: Target, info: dict[str, Any], slow: bool) -> str:
    """Why a transcript cannot be played here; empty when it can."""
    for need in transcript.needs:
        if need in _CODECS and need not in info.get("codecs", _CODECS):
            return f"the server does not have {need}"
        if need == "token" and target.token is None:
            return "the server asks for no token, or none was given with --token"
        if need == "two" and info.get("capacity", 2) < 2:
            return "the server has one place only"
        if need == "slow" and not slow:
            return "takes long; --slow plays it"
    return ""
