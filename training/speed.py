"""Settings that make a graphics card fast, and their undoing where they would cost more than they give."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def use_fast_kernels() -> None:
    """TF32 for what stays float32, and cuDNN's own search for convolutions of fixed shapes."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Compile modules in place, their names and weights unchanged; what cannot be compiled runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    for part in parts:
        part.compile(dynamic=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled modules as plain ones: measuring uses other shapes, and compiling anew would take longer."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and loading it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
