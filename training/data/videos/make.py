"""`visavis data make --from-videos`: a folder of films to shards, resumable, each film in a process of its own.

OUT/train/*.tar, OUT/test/*.tar   shards as of training.data.shards
OUT/films/KEY.json                what became of each film (FilmReport); a film that has one is not read again
OUT/rejected.jsonl                every stretch that was not kept, and why
OUT/settings.json                 what the shards were made with
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2

from engine.errors import FileMissingError
from engine.types import FPS
from training.data.processes import ONE_THREAD, environment
from training.data.settings import keep_settings
from training.data.videos.config import VideoConfig
from training.data.videos.errors import FaceModelMissing
from training.data.videos.faces import Finder, find_model, open_finder
from training.data.videos.film import FilmReport, fingerprint, make_film
from training.data.videos.people import Film, list_films
from training.data.videos.voice import silero
from training.progress import progress_bar

REJECTED_FILE = "rejected.jsonl"
FILMS_FOLDER = "films"

Work = Callable[[Film, Path, VideoConfig, Path | None], FilmReport]
"""Makes one film in a worker: (film, out, config, model file). Must be importable by name."""


@dataclass(frozen=True, slots=True)
class VideosReport:
    """What a folder of films gave, earlier runs included; skipped: films that an earlier run had finished."""

    out: str
    films: int
    skipped: int
    unreadable: int
    people: dict[str, int]
    clips: dict[str, int]
    minutes_in: float
    minutes_kept: float
    minutes_rejected: dict[str, float]
    minutes_by_state: dict[str, float]
    sync: dict[str, int]
    seconds_wall: float
    frames_per_second: float

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def make_from_videos(
    folder: Path,
    out: Path,
    config: VideoConfig,
    *,
    models: Path | None = None,
    assets: Path | None = None,
    workers: int = 1,
    show_progress: bool = False,
    work: Work | None = None,
) -> VideosReport:
    """Make shards of the films below `folder` in out/train and out/test. Films that cannot be read never stop the run.

    models: folder of (or path to) mediapipe's face landmark model; else $VISAVIS_FACE_MODELS or assets/models.
    work: what makes one film, for tests. Raises FileMissingError, NoVideosError, FaceModelMissing, and
    DataSettingsError when out holds shards of other settings.
    """
    if not folder.is_dir():
        raise FileMissingError(f"there is no folder {folder}; name the folder that holds the films")
    model = None if work else find_model(models, assets)
    done = {report.key: report for report in read_reports(out)}
    films = list_films(folder, config.split_share, {report.person: report.split for report in done.values()})
    keep_settings(out, asdict(config))
    missing = [film for film in films if not _is_done(film, done.get(film.key), out)]
    started_s = time.monotonic()
    fresh: list[FilmReport] = []
    with progress_bar("reading films", shown=show_progress and bool(missing)) as show:
        for report in _make_all(missing, out, config, model, workers, work or make_in_worker):
            _write(out / FILMS_FOLDER / f"{report.key}.json", json.dumps(asdict(report), indent=1) + "\n")
            fresh.append(report)
            show(len(fresh) / len(missing), f"{len(fresh)} of {len(missing)}")
    reports = read_reports(out)
    _write(out / REJECTED_FILE, "".join(_rejected_lines(reports)))
    return _summary(out, films, reports, fresh, time.monotonic() - started_s)


def read_reports(out: Path) -> list[FilmReport]:
    """What earlier runs did, by name of the film. A report that cannot be read counts as none."""
    reports = []
    for path in sorted((out / FILMS_FOLDER).glob("*.json")):
        try:
            reports.append(FilmReport(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError):
            continue
    return sorted(reports, key=lambda report: report.film)


def make_in_worker(film: Film, out: Path, config: VideoConfig, model: Path | None) -> FilmReport:
    """Make one film with mediapipe and Silero in this process; a film that fails is reported, not raised."""
    cv2.setNumThreads(1)
    if model is None:
        raise FaceModelMissing("no face landmark model was named")
    find = _finder(model)
    try:
        return make_film(film, out, config, find, silero)
    except Exception as error:  # any fault of one film must not cost the run; it is recorded with the film
        return failed(film, f"{type(error).__name__}: {error}")


def failed(film: Film, error: str) -> FilmReport:
    """The report of a film that could not be read."""
    source = fingerprint(film.path) if film.path.exists() else [0, 0]
    return FilmReport(film.name, film.key, film.person, film.split, source, error=error)


@lru_cache(maxsize=1)
def _finder(model: Path) -> Finder:
    return open_finder(model)


def _is_done(film: Film, report: FilmReport | None, out: Path) -> bool:
    if report is None or report.source != fingerprint(film.path):
        return False
    places = {out / report.split / name: size for name, size in report.shards.items()}
    return all(place.is_file() and place.stat().st_size == size for place, size in places.items())


def _make_all(
    films: Sequence[Film], out: Path, config: VideoConfig, model: Path | None, workers: int, work: Work
) -> Iterator[FilmReport]:
    """Reports as films are finished. When a film kills its process, what is left is made one by one, each in a process
    of its own, so that only the culprit is lost."""
    left = {film.key: film for film in films}
    try:
        for report in _pooled(list(films), out, config, model, workers, work):
            del left[report.key]
            yield report
    except BrokenProcessPool:
        for film in left.values():
            try:
                yield from _pooled([film], out, config, model, 1, work)
            except BrokenProcessPool:
                yield failed(film, "its decoding killed the process (out of memory, or a fault of a library)")


def _pooled(
    films: list[Film], out: Path, config: VideoConfig, model: Path | None, workers: int, work: Work
) -> Iterator[FilmReport]:
    if not films:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(films))), context)
    try:
        # Workers start as films are handed in, so this is when they read their variables.
        with environment(ONE_THREAD):
            futures: list[Future[FilmReport]] = [pool.submit(work, film, out, config, model) for film in films]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _rejected_lines(reports: Sequence[FilmReport]) -> Iterator[str]:
    for report in reports:
        whole = [{"reason": "unreadable", "error": report.error}] if report.error else []
        for entry in (*whole, *report.rejected):
            yield json.dumps({"film": report.film, **entry}, ensure_ascii=False) + "\n"


def _summary(
    out: Path, films: Sequence[Film], reports: Sequence[FilmReport], fresh: Sequence[FilmReport], seconds_wall: float
) -> VideosReport:
    rejected, states = Counter[str](), Counter[str]()
    for report in reports:
        states.update({name: seconds / 60 for name, seconds in report.seconds_by_state.items()})
        for entry in report.rejected:
            rejected[str(entry["reason"])] += (float(str(entry["stop_s"])) - float(str(entry["first_s"]))) / 60
    by_split = {split: [r for r in reports if r.split == split] for split in ("train", "test")}
    fresh_seconds = sum(report.seconds_in for report in fresh)
    return VideosReport(
        out=str(out),
        films=len(films),
        skipped=len(films) - len(fresh),
        unreadable=sum(bool(report.error) for report in reports),
        people={split: len({r.person for r in rs if r.clips}) for split, rs in by_split.items()},
        clips={split: sum(r.clips for r in rs) for split, rs in by_split.items()},
        minutes_in=round(sum(r.seconds_in for r in reports) / 60, 2),
        minutes_kept=round(sum(r.seconds_kept for r in reports) / 60, 2),
        minutes_rejected={reason: round(minutes, 2) for reason, minutes in rejected.most_common()},
        minutes_by_state={name: round(minutes, 2) for name, minutes in states.items()},
        sync=dict(Counter(str(r.sync["verdict"]) for r in reports if r.sync)),
        seconds_wall=round(seconds_wall, 1),
        frames_per_second=round(fresh_seconds * FPS / max(seconds_wall, 1e-9), 1),
    )


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
