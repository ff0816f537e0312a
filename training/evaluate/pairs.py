"""The encoder of a bundle, taken out of its reference graph: a frame beside the portrait, not beside itself.

A running avatar only ever encodes the portrait, which is its own reference, so the bundle's graph feeds one picture to
both sides of the encoder. To push true frames through the codec the two sides must be given apart: the graph's one node
that joins the picture with itself gets a second input. What the decoder's graph takes is the difference to the
portrait's latent over the codec's scale, which lies in that graph under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import onnx

from engine.backends.base import REFERENCE_PX, Floats
from engine.bundle import Bundle

_ENCODER, _DECODER = "reference.onnx", "decode.onnx"
_PICTURE, _REFERENCE, _LATENT = "image", "reference", "latent"
_SCALE = "codec.latent_scale"

Run = Callable[[Floats, Floats], Floats]
"""Picture and reference, float32 [1, 3, 128, 128] in [-1, 1] each, to a latent [1, C, G, G]."""


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """Pictures of a person, and the portrait, to the motion latents that the bundle's decoder takes."""

    run: Run
    scale: float

    def motion(self, pictures: Iterable[Floats], portrait: Floats) -> Floats:
        """pictures, portrait: float32 [1, 3, 128, 128] in [-1, 1]; [F, C, G, G]."""
        rest = self.run(portrait, portrait)
        return np.concatenate([(self.run(picture, portrait) - rest) / self.scale for picture in pictures])


def open_encoder(bundle: Bundle) -> PairEncoder | None:
    """The encoder of a bundle, or None where its graphs are not built that way. Raises BundleCorruptError."""
    if not {_ENCODER, _DECODER} <= set(bundle.files):
        return None
    encoder = onnx.load(str(bundle.file(_ENCODER)))
    decoder = onnx.load(str(bundle.file(_DECODER)), load_external_data=False)
    scale = [float(onnx.numpy_helper.to_array(w)) for w in decoder.graph.initializer if w.name == _SCALE]
    if not scale or not part_inputs(encoder):
        return None
    return PairEncoder(open_graph(encoder.SerializeToString()), scale[0])


def part_inputs(model: onnx.ModelProto) -> bool:
    """Give the node that joins `image` with itself the new input `reference`; False when there is no such node."""
    joins = [n for n in model.graph.node if n.op_type == "Concat" and list(n.input) == [_PICTURE, _PICTURE]]
    latents = [output for output in model.graph.output if output.name == _LATENT]
    if len(joins) != 1 or not latents:
        return False
    joins[0].input[1] = _REFERENCE
    second = onnx.helper.make_tensor_value_info(
        _REFERENCE, onnx.TensorProto.FLOAT, (1, 3, REFERENCE_PX, REFERENCE_PX)
    )  # fmt: skip
    model.graph.input.append(second)
    del model.graph.output[:]
    model.graph.output.extend(latents)
    return True


def open_graph(graph: bytes) -> Run:
    """A graph with two inputs, run by whichever library is here."""
    return _open_openvino(graph) if find_spec("openvino") else _open_onnxruntime(graph)


def _open_openvino(graph: bytes) -> Run:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def encode(picture: Floats, reference: Floats) -> Floats:
        return np.array(compiled({_PICTURE: picture, _REFERENCE: reference})[_LATENT])

    return encode


def _open_onnxruntime(graph: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def encode(picture: Floats, reference: Floats) -> Floats:
        return np.asarray(session.run([_LATENT], {_PICTURE: picture, _REFERENCE: reference})[0])

    return encode
