"""Rooms, noise and lines change how speech sounds, never when; recorded speech gets phones that fit it."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the training extra: scipy")
pytest.importorskip("soxr", reason="needs the training extra: soxr")

from engine.errors import ArgumentError, UnreadableMediaError  # noqa: E402
from engine.types import SAMPLE_RATE_HZ  # noqa: E402
from training.data import voice_cache, voices  # noqa: E402
from training.data.alignment import IPA_OF_TOKEN, LENGTHENING, SILENT_TOKENS, STRESS_LEVEL  # noqa: E402
from training.data.performance import perform  # noqa: E402
from training.data.speech import channels, engines, recognition, synthesis  # noqa: E402  # noqa: E402
from training.data.speech.emotion import DELIVERIES, NEUTRAL, deliver  # noqa: E402
from training.data.speech.languages import SENTENCES_OF, draw_foreign  # noqa: E402
from training.data.speech.noises import NOISES, make_noise  # noqa: E402
from training.data.speech.recorded import RECORDED_TEST_SPEAKERS, RecordedLine, recorded_lines  # noqa: E402
from training.data.speech.recording import Recording, draw_recording, record  # noqa: E402
from training.data.speech.rooms import Room, draw_room, impulse_response  # noqa: E402
from training.data.truth import Phone  # noqa: E402
from training.data.visemes import VISEMES, VOWELS  # noqa: E402

SENTENCE = "My brother bought a beautiful blue boat in September."
LAG_LIMIT_MS = 5.0


@pytest.fixture(scope="module")
def speech() -> synthesis.Utterance:
    return synthesis.synthesise(SENTENCE, voices.voice("hibari-0001"))


def lag_ms(dry: np.ndarray, wet: np.ndarray) -> float:
    """How much later the second signal is, by cross-correlation."""
    size = 2 * len(dry)
    likeness = np.fft.irfft(np.fft.rfft(wet, size) * np.conj(np.fft.rfft(dry, size)), size)
    delay = int(np.argmax(likeness))
    return 1000 * (delay if delay < len(dry) else delay - size) / SAMPLE_RATE_HZ


@pytest.mark.parametrize(
    "channel",
    [
        channels.Channel("opus", 12_000),
        channels.Channel("opus", 32_000),
        channels.Channel("mulaw"),
        channels.Channel("none", loss=0.05),
        channels.Channel("none", drive_db=9.0),
        channels.Channel("opus", agc=True),
    ],
    ids=lambda c: f"{c.codec}-{c.bitrate}-{c.loss}-{c.drive_db}-{c.agc}",
)
def test_channels_keep_time(speech: synthesis.Utterance, channel: channels.Channel) -> None:
    sent = 0.5 * speech.audio
    heard = channels.transmit(sent, channel, np.random.default_rng(0))
    assert heard.shape == sent.shape and heard.dtype == np.float32
    assert abs(lag_ms(sent, heard)) < LAG_LIMIT_MS
    assert not np.array_equal(heard, sent)


def test_a_codec_is_late_without_correction(speech: synthesis.Utterance) -> None:
    """So the test above can fail."""
    assert lag_ms(speech.audio, channels.opus(speech.audio, 24_000)[: len(speech.audio)]) > LAG_LIMIT_MS


def test_rooms_keep_time_and_decay(speech: synthesis.Utterance) -> None:
    rng = np.random.default_rng(1)
    for _ in range(8):
        room = draw_room(rng)
        response = impulse_response(room, rng)
        assert response[0] == 1.0 and np.isfinite(response).all()
        heard = record(speech.audio, Recording(-6.0, room), rng)
        assert abs(lag_ms(speech.audio, heard)) < LAG_LIMIT_MS
    bare, soft = (
        impulse_response(Room((5, 6, 3), (2, 2, 1.5), (3, 3, 1.5), a), np.random.default_rng(2)) for a in (0.15, 0.6)
    )
    assert np.sum(bare[1:] ** 2) > 3 * np.sum(soft[1:] ** 2)


def test_a_telephone_is_narrow(speech: synthesis.Utterance) -> None:
    heard = channels.telephone(speech.audio)
    power = [np.abs(np.fft.rfft(x)) ** 2 for x in (speech.audio, heard)]
    above = np.fft.rfftfreq(len(heard), 1 / SAMPLE_RATE_HZ) > 4200
    assert power[1][above].sum() < 0.02 * power[0][above].sum()


@pytest.mark.parametrize("kind", NOISES)
def test_noises_have_their_level(kind: str, speech: synthesis.Utterance) -> None:
    noise = make_noise(kind, np.random.default_rng(3), 16_000, [speech.audio])
    assert noise.shape == (16_000,) and abs(float(np.sqrt(np.mean(noise**2))) - 1) < 0.01
    assert np.array_equal(noise, make_noise(kind, np.random.default_rng(3), 16_000, [speech.audio]))


def test_recordings_differ_and_stay_in_range(speech: synthesis.Utterance) -> None:
    drawn = [draw_recording(np.random.default_rng(i)) for i in range(60)]
    for part in ("room", "noise", "channel"):
        share = np.mean([bool(getattr(recording, part)) for recording in drawn])
        assert 0.05 < share < 0.5
    for i, recording in enumerate(drawn[:12]):
        sounds = [record(speech.audio, recording, np.random.default_rng(i)) for _ in range(2)]
        np.testing.assert_array_equal(*sounds)
        assert np.abs(sounds[0]).max() < 1


def test_feelings_are_heard() -> None:
    """Each delivery moves length, level and pitch the way it says; half strength moves less."""
    speaker = voices.voice("hibari-0001")
    plain = synthesis.synthesise(SENTENCE, speaker)
    for name in ("angry", "sad"):
        half, full = (synthesis.synthesise(SENTENCE, speaker, delivery=deliver(name, s)) for s in (0.5, 1.0))
        sign = 1 if name == "angry" else -1
        lengths, peaks = zip(*((u.seconds, np.abs(u.audio).max()) for u in (plain, half, full)), strict=True)
        assert (np.diff(lengths) * sign < 0).all()
        assert (np.diff(peaks) * sign > 0).all()
        assert pitch_st(full) - pitch_st(plain) == pytest.approx(DELIVERIES[name].pitch_st, abs=1.5)
        assert [p.symbol for p in full.phones] == [p.symbol for p in plain.phones]
    assert deliver("happy", 0.0) == NEUTRAL


def test_cached_speech_is_stretched_with_its_phones(tmp_path: Path) -> None:
    """Speech from a cache gets a feeling, or another vocal tract, by resampling: all its times scale by one factor."""
    name = "hibari-0001"
    plain = synthesis.synthesise(SENTENCE, voices.voice(name), tmp_path)
    for speaker, delivery in ((voices.voice(name), deliver("afraid", 1.0)), (voices.voice(name + ".2"), NEUTRAL)):
        other = synthesis.synthesise(SENTENCE, speaker, tmp_path, delivery)
        factor = speaker.tract / voices.voice(name).tract * delivery.stretch
        lengths = [[p.end_s - p.start_s for p in u.phones] for u in (plain, other)]
        np.testing.assert_allclose(np.array(lengths[0]) / factor, lengths[1], rtol=1e-6)
        assert abs(factor - 1) > 0.01


def pitch_st(utterance: synthesis.Utterance) -> float:
    """Median pitch in semitones, by autocorrelation of voiced vowels."""
    found = []
    for phone in utterance.phones:
        part = utterance.audio[int(phone.start_s * SAMPLE_RATE_HZ) : int(phone.end_s * SAMPLE_RATE_HZ)]
        if phone.symbol in VOWELS and len(part) > 800:
            part = part - part.mean()
            likeness = np.correlate(part, part, "full")[len(part) - 1 :]
            found.append(12 * np.log2(1 / (60 + np.argmax(likeness[60:400]))))
    return float(np.median(found))


def write_wav(path: Path, audio: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((np.clip(audio, -1, 1) * 32000).astype(np.int16).tobytes())


def test_recorded_lines_are_split_by_speaker(tmp_path: Path) -> None:
    folder = tmp_path / "voices" / "corpus"
    folder.mkdir(parents=True)
    for stem in ("train-clean-7-8-0000", f"{RECORDED_TEST_SPEAKERS[0]}-1-0000", "notes"):
        write_wav(folder / f"{stem}.wav", np.full(1600, 0.1))
    (folder / "7-8.trans.txt").write_text("7-8-0000 GOOD MORNING\n")
    train, test = (recorded_lines(tmp_path, split) for split in ("train", "test"))
    assert [(line.name, line.speaker, line.text) for line in train] == [("7-8-0000", "7", "GOOD MORNING")]
    assert [line.speaker for line in test] == [RECORDED_TEST_SPEAKERS[0]]
    assert train[0].audio().shape == (1600,)
    with pytest.raises(ArgumentError, match="split"):
        recorded_lines(tmp_path, "valid")
    (folder / "7-8-0001.wav").write_text("no sound")
    with pytest.raises(UnreadableMediaError, match="replace it"):
        RecordedLine(folder / "7-8-0001.wav", "7-8-0001").audio()


def test_an_alignment_that_does_not_fit_is_rejected(speech: synthesis.Utterance) -> None:
    assert recognition.check(speech.audio, speech.phones).good
    late = tuple(Phone(p.symbol, p.start_s + 0.1, p.end_s + 0.1) for p in speech.phones)
    assert not recognition.check(speech.audio, late).good
    assert not recognition.check(speech.audio, speech.phones[::8]).good


def test_other_languages_have_phonemes_and_mouth_shapes() -> None:
    """Every letter that espeak-ng writes for the sentences has a mouth shape or lengthens what is before it."""
    pytest.importorskip("espeakng_loader", reason="needs the languages extra: espeakng-loader")
    known = {*VISEMES, *LENGTHENING, *STRESS_LEVEL, *SILENT_TOKENS, *IPA_OF_TOKEN, " "}
    for language, sentences in SENTENCES_OF.items():
        for sentence in sentences:
            assert set(engines.phonemize(f"{language}: {sentence}")) <= known
    assert engines.phonemize("fr: Un vieux bateau.") != engines.phonemize("Un vieux bateau.")
    assert engines.phonemize("es: Hola.").startswith("ˈola")
    splits = [{draw_foreign(i / 60, split) for i in range(60)} for split in voices.SPLITS]
    assert not splits[0] & splits[1] and min(map(len, splits)) >= 2 * len(SENTENCES_OF)


def test_recorded_speech_takes_part_in_clips(tmp_path: Path) -> None:
    """A synthetic sentence stands in for a human: its phones are found, and clips use it."""
    pytest.importorskip("pocketsphinx", reason="needs the training extra: pocketsphinx")
    folder = tmp_path / "voices"
    folder.mkdir()
    truth = synthesis.synthesise(SENTENCE, voices.voice("hibari-0002"))
    write_wav(folder / "11-1-0000.wav", np.pad(truth.audio, 4000))
    (folder / "11-1.trans.txt").write_text(f"11-1-0000 {SENTENCE.upper()}\n")
    cache = tmp_path / "cache"
    minutes = voice_cache.prepare_recorded(tmp_path, cache, "train")
    assert 0.5 * truth.seconds < 60 * minutes < 1.2 * truth.seconds
    name = next(iter(voice_cache.cached_recorded(cache, "train")["recorded-11"]))
    found = synthesis.synthesise(name, voices.voice("recorded-11"), cache)
    bilabials = [[p.start_s for p in u.phones if p.symbol in "pbm"] for u in (truth, found)]
    assert len(bilabials[0]) == len(bilabials[1])
    assert np.abs(np.diff(bilabials[0]) - np.diff(bilabials[1])).mean() < 0.04
    assert str(perform(1, cache=cache, kokoro_share=0.0, recorded_share=1.0).meta["voice"]).startswith("recorded-11")
