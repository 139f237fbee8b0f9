"""Where things stand along a made street: lists of flat faces in meters, for given class shares."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from unflip.data.streets import surface
from unflip.data.streets.surface import BUILDING, CAR, NEAR, PERSON, ROAD, SIDEWALK, SIGN, TREE, Caster, Face, Material, Plane, View
from unflip.errors import UserError

FAR = 240.0  # meters: where the street ends and the skyline stands


@dataclass(frozen=True)
class Shares:
    """How much of each class a scene tends to show, each from 0 to 1; 0 leaves out everything but sky, road and sidewalk.

    Raising one raises that class's mean pixel share: ``sky`` tilts the view up and lowers buildings, ``building`` and ``tree`` fill
    the lots and make them taller, ``road`` and ``sidewalk`` widen the strips, and the others set how many stand along the street.
    """

    sky: float = 0.5
    building: float = 0.5
    tree: float = 0.5
    road: float = 0.5
    sidewalk: float = 0.5
    car: float = 0.5
    sign: float = 0.5
    person: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:  # also refuses NaN
                raise UserError(f"share {field.name} is {getattr(self, field.name)}; give a number from 0 to 1")


# The layout: every length is in meters. Things are drawn by falling keys: a building's far end, so that all before it hides it, and a
# car's near end, so that it hides what stands beside it farther from the road's middle.

Thing = tuple[float, list[Face], list[Caster]]


@dataclass(frozen=True)
class Street:
    """The strips of one street: the curbs and lot lines of the left (negative x) and right side."""

    curb: tuple[float, float]
    lot: tuple[float, float]


def layout(rng: np.random.Generator, shares: Shares) -> tuple[View, list[Face], list[Caster]]:
    """The view, the faces from far to near, and what casts shadows."""
    a, b, c, d, e, f = rng.random(6)
    view = View(focal=0.64 + 0.14 * a, center=0.42 + 0.16 * b, horizon=0.41 + 0.22 * shares.sky + 0.06 * c, eye=1.4 + 0.4 * d)
    right, left = 1.9 + 2.6 * shares.road + 0.3 * e, -3.4 - 5.2 * shares.road - 0.8 * f
    walk = 1.6 + 5.2 * shares.sidewalk
    street = Street(curb=(left, right), lot=(left - walk, right + walk))
    things = [*_skyline(rng, shares), *_cars(rng, shares, street)]
    for side in (0, 1):
        things += [*_lots(rng, shares, street, side), *_street_trees(rng, shares, street, side), *_signs(rng, shares, street, side)]
        things += _people(rng, shares, street, side)
    things.sort(key=lambda thing: -thing[0])
    faces = _ground(rng, street)
    for _, parts, _ in things:
        faces += parts
    return view, faces, [caster for thing in things for caster in thing[2]]


def _along(rng: np.random.Generator, start: float, step: tuple[float, float], stop: float) -> Iterator[tuple[float, np.ndarray]]:
    """Places along the street at uneven steps, each with eight numbers from 0 to 1 for what stands there."""
    z = start
    while z < stop:
        dice = rng.random(8)
        yield z, dice
        z += step[0] + (step[1] - step[0]) * dice[7]


def _ground(rng: np.random.Generator, street: Street) -> list[Face]:
    left, right = street.curb
    middle = (left + right) / 2
    faces = [_flat(SIDEWALK, Material.PAVING, -900, 900, NEAR, 1500, 0.5), _flat(ROAD, Material.ASPHALT, left, right, NEAR, 1500, 0.5)]
    for curb, outward in ((left, -0.25), (right, 0.25)):
        faces.append(_flat(SIDEWALK, Material.CURB, curb, curb + outward, NEAR, 300, 0.5))
        faces.append(_flat(ROAD, Material.MARK, curb - outward, curb - 2 * outward, NEAR, 300, 0.2))
    phase, has_crossing, crossing = rng.random(3)
    for start in np.arange(NEAR + 6 * phase, 120, 7.0).tolist():
        faces.append(_flat(ROAD, Material.MARK, middle - 0.09, middle + 0.09, start, start + 3.2, 0.8))
    if has_crossing < 0.35:
        start = 7 + 14 * crossing
        for x in np.arange(left + 0.9, right - 0.9, 1.1).tolist():
            faces.append(_flat(ROAD, Material.MARK, x, x + 0.55, start, start + 3.0, 0.8))
    return faces


def _skyline(rng: np.random.Generator, shares: Shares) -> Iterator[Thing]:
    for x, (kind, tall, wide, tone, seed, *_) in _along(rng, -270, (12, 24), 270):
        z = FAR + 40 + 20 * wide
        if kind * (shares.building + shares.tree + 0.15) < shares.building:
            high = (6 + 34 * shares.building * tall) * (1.3 - 0.6 * shares.sky)
            yield z, [_upright(BUILDING, Material.FACADE, x, x + 12 + 12 * wide, 0, high, z, tone, seed, high)], []
        elif kind * (shares.building + shares.tree + 0.15) < shares.building + shares.tree:
            radius = 5 + 5 * tall
            yield z, [surface.blob(TREE, Material.FOLIAGE, x, 0.6 * radius, z, radius * (1 + wide), radius, tone, seed)], []


def _lots(rng: np.random.Generator, shares: Shares, street: Street, side: int) -> Iterator[Thing]:
    """Buildings, green lots and open lots, side by side behind the sidewalk."""
    total = shares.building + shares.tree + 0.06 + 0.12 * shares.sky
    for start, dice in _along(rng, -9 + 8 * rng.random(), (8, 18), FAR):
        stop = start + 8 + 10 * dice[7] - 2.5 * dice[6] * (1.1 - shares.building)  # the same length as the step, less an alley
        if stop <= NEAR + 1:
            continue
        kind = dice[0] * total
        if kind < shares.building:
            yield _building(dice, shares, street.lot[side], start, stop)
        elif kind < shares.building + shares.tree:
            yield from _garden(rng, dice, shares, street.lot[side], start, stop)


def _building(dice: np.ndarray, shares: Shares, lot: float, start: float, stop: float) -> Thing:
    _, a, b, tone, seed, wide, *_ = dice.tolist()
    out = 1.0 if lot > 0 else -1.0
    high = (3.6 + (1.5 + 24 * shares.building**1.5) * (0.45 + 0.75 * a)) * (1.25 - 0.5 * shares.sky)
    near_x = lot + out * 5 * b * (1 - shares.building)
    far_x = near_x + out * (8 + 6 * wide)
    base = max(start, NEAR)
    faces = [_side(BUILDING, Material.FACADE, near_x, base, stop, 0, high, tone, seed, high)]
    if start > NEAR:
        faces.append(_upright(BUILDING, Material.FACADE, near_x, far_x, 0, high, start, tone, seed, high))
    if high < 8:  # a house: the eaves run along the street and the gable faces the driver
        ridge, top, eave = (near_x + far_x) / 2, high + 0.33 * abs(far_x - near_x), near_x - out * 0.4
        slope = [(eave, high, base), (ridge, top, base), (ridge, top, stop), (eave, high, stop)]
        faces.append(Face(BUILDING, Material.ROOF, Plane.SIDE, near_x, np.array(slope), tone, seed))
        if start > NEAR:
            gable = [(near_x, high, start), (ridge, top, start), (far_x, high, start)]
            faces.append(Face(BUILDING, Material.FACADE, Plane.FRONT, start, np.array(gable), tone, seed, (near_x, 0), 0.0))
    return stop, faces, [Caster(min(near_x, far_x), max(near_x, far_x), base, stop, high)]


def _garden(rng: np.random.Generator, dice: np.ndarray, shares: Shares, lot: float, start: float, stop: float) -> Iterator[Thing]:
    _, a, b, tone, seed, hedged, *_ = dice.tolist()
    out = 1.0 if lot > 0 else -1.0
    for z in (start + 0.3 * (stop - start), start + 0.8 * (stop - start))[: 2 if start < 90 else 1]:
        if z > 4:
            more = rng.random(8)
            yield _tree(more, lot + out * (2 + 3 * more[0]), z, 0.7 + 0.9 * shares.tree)
    if hedged < 0.75:
        high, base = 0.8 + 0.8 * a, max(start, NEAR)
        faces = [_side(TREE, Material.HEDGE, lot, base, stop, 0, high, tone, seed, high)]
        if start > NEAR:
            faces.append(_upright(TREE, Material.HEDGE, lot, lot + out * (1 + 4 * b), 0, high, start, tone, seed, high))
        yield stop, faces, []


def _street_trees(rng: np.random.Generator, shares: Shares, street: Street, side: int) -> Iterator[Thing]:
    out = 1.0 if side else -1.0
    for z, dice in _along(rng, 5 + 5 * rng.random(), (6, 11), 140):
        if dice[0] < 0.85 * shares.tree:
            yield _tree(dice, street.curb[side] + out * 0.9, z, 0.55 + 0.75 * shares.tree)


def _tree(dice: np.ndarray, x: float, z: float, scale: float) -> Thing:
    """A trunk and a crown of overlapping clumps; far crowns have fewer, since nobody can tell them apart."""
    _, a, b, tone, seed, lean, *_ = dice.tolist()
    radius, trunk = scale * (1.3 + 1.1 * a), 2.0 + 1.2 * b
    middle = trunk + 0.8 * radius
    faces = [_upright(TREE, Material.BARK, x - 0.07 * radius - 0.05, x + 0.07 * radius + 0.05, 0, middle, z, tone, seed, 1.0)]
    around = 5 if z < 36 else 3 if z < 72 else 0
    angles = [2 * math.pi * (lean + k / around) for k in range(around)]
    clumps = [(0.62 * math.cos(angle), 0.15 + 0.62 * math.sin(angle), 0.58 if around == 5 else 0.68) for angle in angles]
    for k, (dx, dy, size) in enumerate([*clumps, (0.0, 0.2, 0.7 if around else 1.1)]):
        where = x + dx * radius, middle + dy * radius
        faces.append(surface.blob(TREE, Material.FOLIAGE, *where, z, size * radius, size * radius, tone, (seed + 0.17 * k) % 1))
    return z, faces, [Caster(x - radius, x + radius, z - radius, z + radius, middle, round=True)]


def _cars(rng: np.random.Generator, shares: Shares, street: Street) -> Iterator[Thing]:
    left, right = street.curb
    driving, parked = (0.9, FAR), (0.7, 150.0)  # how often a place is taken, and how far the lane is drawn
    lanes = [(0.0, 9, (11.0, 34.0), driving, True), (left / 2, 8, (12.0, 40.0), driving, False)]
    if right > 2.8:  # room to park beside the lane
        lanes.append((right - 1.05, 5, (5.6, 7.5), parked, True))
    if left < -6:
        lanes.append((left + 1.05, 5, (5.6, 7.5), parked, False))
    for x, start, step, (often, stop), rear in lanes:
        ahead = 4 if stop == FAR else 0  # a driving car hides the parked one that it passes
        for z, dice in _along(rng, start + 8 * rng.random(), step, stop):
            if dice[0] < often * shares.car:
                faces, caster = _car(dice, x + 0.3 * (dice[1] - 0.5), z, rear)
                yield z - ahead, faces, [caster]


def _car(dice: np.ndarray, x: float, z: float, rear: bool) -> tuple[list[Face], Caster]:
    """A car seen from behind (or from the front, when it comes toward the driver): the end and the side that face the driver."""
    *_, a, b, tone, seed, _, _ = dice.tolist()
    half, long, belt, roof = 0.84 + 0.08 * a, 3.9 + 0.7 * b, 0.92, 1.4 + 0.25 * b
    deck, slope = (0.35, 0.45) if rear else (0.95, 0.7)  # how far the end reaches before the window, and how far that leans
    flank = x - half if x > 0 else x + half
    inner = x - half + 0.16 if x > 0 else x + half - 0.16
    w0, w1, far = z + deck, z + deck + slope, z + long - 0.9

    def part(material: Material, plane: Plane, at: float, *points: tuple[float, float, float]) -> Face:
        return Face(CAR, material, plane, at, np.array(points), tone, seed)

    def end(material: Material, x0: float, x1: float, y0: float, y1: float) -> Face:
        return _upright(CAR, material, x0, x1, y0, y1, z, tone, seed, 1.0)

    def window(material: Material, edge: float, lift: float) -> list[Face]:
        """The cabin's side and end; ``edge`` and ``lift`` inset the glass from the paint."""
        y0, y1, s0, s1 = belt + edge / 3, roof - edge, far - 2 * edge, far - 0.4 - edge
        side = part(material, Plane.SIDE, flank, (flank, y0, w0 + lift), (inner, y1, w1 + edge), (inner, y1, s1), (flank, y0, s0))
        low, high = half - edge, half - 0.16 - edge
        corners = (x - low, y0, w0), (x - high, y1, w1), (x + high, y1, w1), (x + low, y0, w0)
        return [side, part(material, Plane.FRONT, w0, *corners)]

    faces = [part(Material.PAINT, Plane.SIDE, flank, (flank, belt, z), (flank, belt, z + long), (flank, 0.28, z + long), (flank, 0.28, z))]
    faces += [*window(Material.PAINT, 0.0, 0.0), *window(Material.GLASS, 0.1, 0.25)]
    top = (x - half, belt, z), (x - half, belt, w0), (x + half, belt, w0), (x + half, belt, z)
    faces += [part(Material.PAINT, Plane.GROUND, belt, *top), end(Material.PAINT, x - half, x + half, 0.26, belt)]
    if z < 80:  # beyond, these parts are too small to see
        wheels = [surface.disc(CAR, Material.RUBBER, flank, 0.31, at, 0.31, tone, seed, Plane.SIDE) for at in (z + 0.75, z + long - 0.75)]
        wheels += [end(Material.RUBBER, *span, 0, 0.4) for span in ((x - half + 0.05, x - half + 0.3), (x + half - 0.3, x + half - 0.05))]
        faces = [*faces[:-1], *wheels, faces[-1], end(Material.RUBBER, x - half, x + half, 0.22, 0.4)]
        lamp = Material.TAIL if rear else Material.LAMP
        faces += [end(lamp, x - half + 0.03, x - half + 0.32, 0.62, 0.8), end(lamp, x + half - 0.32, x + half - 0.03, 0.62, 0.8)]
        faces.append(end(Material.PLATE, x - 0.24, x + 0.24, 0.5, 0.62))
    return faces, Caster(x - half, x + half, z, z + long, 0.9)


def _signs(rng: np.random.Generator, shares: Shares, street: Street, side: int) -> Iterator[Thing]:
    out = 1.0 if side else -1.0
    for z, (there, a, b, tone, seed, shape, *_) in _along(rng, 5 + 6 * rng.random(), (7, 15), 200):
        if there < 0.8 * shares.sign:
            x, high, radius = street.curb[side] + out * (0.45 + 0.3 * a), 2.2 + 0.6 * b, 0.40 + 0.14 * a
            corners, spin = ((24, 0.0), (4, 0.785), (3, 1.571), (8, 0.393))[int(4 * shape)]
            faces = [_upright(SIGN, Material.METAL, x - 0.05, x + 0.05, 0, high, z, tone, seed, 1.0)]
            faces.append(surface.disc(SIGN, Material.SIGN, x, high, z, radius, tone, seed, corners=corners, spin=spin))
            if tone < 0.7:
                faces.append(surface.disc(SIGN, Material.PLATE, x, high, z, 0.62 * radius, tone, seed, corners=corners, spin=spin))
            yield z, faces, [Caster(x - 0.05, x + 0.05, z - 0.05, z + 0.05, high)]


def _people(rng: np.random.Generator, shares: Shares, street: Street, side: int) -> Iterator[Thing]:
    for z, (there, a, b, tone, seed, stride, *_) in _along(rng, 4.5 + 3 * rng.random(), (2.5, 6), 100):
        if there < 0.85 * shares.person:
            near, far = street.curb[side], street.lot[side]
            x, h, step = near + (far - near) * (0.3 + 0.6 * a), 1.55 + 0.3 * b, 0.04 + 0.14 * stride
            legs = [
                [(x - 0.17, 0.52 * h, z), (x + 0.02, 0.52 * h, z), (x - step + 0.05, 0, z), (x - step - 0.1, 0, z)],
                [(x - 0.02, 0.52 * h, z), (x + 0.17, 0.52 * h, z), (x + step + 0.1, 0, z), (x + step - 0.05, 0, z)],
            ]
            body = [(x - 0.13, 0.86 * h, z), (x + 0.13, 0.86 * h, z), (x + 0.26, 0.78 * h, z), (x + 0.27, 0.48 * h, z)]
            body += [(x - 0.27, 0.48 * h, z), (x - 0.26, 0.78 * h, z)]
            faces = [Face(PERSON, Material.TROUSERS, Plane.FRONT, z, np.array(leg), tone, seed) for leg in legs]
            faces.append(Face(PERSON, Material.SHIRT, Plane.FRONT, z, np.array(body), tone, seed))
            faces.append(surface.disc(PERSON, Material.SKIN, x, 0.92 * h, z, 0.125, tone, seed))
            yield z, faces, [Caster(x - 0.2, x + 0.2, z - 0.2, z + 0.2, h)]


def _flat(label: int, material: Material, x0: float, x1: float, z0: float, z1: float, tone: float) -> Face:
    points = np.array([(x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)])
    return Face(label, material, Plane.GROUND, 0.0, points, tone, 0.0)


def _upright(
    label: int, material: Material, x0: float, x1: float, y0: float, y1: float, z: float, tone: float, seed: float, size: float
) -> Face:
    points = np.array([(x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)])
    return Face(label, material, Plane.FRONT, z, points, tone, seed, (x0, y0), size)


def _side(
    label: int, material: Material, x: float, z0: float, z1: float, y0: float, y1: float, tone: float, seed: float, size: float
) -> Face:
    points = np.array([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)])
    return Face(label, material, Plane.SIDE, x, points, tone, seed, (z0, y0), size)
