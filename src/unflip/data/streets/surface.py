"""How a street scene is drawn: faces become a map of face ids, and each look colors that map.

Labels, depths and the place of every pixel on its face all come from one id per pixel, so image and labels agree exactly. Colors
are RGB from 0 to 1 until the end. Textures are functions of the place on the face in meters, faded where a pixel covers more than
one period, so that one scene looks alike at every size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from unflip.seeding import numpy_rng

SKY, BUILDING, TREE, ROAD, SIDEWALK, CAR, SIGN, PERSON = range(8)
NEAR = 0.8  # meters: nothing closer is drawn
THIN = 0.4  # pixels: a thinner face is left out, so that small things vanish at small sizes instead of growing


class Plane(IntEnum):
    """Which way a face lies: flat, toward the driver, or along the street."""

    GROUND, FRONT, SIDE = range(3)


class Material(IntEnum):
    """What a face is made of, which decides how it is painted."""

    SKY, FACADE, ROOF, FOLIAGE, HEDGE, BARK, ASPHALT, MARK, PAVING, CURB, PAINT = range(11)
    GLASS, RUBBER, TAIL, LAMP, PLATE, METAL, SIGN, TROUSERS, SHIRT, SKIN = range(11, 21)


class Face(NamedTuple):
    """A flat polygon: ``points`` is (N, 3) in meters, ``at`` the coordinate that its plane fixes, and the rest steers its color.

    ``tone`` picks a color and ``seed`` a texture, both from 0 to 1; ``origin`` and ``size`` place the texture on the face.
    """

    label: int
    material: Material
    plane: Plane
    at: float
    points: np.ndarray
    tone: float
    seed: float
    origin: tuple[float, float] = (0.0, 0.0)
    size: float = 1.0


class Caster(NamedTuple):
    """A box that throws a shadow on the ground, in meters; a round one stands for a tree's crown at that height."""

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    round: bool = False


@dataclass(frozen=True)
class View:
    """The camera: a focal length, the vanishing point's place (both relative until :meth:`at_size`), and the eye's height."""

    focal: float
    center: float
    horizon: float
    eye: float

    def at_size(self, width: int, height: int) -> View:
        """The same view in pixels."""
        return replace(self, focal=self.focal * (width * height) ** 0.5, center=self.center * width, horizon=self.horizon * height)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates (N, 2) of points (N, 3), where whole numbers are pixel centers as Pillow has them."""
        scale = self.focal / points[:, 2]
        return np.stack((self.center + scale * points[:, 0] - 0.5, self.horizon - scale * (points[:, 1] - self.eye) - 0.5), axis=1)


@dataclass(frozen=True)
class Surface:
    """What each pixel shows; arrays are (H, W), or (n,) after :meth:`where`.

    ``u`` and ``v`` are the place on the face and ``du`` and ``dv`` what one pixel covers there, all in meters.
    """

    labels: np.ndarray
    material: np.ndarray
    plane: np.ndarray
    at: np.ndarray
    tone: np.ndarray
    seed: np.ndarray
    u0: np.ndarray
    v0: np.ndarray
    size: np.ndarray
    depth: np.ndarray
    u: np.ndarray
    v: np.ndarray
    du: np.ndarray
    dv: np.ndarray

    def where(self, mask: np.ndarray) -> Surface:
        """Only the pixels of a mask, as flat arrays."""
        index = np.flatnonzero(mask)
        return Surface(*(value.ravel()[index] for value in vars(self).values()))


@cache
def _outlines() -> np.ndarray:
    """Sixteen lobed unit outlines (16, 28, 2) for foliage."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    radius = 0.88 + 0.17 * numpy_rng(0, "streets", "outlines").random((16, 28))
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2)


def blob(label: int, material: Material, x: float, y: float, z: float, rx: float, ry: float, tone: float, seed: float) -> Face:
    """A ragged ellipse that faces the driver; it never reaches below the ground."""
    outline = _outlines()[int(16 * seed)]
    points = np.empty((len(outline), 3))
    points[:, 0], points[:, 1], points[:, 2] = x + rx * outline[:, 0], np.maximum(y + ry * outline[:, 1], 0), z
    return Face(label, material, Plane.FRONT, z, points, tone, seed, (x, y), ry)


def disc(
    label: int,
    material: Material,
    x: float,
    y: float,
    z: float,
    radius: float,
    tone: float,
    seed: float,
    plane: Plane = Plane.FRONT,
    corners: int = 12,
    spin: float = 0.0,
) -> Face:
    """A regular polygon that faces the driver, or the street when its plane is SIDE."""
    corner = radius * polygon(corners, spin)
    points = np.empty((corners, 3))
    points[:, 0], points[:, 1], points[:, 2] = x, y + corner[:, 1], z
    points[:, 2 if plane == Plane.SIDE else 0] += corner[:, 0]
    np.maximum(points[:, 2], NEAR, out=points[:, 2])
    return Face(label, material, plane, x if plane == Plane.SIDE else z, points, tone, seed, (x, y), radius)


@cache
def polygon(corners: int, spin: float = 0.0) -> np.ndarray:
    """The corners (N, 2) of a regular polygon of radius 1."""
    angle = spin + np.arange(corners) * (2 * np.pi / corners)
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


def rasterize(faces: list[Face], view: View, width: int, height: int) -> Surface:
    """Draw the faces in their order, then find each pixel's place on the face that it shows."""
    ids = _face_ids(faces, view, width, height)
    sky = Face(SKY, Material.SKY, Plane.FRONT, 1e4, np.empty((0, 3)), 0.5, 0.0)
    rows = np.array([(f.label, f.material, f.plane, f.at, f.tone, f.seed, *f.origin, f.size) for f in (sky, *faces)], dtype=np.float32)
    label, material, plane, at, tone, seed, u0, v0, size = (column[ids] for column in rows.T)
    across = ((np.arange(width) + 0.5 - view.center) / view.focal).astype(np.float32)[None, :]
    up = ((view.horizon - np.arange(height) - 0.5) / view.focal).astype(np.float32)[:, None]
    ground, side = plane == Plane.GROUND, plane == Plane.SIDE
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(ground, (at - view.eye) / np.minimum(up, -1e-4), np.where(side, at / across, at))
    depth = np.where(label == SKY, 1e4, np.clip(np.nan_to_num(depth, nan=NEAR), NEAR, 1500)).astype(np.float32)
    x, y, pixel = across * depth, view.eye + up * depth, depth / np.float32(view.focal)
    steep = pixel * depth
    return Surface(
        labels=label.astype(np.uint8),
        material=material.astype(np.uint8),
        plane=plane,
        at=at,
        tone=tone,
        seed=seed,
        u0=u0,
        v0=v0,
        size=size,
        depth=depth,
        u=np.where(side, depth, x),
        v=np.where(ground, depth, y),
        du=np.where(side, steep / np.maximum(np.abs(at), 0.5), pixel),
        dv=np.where(ground, steep / np.float32(view.eye), pixel),
    )


def _face_ids(faces: list[Face], view: View, width: int, height: int) -> np.ndarray:
    """The (H, W) map of face numbers from 1; 0 is the sky."""
    starts = np.cumsum([0, *(len(face.points) for face in faces)])
    points = view.project(np.concatenate([face.points for face in faces]))
    low, high = np.minimum.reduceat(points, starts[:-1]), np.maximum.reduceat(points, starts[:-1])
    seen = ((high - low) > THIN).all(1) & (high > -1).all(1) & (low < (width, height)).all(1)
    image = Image.new("I", (width, height))
    pen, flat, bounds = ImageDraw.Draw(image), points.ravel().tolist(), (2 * starts).tolist()
    for number in np.flatnonzero(seen).tolist():
        pen.polygon(flat[bounds[number] : bounds[number + 1]], fill=number + 1)
    return np.asarray(image)


_RENDER = {
    Material.SKY: (150, 205, 245), Material.FACADE: (205, 150, 110), Material.ROOF: (180, 95, 75), Material.FOLIAGE: (85, 190, 70),
    Material.HEDGE: (75, 175, 65), Material.BARK: (130, 95, 60), Material.ASPHALT: (125, 120, 140), Material.MARK: (235, 235, 240),
    Material.PAVING: (225, 205, 220), Material.CURB: (245, 235, 240), Material.PAINT: (60, 90, 220), Material.GLASS: (45, 60, 130),
    Material.RUBBER: (40, 45, 80), Material.TAIL: (235, 50, 60), Material.LAMP: (250, 245, 190), Material.PLATE: (250, 250, 250),
    Material.METAL: (240, 210, 60), Material.SIGN: (255, 200, 0), Material.TROUSERS: (150, 30, 90), Material.SHIRT: (235, 50, 110),
    Material.SKIN: (255, 200, 170),
}  # fmt: skip


def paint_render(surface: Surface) -> np.ndarray:
    """The flat look: one color per material, a little lighter or darker per object and per direction of the face."""
    table = np.array([_RENDER[material] for material in Material], dtype=np.float32)
    shade = np.array([0.96, 1.0, 0.84], dtype=np.float32)[surface.plane.astype(np.uint8)] * (0.9 + 0.2 * surface.tone)
    return to_bytes(table[surface.material] * shade[..., None] / 255)


def to_bytes(color: np.ndarray) -> np.ndarray:
    """RGB from 0 to 1 as uint8."""
    return np.clip(color * 255 + 0.5, 0, 255).astype(np.uint8)
