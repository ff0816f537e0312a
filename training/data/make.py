"""Make a data set: shards of clips from several processes, resumable, with a progress bar.

A run that was stopped continues where it was: complete shards are skipped. A subject that cannot be drawn is logged
and replaced by another.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from engine.errors import SubjectsFailedError
from training.data.people import VOICES, Kind, Sources
from training.data.processes import ONE_THREAD, environment
from training.data.recipe import DEFAULT_MIX, Failure, Recipe, make_shard, plan
from training.data.settings import keep_settings
from training.progress import progress_bar

CACHE_FOLDER = "cache"
FAILURES_FILE = "failures.jsonl"

MAX_DEATHS = 3
"""Deaths of workers in a row, without one shard finished, after which the set-up must be wrong."""


@dataclass(frozen=True, slots=True)
class MakeReport:
    """What a call of make_clips did."""

    out: str
    shards: int
    skipped_shards: int
    clips: int
    frames: int
    failures: int
    seconds_wall: float

    @property
    def fps(self) -> float:
        return self.frames / max(self.seconds_wall, 1e-9)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"fps": round(self.fps, 1)}


def make_clips(
    out: Path,
    clips: int,
    seconds: float = 4.0,
    size: int = 128,
    seed: int = 0,
    split: str = "train",
    assets: Path | None = None,
    workers: int = 1,
    truth_stride: int = 4,
    mix: Mapping[Kind, float] = DEFAULT_MIX,
    *,
    cache: Path | None = None,
    sources: Sources | None = None,
    show_progress: bool = False,
) -> MakeReport:
    """Make `clips` clips of `seconds` each into shards under out; complete shards that are there are kept.

    size: side of the pictures in pixels. assets: folder of portraits, skins and voices; without it all subjects are
    heads with procedural parts. cache: folder of fitted photographs
    (`faces`, filled here) and prepared speech (`voices`, used when there); out/cache by default. Subjects that fail are
    replaced and named in failures.jsonl.

    Raises DataSettingsError when out holds shards of other settings, SubjectsFailedError when subjects keep failing.
    """
    recipe = plan(
        out, clips, seconds, size, seed, split, assets, truth_stride, mix, cache or out / CACHE_FOLDER, sources
    )
    _keep_settings(recipe)
    missing = [shard for shard in range(recipe.shards) if not recipe.is_complete(shard)]
    made = [len(recipe.shard_clips(shard)) for shard in missing]
    started_s = time.monotonic()
    failures = _run(recipe, missing, workers, sum(made) * recipe.frames_per_clip, show_progress) if missing else 0
    return MakeReport(
        out=str(out),
        shards=len(missing),
        skipped_shards=recipe.shards - len(missing),
        clips=sum(made),
        frames=sum(made) * recipe.frames_per_clip,
        failures=failures,
        seconds_wall=time.monotonic() - started_s,
    )


_frames_done: Synchronized[int] | None = None


def _start_worker(counter: Synchronized[int]) -> None:
    global _frames_done
    _frames_done = counter
    faulthandler.enable()


def _count(frames: int) -> None:
    if _frames_done is not None:
        with _frames_done.get_lock():
            _frames_done.value += frames


def _work(recipe: Recipe, shard: int) -> list[Failure]:
    return make_shard(recipe, shard, _count)


def _run(recipe: Recipe, shards: list[int], workers: int, frames: int, show_progress: bool) -> int:
    """Make the shards; returns how many subjects failed. A worker that dies costs the shards in work, which are made
    anew; MAX_DEATHS of them without a finished shard in between end the run."""
    context = multiprocessing.get_context("spawn")
    counter: Synchronized[int] = context.Value("q", 0)
    started_s = time.monotonic()
    left, failed, deaths = list(shards), 0, 0

    def tell() -> None:
        fps = counter.value / max(time.monotonic() - started_s, 1e-9)
        show(counter.value / max(frames, 1), f"{counter.value} of {frames} frames, {fps:.0f} fps")

    with environment(ONE_THREAD), progress_bar("making clips", shown=show_progress) as show:
        while left:
            count = max(1, min(workers, len(left)))
            with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(counter,)) as pool:
                done, failures = _collect(pool, recipe, left, tell)
            failed += failures
            deaths = 0 if done else deaths + 1
            left = [shard for shard in left if shard not in done]
            counter.value = frames - sum(len(recipe.shard_clips(shard)) for shard in left) * recipe.frames_per_clip
            if deaths >= MAX_DEATHS:
                raise SubjectsFailedError(
                    f"worker processes died {deaths} times (out of memory, or a fault of the graphics driver); run the "
                    "same command again to continue, with fewer --workers if memory is short"
                )
    return failed


def _collect(
    pool: ProcessPoolExecutor, recipe: Recipe, shards: list[int], show: Callable[[], None]
) -> tuple[set[int], int]:
    """Finished shards and failed subjects; returns early when a worker died."""
    pending: dict[Future[list[Failure]], int] = {pool.submit(_work, recipe, shard): shard for shard in shards}
    finished, failed = set[int](), 0
    try:
        while pending:
            for future in wait(pending, timeout=0.25, return_when="FIRST_COMPLETED").done:
                shard = pending.pop(future)
                failures = future.result()
                finished.add(shard)
                failed += len(failures)
                _log(recipe.out / FAILURES_FILE, failures)
            show()
    except BrokenProcessPool:
        pass  # the caller makes what is not finished anew
    finally:
        pool.shutdown(cancel_futures=True)
    return finished, failed


def _log(path: Path, failures: list[Failure]) -> None:
    if failures:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)


def _keep_settings(recipe: Recipe) -> None:
    settings = {
        "seconds": recipe.seconds,
        "size": recipe.size,
        "seed": recipe.seed,
        "split": recipe.split,
        "truth_stride": recipe.truth_stride,
        "puppet_share": round(recipe.puppet_share, 4),
        "portraits": len(recipe.portraits),
        "prepared_voices": (recipe.cache / VOICES).is_dir(),
    }
    keep_settings(recipe.out, settings)
