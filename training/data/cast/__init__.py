"""A cast: people and performances made ready once, so that any machine can draw them.

Photographs are found, fitted and cut; heads get the few files that they are built from; performances are played and
kept as curves and log-mel. What a machine then needs is numpy, OpenCV, scipy, safetensors, moderngl and a GL driver: no
face finder, no voices, no `anny`. The looks themselves (meshes' motion, shaders, variants) stay code, so a cast made
today shows tomorrow's renderer.
"""

from training.data.cast.cast import Cast

__all__ = ["Cast"]
