"""Silero VAD's network (MIT, `assets/hearing/silero.onnx`, 16 kHz) on whichever inference library is installed.

A window takes a twentieth of a millisecond, and both libraries let go of the interpreter meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.audio.buffer import Samples
from engine.errors import BackendUnavailableError

WINDOW = 512
"""Samples of one window, 32 ms; Silero takes no other size."""

ON, OFF = 0.5, 0.35
"""Probabilities at which speech begins and ends, as Silero's authors use them."""

_CONTEXT = 64
"""Samples of the window before that the network sees as well."""
_STATE_SHAPE = (2, 1, 128)
"""Of the LSTM: hidden and cell."""

_PATH = Path(__file__).resolve().parents[2] / "assets" / "hearing" / "silero.onnx"

Probability: TypeAlias = Callable[[Samples], float]
"""Probability of speech in the next window of a stream, samples [512]."""

_Floats: TypeAlias = NDArray[np.float32]
_Run: TypeAlias = Callable[[_Floats, _Floats], tuple[_Floats, _Floats]]
"""Sound [1, 576] and state [2, 1, 128] to the probability [1, 1] and the next state."""


def silero() -> Probability:
    """A fresh detector with a state of its own; the network is read once in a process, which takes up to 0.3 s. Raises
    BackendUnavailableError when there is nothing to run it.
    """
    return _Detector(_network()())


class _Detector:
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._sound = np.zeros((1, _CONTEXT + WINDOW), np.float32)
        self._state = np.zeros(_STATE_SHAPE, np.float32)

    def __call__(self, window: Samples) -> float:
        self._sound[0, :_CONTEXT] = self._sound[0, -_CONTEXT:]
        self._sound[0, _CONTEXT:] = window
        probability, self._state = self._run(self._sound, self._state)
        return float(probability[0, 0])


@cache
def _network() -> Callable[[], _Run]:
    """Makes what a detector runs; shared by all detectors of a process."""
    # ONNX Runtime first, where there are both: it starts in a third of the time and takes half the memory.
    for load in (_on_onnxruntime, _on_openvino):
        try:
            return load()
        except ImportError:
            continue
    raise BackendUnavailableError("no library to hear speech with: pip install onnxruntime, or openvino")


def _on_onnxruntime() -> Callable[[], _Run]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(_PATH, options, providers=["CPUExecutionProvider"])

    def run(sound: _Floats, state: _Floats) -> tuple[_Floats, _Floats]:
        probability, after = session.run(None, {"input": sound, "state": state})
        return probability, after

    return lambda: run


def _on_openvino() -> Callable[[], _Run]:
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = ov.Core().compile_model(_PATH, "CPU", settings)

    def detector() -> _Run:
        request = network.create_infer_request()

        def run(sound: _Floats, state: _Floats) -> tuple[_Floats, _Floats]:
            request.infer({"input": sound, "state": state})
            # Copies, since the next call writes there.
            return request.get_output_tensor(0).data.copy(), request.get_output_tensor(1).data.copy()

        return run

    return detector
