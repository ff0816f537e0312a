"""Occlusion baked per vertex at rest: how much sky and how much of a broad key light a place sees.

The scene is drawn as depth from many directions and every vertex is compared with the depth in front of it, which
replaces a shadow pass per frame. Directions follow the golden-angle spiral.
"""

from __future__ import annotations

import moderngl
import numpy as np
from scipy.spatial import cKDTree

from training.data.heads.camera import orthographic
from training.data.heads.mesh import Floats
from training.data.heads.paint import region_mask
from training.data.heads.renderer import GpuPart, Motion, Scene, shared_context

_BIAS_DM = 0.025
_RADIUS_DM = 2.7
_KEY_SPREAD_DEG = 9.0
_KEY_DIRECTIONS = 9
_BOUNCED = 0.15
"""Share of the sky's light that reaches covered places from the skin and hair around them."""
_EAR_GLOW = 0.45
"""Share of the light that reaches covered ears through thin hair and the ear itself."""
_EAR_MAP_PX = 512


def bake_occlusion(scene: Scene, motion: Motion) -> None:
    """Fill the occlusion of all parts of a scene whose rest geometry has been placed."""
    solid = [gpu for gpu in scene.parts.values() if gpu.piece.occludes]
    vertices = [gpu.gpu_vertices() for gpu in solid]
    places = np.concatenate([np.array(p) for p, _ in vertices])
    normals = np.concatenate([np.array(n) for _, n in vertices])
    turned = np.concatenate([gpu.baked[:, :1] for gpu in solid])
    places += turned * ((places - motion.pivot) @ motion.turn.T + motion.pivot - places)
    normals += turned * (normals @ motion.turn.T - normals)
    probe = _DepthProbe(scene, motion, scene.quality.bake_px)
    sky = _sky(probe, places, normals, scene.quality.sky_directions)
    key = np.mean([probe.sees(d, places, normals) for d in _around(scene.light.key)], axis=0)
    probe.release()
    begin = 0
    for gpu, (own, _) in zip(solid, vertices, strict=True):
        through = 1 - _EAR_GLOW * _ears(gpu)
        own_sky, own_key = (1 - (1 - seen[begin : begin + len(own)]) * through for seen in (sky, key))
        gpu.set_baked(own_sky, own_key)
        begin += len(own)
    _spread_to_rest(scene)


def _ears(gpu: GpuPart) -> Floats:
    """How much each GPU vertex [R] belongs to an ear, in [0, 1]."""
    part = gpu.piece.part
    if part.name != "body":
        return np.zeros(len(part.surface.uv), np.float32)
    mask = region_mask("ears", _EAR_MAP_PX)
    column, row = np.clip((part.surface.uv * _EAR_MAP_PX).astype(np.int32), 0, _EAR_MAP_PX - 1).T
    return mask[_EAR_MAP_PX - 1 - row, column]


def _sky(probe: _DepthProbe, places: Floats, normals: Floats, count: int) -> Floats:
    total, seen = np.full(len(places), 1e-3, np.float32), np.full(len(places), 0.25e-3, np.float32)
    for direction in _spiral(count):
        weight = np.maximum(normals @ direction, 0) * (0.6 + 0.4 * direction[1])
        total += weight
        seen += weight * probe.sees(direction, places, normals)
    return 1 - (1 - seen / total) * (1 - _BOUNCED)


def _spiral(count: int) -> Floats:
    """Directions over the part of the sphere above -35 degrees."""
    i = np.arange(count) + 0.5
    height = 1 - i / count * 1.57
    radius = np.sqrt(np.maximum(0, 1 - height**2))
    angle = i * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.sin(angle), height, radius * np.cos(angle)], -1).astype(np.float32)


def _around(direction: Floats) -> Floats:
    i = np.arange(_KEY_DIRECTIONS) + 0.5
    radius, angle = np.tan(np.radians(_KEY_SPREAD_DEG)) * np.sqrt(i / _KEY_DIRECTIONS), i * np.pi * (3 - np.sqrt(5))
    side = np.cross(direction, (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    up = np.cross(side, direction)
    spread = direction + radius[:, None] * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * up)
    return (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)


class _DepthProbe:
    """Depth pictures of the scene from any direction."""

    def __init__(self, scene: Scene, motion: Motion, side: int) -> None:
        self._scene, self._motion, self._side = scene, motion, side
        context = shared_context()
        self._depth = context.depth_texture((side, side))
        self._target = context.framebuffer(depth_attachment=self._depth)
        self._centre = motion.pivot + np.array([0, 0.5, 0.2], np.float32)

    def sees(self, direction: Floats, places: Floats, normals: Floats) -> Floats:
        """Whether each place [R, 3] is open towards a direction, in [0, 1] (bilinear at the edges)."""
        view = orthographic(direction, self._centre, _RADIUS_DM)
        self._target.use()
        self._target.clear()
        shared_context().enable_only(moderngl.DEPTH_TEST)
        self._scene.draw_depth(view, self._motion)
        depth = np.frombuffer(self._depth.read(), np.float32).reshape(self._side, self._side)
        lifted = places + (normals + direction) * np.float32(_BIAS_DM)
        ndc = lifted @ view[:3, :3].T + view[:3, 3]
        at = (ndc[:, :2] + 1) / 2 * self._side - 0.5
        low = np.clip(np.floor(at).astype(np.int32), 0, self._side - 2)
        fraction = np.clip(at - low, 0, 1)
        own = ndc[:, 2] / 2 + 0.5
        result = np.zeros(len(places), np.float32)
        for dx in (0, 1):
            for dy in (0, 1):
                share = np.abs(1 - dx - fraction[:, 0]) * np.abs(1 - dy - fraction[:, 1])
                result += share * (depth[low[:, 1] + dy, low[:, 0] + dx] >= own)
        return result

    def release(self) -> None:
        self._target.release()
        self._depth.release()


def _spread_to_rest(scene: Scene) -> None:
    """Parts that cast no shadow (brows, lashes, eyes, teeth) take the mean of the open skin around them."""
    skin = scene.parts["body"]
    places, _ = skin.gpu_vertices()
    open_skin = skin.baked[:, 1] > 0.25
    tree, baked = cKDTree(places[open_skin]), skin.baked[open_skin]
    for gpu in scene.parts.values():
        if not gpu.piece.occludes:
            near = tree.query(gpu.gpu_vertices()[0], k=8)[1]
            gpu.set_baked(baked[near, 1].mean(1), baked[near, 2].mean(1))
