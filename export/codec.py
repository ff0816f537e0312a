"""The codec of a bundle back in torch, and a bundle with some of its decoder's weights replaced.

A bundle holds everything that inference needs, so fine-tuning needs no training checkpoint. What training alone knows
(the linear probe) is not there. The other stages' graphs stay byte for byte what they were.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from engine.backends.staged import INT8_KEY, STAGES, WEIGHTS
from engine.bundle import MANIFEST, Bundle, read_bundle
from engine.errors import BundleCorruptError
from engine.model.codec import PortraitCodec
from engine.model.config import ModelConfig
from export.bundle import verify
from export.card import model_card
from export.manifest import CARD, replace_folder, write_manifest
from export.onnx import share_weights
from export.quantize.results import GPU_KEY, QUANTISED

_HALF = ".half"
_CODEC = "codec."

Weights = dict[str, NDArray[Any]]


def read_codec(bundle: Bundle) -> PortraitCodec:
    """The bundle's codec in eval mode, float32, without its probe.

    Convolutions keep their parameters' names in the graphs. The scales and shifts of group norms do not; they are
    taken in the order in which the network computes them. Raises BundleCorruptError when a weight is not there.
    """
    codec = PortraitCodec(bundle.config).eval()
    norms = _norms_in_order(codec, bundle.config)
    weights: dict[str, Tensor] = {}
    for stage, wanted in (("reference", ("reference_encoder", "encoder")), ("decode", ("decoder",))):
        graph = _graph(bundle, stage)
        weights |= {k: torch.from_numpy(v.astype(np.float32)) for k, v in _named(graph).items()}
        names = [name for name in norms if name.startswith(wanted)]
        weights |= dict(_norm_weights(graph, names, bundle))
    # A scale of one is folded away when the graph is made.
    weights.setdefault("latent_scale", torch.ones(()))
    state = codec.state_dict()
    if missing := sorted(k for k, v in state.items() if k not in weights or weights[k].shape != v.shape):
        raise BundleCorruptError(f"model bundle {bundle.root} lacks the weight {missing[0]}; export it again")
    codec.load_state_dict({name: weights[name] for name in state})
    return codec


def write_adapted(
    bundle: Bundle, codec: PortraitCodec, names: Collection[str], out: Path, notes: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
) -> Bundle:  # fmt: skip
    """The bundle with the named parameters of the codec (as in its state_dict) in its decode graph, written to `out`.

    notes: entries of the manifest that replace the base's. extra: further files by name. Quantised graphs would still
    hold the old weights, or point to where they lay, and are left out. Raises BundleCorruptError.
    """
    graphs = {stage: _graph(bundle, stage) for stage in STAGES}
    _replace(graphs["decode"], {name: codec.state_dict()[name].detach().cpu().numpy() for name in names}, bundle)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        for name in bundle.files:
            if name not in {WEIGHTS, CARD} and not name.endswith(QUANTISED):
                shutil.copyfile(bundle.file(name), folder / name)
        (folder / WEIGHTS).write_bytes(share_weights(graphs))
        for stage, graph in graphs.items():
            (folder / f"{stage}.onnx").write_bytes(graph.SerializeToString())
        for name, content in (extra or {}).items():
            (folder / name).write_bytes(content)
        manifest = {**bundle.manifest, **notes, INT8_KEY: [], GPU_KEY: {}}
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        write_manifest(folder, manifest)
        verify(read_bundle(folder))
        replace_folder(folder, out)
    return read_bundle(out)


def manifest_hash(bundle: Bundle) -> str:
    """sha256 of a bundle's manifest, which itself names the hash of every file."""
    return hashlib.sha256((bundle.root / MANIFEST).read_bytes()).hexdigest()


def _graph(bundle: Bundle, stage: str) -> onnx.ModelProto:
    path = bundle.file(f"{stage}.onnx")
    bundle.file(WEIGHTS)
    try:
        return onnx.load(path)
    except (OSError, ValueError) as error:
        raise BundleCorruptError(f"{path} cannot be read ({error}); copy or export the bundle again") from error


def _named(graph: onnx.ModelProto) -> Weights:
    """Weights of the codec that kept their names, by their names within the codec."""
    found = {}
    for weight in graph.graph.initializer:
        name = weight.name.removesuffix(_HALF)
        if name.startswith(_CODEC):
            found[name.removeprefix(_CODEC)] = numpy_helper.to_array(weight)
    return found


def _norms_in_order(codec: PortraitCodec, config: ModelConfig) -> list[str]:
    """Names of the group norms in the order in which a forward pass meets them."""
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    norms = {name: module for name, module in codec.named_modules() if isinstance(module, nn.GroupNorm)}
    hooks = [module.register_forward_hook(note(name)) for name, module in norms.items()]
    side = config.encode_px
    with torch.no_grad():
        reference = codec.encode_reference(torch.zeros(1, 3, side, side))
        codec.decode(reference.latent, reference, torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return order


def _norm_weights(graph: onnx.ModelProto, names: list[str], bundle: Bundle) -> Iterator[tuple[str, Tensor]]:
    """A group norm becomes an instance norm, a product with its weight and a sum with its bias, both [C, 1, 1]."""
    values = {w.name: w for w in graph.graph.initializer if len(w.dims) == 3 and tuple(w.dims[1:]) == (1, 1)}
    found = {
        kind: [
            values[name] for node in graph.graph.node if node.op_type == kind for name in node.input if name in values
        ]
        for kind in ("Mul", "Add")
    }
    if len(found["Mul"]) != len(names) or len(found["Add"]) != len(names):
        raise BundleCorruptError(f"the graphs of {bundle.root} are not those of this version; export the bundle again")
    for name, scale, shift in zip(names, found["Mul"], found["Add"], strict=True):
        yield f"{name}.weight", torch.from_numpy(numpy_helper.to_array(scale).reshape(-1).copy())
        yield f"{name}.bias", torch.from_numpy(numpy_helper.to_array(shift).reshape(-1).copy())


def _replace(graph: onnx.ModelProto, changed: Weights, bundle: Bundle) -> None:
    places = {weight.name.removesuffix(_HALF).removeprefix(_CODEC): weight for weight in graph.graph.initializer}
    for name, values in changed.items():
        if name not in places:
            raise BundleCorruptError(f"the decoder of {bundle.root} has no weight {name}; export the bundle again")
        old = places[name]
        kind = np.float16 if old.name.endswith(_HALF) else np.float32
        old.CopyFrom(numpy_helper.from_array(values.astype(kind), old.name))
