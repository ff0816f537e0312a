"""Puts a person together: the pieces to draw, from the asset folder or from procedures."""

from __future__ import annotations

import numpy as np

from training.data.heads import procedural
from training.data.heads.base import base_head
from training.data.heads.glasses import bake_glasses
from training.data.heads.identity import Identity
from training.data.heads.mesh import Fit, Floats, QuadMesh
from training.data.heads.paint import paint_skin
from training.data.heads.parts import bake_body, bake_eyes, bake_worn
from training.data.heads.renderer import Piece, Quality
from training.data.heads.wardrobe import (
    FRINGED_HAIR,
    AssetFolder,
    Look,
    cloth_texture,
    hair_texture,
    plain_texture,
    teeth_texture,
)  # fmt: skip

_BLANK = np.full((1, 1, 4), 255, np.uint8)


def dress_from_assets(identity: Identity, look: Look, assets: AssetFolder, quality: Quality) -> list[Piece]:
    """All pieces of a person in drawing order, with files of an asset folder."""
    cloth_name, cloth_mesh, cloth_fit, cloth_image = assets.cloth(identity, look)
    shaved = look.hair == "shaved"
    hair = None if shaved else assets.worn("hair", look.hair)
    hair_points = None if hair is None else _points_on(hair[1], hair[2], identity)
    body = bake_body(identity, cloth_fit.deleted, hair_points, quality.subdivide)
    skin = paint_skin(assets.skin(identity, look), look, quality.texture_px)
    pieces = [
        Piece(body, skin, {"oil": look.oil, "pore": 0.16}),
        Piece(
            bake_worn(identity, "cloth", "cloth", cloth_mesh, cloth_fit, moving=False), cloth_texture(cloth_image, look)
        ),
        *_mouth_pieces(identity, look, assets),
        eyes_piece(identity, look),
        *_strand_pieces(identity, look, assets),
    ]
    if hair is not None:
        _, mesh, fit, image = hair
        part = bake_worn(identity, "hair", "hair", mesh, fit, moving=False)
        uniforms = {"shine": 1.0, "fringe": _fringe(identity, look)}
        pieces.append(Piece(part, hair_texture(image, look.hair_colour), uniforms, blend=True))
    return pieces + _glasses_pieces(identity, look)


def dress_procedurally(identity: Identity, look: Look, quality: Quality) -> list[Piece]:
    """All pieces of a person in drawing order, from nothing but `anny`."""
    shaved = look.hair == "shaved"
    skin = paint_skin(procedural.bare_skin(look), look, quality.texture_px)
    procedural.paint_brows(skin, look)
    shirt, shirt_texture = procedural.shirt(identity, look)
    pieces = [
        Piece(bake_body(identity, None, None, quality.subdivide), skin, {"oil": look.oil, "pore": 0.16}),
        Piece(shirt, shirt_texture),
        *(Piece(part, texture, occludes=False) for part, texture in procedural.mouth_parts(identity, look)),
        eyes_piece(identity, look),
    ]
    if not shaved:
        cap, cap_texture = procedural.hair_cap(identity, look)
        pieces.append(Piece(cap, cap_texture, {"shine": 0.8}, blend=True))
    return pieces + _glasses_pieces(identity, look)


def eyes_piece(identity: Identity, look: Look) -> Piece:
    """Both eyes; the iris is painted by the shader."""
    part, _, _ = bake_eyes(identity)
    outer, inner = ((np.array(c, np.float32) / 255) ** 2 for c in look.iris)
    uniforms = {
        "iris_colour": outer * 0.95, "iris_inner": inner * 0.95, "iris_size": look.iris_size,
        "pupil_size": look.pupil_size, "redness": 0.6,
    }  # fmt: skip
    return Piece(part, _BLANK, uniforms, occludes=False)


def _mouth_pieces(identity: Identity, look: Look, assets: AssetFolder) -> list[Piece]:
    _, teeth, teeth_fit, teeth_image = assets.worn("teeth", look.pick_teeth)
    _, tongue, tongue_fit, tongue_image = assets.worn("tongue", 0)
    return [
        Piece(
            bake_worn(identity, "teeth", "mouth", teeth, teeth_fit, moving=True),
            teeth_texture(teeth_image, look.ivory),
            occludes=False,
        ),
        Piece(
            bake_worn(identity, "tongue", "mouth", tongue, tongue_fit, moving=True),
            plain_texture(tongue_image),
            occludes=False,
        ),
    ]


def _strand_pieces(identity: Identity, look: Look, assets: AssetFolder) -> list[Piece]:
    _, brow, brow_fit, brow_image = assets.brows(identity, look)
    _, lash, lash_fit, lash_image = assets.worn("lashes", look.pick_lash)
    colour = tuple(min(c, 130.0) * 0.8 for c in look.hair_colour)
    brow_piece = Piece(
        bake_worn(identity, "brow", "hair", brow, brow_fit, moving=True), hair_texture(brow_image, colour),
        {"shine": 0.2, "alpha_gain": 0.85}, blend=True, occludes=False, solid=False,
    )  # fmt: skip
    lash_piece = Piece(
        bake_worn(identity, "lash", "hair", lash, lash_fit, moving=True), hair_texture(lash_image, (18, 15, 14)),
        {"shine": 0.1, "alpha_gain": 0.32 if identity.male else 0.52}, blend=True, occludes=False, solid=False,
    )  # fmt: skip
    return [brow_piece, lash_piece]


def _glasses_pieces(identity: Identity, look: Look) -> list[Piece]:
    if look.glasses is None:
        return []
    frame, lens = bake_glasses(identity, look.glasses)
    colour = np.array([[(*look.glasses.colour, 255)]], np.uint8)
    return [
        Piece(frame, colour, {"lens": 0.0}, occludes=False),
        Piece(lens, _BLANK, {"lens": 1.0, "tint": look.glasses.tint}, blend=True, occludes=False, solid=False),
    ]


def _points_on(mesh: QuadMesh, fit: Fit, identity: Identity) -> Floats:
    """Corners, edge middles and centres of a worn mesh's faces, [N, 3]."""
    places = fit.apply(identity.vertices)
    corners = places[mesh.faces]
    middles = (corners + np.roll(corners, -1, axis=1)).reshape(-1, 3) / 2
    return np.concatenate([places, corners.mean(1), middles])


def _fringe(identity: Identity, look: Look) -> tuple[float, float, float, float]:
    """Where hair in front of the face ends: height, depth behind which it stays, half width, whether to cut."""
    eyes = identity.vertices[np.concatenate(base_head().eyes)].mean(0)
    return float(eyes[1] + 0.36), float(eyes[2] - 0.30), 0.72, float(look.hair in FRINGED_HAIR)
