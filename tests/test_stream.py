"""Takes drawn by other processes: what is in them, and what happens when somebody dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_people import AllDie, FakePeople, NobodyComes, some_played
from fake_subjects import FakeSubject

from engine.errors import DataSettingsError, StreamLostError
from training.data.stream import Stream, StreamSettings
from training.data.takes import TakeSettings, draw_take, take_bytes, take_views
from training.data.truth import FramePose

PAIRS = TakeSettings("pairs", 32, 4)
SEQUENCES = TakeSettings("sequences", 32, 8)
ROOT = Path(__file__).resolve().parent.parent


def empty(settings: TakeSettings) -> dict[str, np.ndarray]:
    layout = settings.layout()
    return take_views(np.zeros(take_bytes(layout), np.uint8), layout)


def test_pairs_hold_what_the_subject_drew() -> None:
    subject, played, out = FakeSubject(1, 32), some_played(), empty(PAIRS)
    draw_take(subject, played, PAIRS, np.random.default_rng(0), out)
    shown = FramePose(out["units"][2], out["head"][2], out["gaze"][2], 0.0)
    drawn = subject.draw(shown, truth=True)
    np.testing.assert_array_equal(out["image"][2], drawn.image)
    np.testing.assert_array_equal(out["known"][2], np.asarray(drawn.known * 255 + 0.5, np.uint8))
    assert out["displacement"].dtype == np.float16 and np.abs(out["displacement"]).max() > 0
    own = subject.set_reference(FramePose(out["reference_units"], out["reference_head"], out["reference_gaze"], 0.0))
    np.testing.assert_array_equal(out["reference"], own.image)


def test_sequences_are_frames_in_a_row_with_their_sound() -> None:
    played, out = some_played(1, 2.0), empty(SEQUENCES)
    draw_take(FakeSubject(1, 32), played, SEQUENCES, np.random.default_rng(3), out)
    row = int(np.flatnonzero((played.head == out["head"][0]).all(1))[0])
    np.testing.assert_array_equal(out["units"], played.units[row : row + 8])
    np.testing.assert_allclose(out["mel"].reshape(-1, 80), played.mel[4 * row : 4 * row + 32], atol=0.01)


def test_a_take_of_a_blank_person_is_refused() -> None:
    class Blank(FakeSubject):
        def draw(self, pose: FramePose, truth: bool = False):  # noqa: ANN202
            drawn = super().draw(pose, truth)
            drawn.image[:] = 7
            return drawn

    with pytest.raises(ValueError, match="blank"):
        draw_take(Blank(1, 32), some_played(), PAIRS, np.random.default_rng(0), empty(PAIRS))


def test_a_worker_that_is_killed_is_replaced_and_counted(tmp_path: Path) -> None:
    settings = StreamSettings(tmp_path, PAIRS, takes_per_person=2, places=2, people=FakePeople, patience_s=60)
    killed, after = False, 0
    with Stream(settings) as stream:
        while after < 3:
            for take in stream.ready(1.0, most=4):
                assert take["image"].std() > 0
                after += killed and stream.counts.deaths > 0
            if stream.counts.takes and not killed:
                os.kill(stream.worker_pids[0], signal.SIGKILL)
                killed = True
        assert stream.counts.deaths == 1 and stream.counts.frames == 4 * stream.counts.takes
        pids = stream.worker_pids
    assert not any(_alive(pid) for pid in pids)


def test_places_come_back_so_a_stream_has_no_end(tmp_path: Path) -> None:
    with Stream(StreamSettings(tmp_path, PAIRS, places=1, people=FakePeople, patience_s=60)) as stream:
        while stream.counts.takes < 12:
            for _ in stream.ready(1.0):
                pass
    assert stream.counts.deaths == stream.counts.failures == 0


@pytest.mark.parametrize(("people", "said"), [(NobodyComes, "no face fits"), (AllDie, "exit code 11")])
def test_a_stream_that_can_draw_nobody_says_so(
    tmp_path: Path, people: type[FakePeople], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.stream.MAX_DEATHS", 2)
    with pytest.raises(StreamLostError, match=said):
        with Stream(StreamSettings(tmp_path, PAIRS, people=people, patience_s=60)) as stream:
            while True:
                list(stream.ready(1.0))


def test_silence_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(StreamLostError, match="nothing has been drawn"):
        with Stream(StreamSettings(tmp_path, PAIRS, people=FakePeople, patience_s=0.0)) as stream:
            list(stream.ready(0.0))


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataSettingsError):
        Stream(StreamSettings(tmp_path, PAIRS, workers=0))


_TRAINER = """
import os, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from fake_people import FakePeople
from training.data.stream import Stream, StreamSettings
from training.data.takes import TakeSettings
if __name__ == "__main__":
    stream = Stream(StreamSettings(Path("."), TakeSettings("pairs", 32, 4), workers=2, people=FakePeople)).__enter__()
    while not stream.counts.takes:
        list(stream.ready(1.0))
    print(*stream.worker_pids, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_die_with_their_trainer(tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER.format(paths=[str(ROOT), str(ROOT / "tests")]))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    pids = [int(word) for word in ran.stdout.split()]
    assert len(pids) == 2, ran.stderr
    deadline_s = time.monotonic() + 20
    while any(map(_alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
