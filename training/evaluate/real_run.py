"""The real section from a folder of assets, or of a user's own pictures and voices, to figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.engine import AvatarEngine, load
from engine.errors import ArgumentError
from engine.model.avatar import load_model
from training.evaluate import real_inputs as inputs
from training.evaluate.provenance import facts
from training.evaluate.real import PortraitCodec, RealConfig, RealEvaluation, RealVoice, evaluate_real
from training.evaluate.sources import CodecOnly, Source, bundle_codec


@dataclass(frozen=True, slots=True)
class RealRequest:
    """model, backend: the bundle. instruments: folder of their weights. assets: a folder with portraits/, voices/ and
    models/; portraits, voices: a user's own instead. cache: where fitted photographs are kept; second: model file of
    the second instrument, by default that of the assets. checkpoint: torch weights whose codec is tried on the
    photographs as they move instead of the bundle's. command: how to run this again, for the report.
    """

    model: str
    instruments: Path
    backend: str = "auto"
    assets: Path | None = None
    portraits: Path | None = None
    voices: Sequence[RealVoice] = ()
    second: Path | None = None
    cache: Path | None = None
    checkpoint: Path | None = None
    command: str = ""
    how: RealConfig = field(default_factory=RealConfig)


Progress = Callable[[str, float], None]
"""Gets what is being done and the fraction of it."""


def run_real(request: RealRequest, progress: Progress = lambda what, done: None) -> RealEvaluation:
    """Raises ArgumentError when it is not said whom to show or hear, and what the folders' readers raise."""
    assets = request.assets
    if assets is None and (request.portraits is None or not request.voices):
        raise ArgumentError(
            "--real needs --assets, or --portraits and --voices with pictures and recordings of your own"
        )
    own = inputs.pictures_in(request.portraits) if request.portraits else []
    paths = own or inputs.held_out_portraits(_given(assets))
    voices = list(request.voices) or inputs.held_out_voices(_given(assets))
    instruments = inputs.instruments_in(request.instruments, request.second or inputs.second_in(assets))
    with closing(instruments), load(request.model, request.backend) as engine:
        faces = inputs.faces_of(engine, paths)
        codec = [] if assets is None or own else _codec(request, engine, assets, progress)
        found = evaluate_real(engine, faces, voices, instruments, request.how, codec, progress)
    return replace(found, command=request.command, facts=(*facts(), ("seed of the noise", str(request.how.seed))))


def _codec(request: RealRequest, engine: AvatarEngine, assets: Path, progress: Progress) -> list[PortraitCodec]:
    """Figures of the checkpoint's codec, or of the bundle's own; none of a model that shows no latents."""
    progress("codec", 0.0)
    source: Source | None
    if request.checkpoint:
        source = CodecOnly(load_model(request.checkpoint)[0])
    else:
        source = bundle_codec(request.model, engine.backend)
    if source is None:
        return []
    with TemporaryDirectory() as scratch:
        return list(inputs.measure_codec(source, assets, request.cache or Path(scratch)))


def _given(assets: Path | None) -> Path:
    if assets is None:
        raise ArgumentError("--portraits and --voices must both be given where there are no --assets")
    return assets
