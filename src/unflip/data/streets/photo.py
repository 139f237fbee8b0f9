"""The photo look: textures in meters, light, shadows, haze and a camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from unflip.data.streets.surface import CAR, NEAR, SKY, Caster, Material, Plane, Surface, View, polygon, to_bytes
from unflip.seeding import numpy_rng


@dataclass(frozen=True)
class Weather:
    """What one photo's light is like: where the sun stands, its color, the air and the camera."""

    sun: np.ndarray  # unit vector toward the sun: right, up, toward the driver
    sunlight: np.ndarray
    skylight: np.ndarray
    zenith: np.ndarray
    haze: np.ndarray
    visibility: float
    clouds: float
    drift: tuple[float, float]
    exposure: float


def _weather(rng: np.random.Generator) -> Weather:
    side, high, back, warm, air, clouds, exposure, drift_u, drift_v = rng.random(9)
    sun = np.array([1.5 * side - 0.75, 0.55 + 0.35 * high, 0.2 + 0.5 * back])
    warm = 0.35 + 0.65 * warm
    return Weather(
        sun=sun / np.linalg.norm(sun),
        sunlight=np.array([1.02, 0.93 - 0.07 * warm, 0.80 - 0.25 * warm]),
        skylight=np.array([0.40, 0.46, 0.56]),
        zenith=np.array([0.20 + 0.08 * warm, 0.40 + 0.06 * clouds, 0.72]),
        haze=np.array([0.84, 0.82 - 0.05 * warm, 0.84 - 0.16 * warm]),
        visibility=170 + 200 * air,
        clouds=0.35 + 0.3 * clouds,
        drift=(37 * drift_u, 37 * drift_v),
        exposure=1.0 + 0.2 * exposure,
    )


@cache
def _lattice() -> np.ndarray:
    return numpy_rng(0, "streets", "lattice").random((256, 256), dtype=np.float32)


def _noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth random values from 0 to 1 that change over a distance of 1."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    iu, iv = iu.astype(np.int32) & 255, iv.astype(np.int32) & 255
    flat, right, below = _lattice().ravel(), (iu + 1) & 255, ((iv + 1) & 255) << 8
    iv <<= 8
    top = flat[iv | iu] * (1 - fu) + flat[iv | right] * fu
    bottom = flat[below | iu] * (1 - fu) + flat[below | right] * fu
    return top * (1 - fv) + bottom * fv


def _hash(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A random value from 0 to 1 for every whole (u, v)."""
    return _lattice()[v.astype(np.int32) & 255, u.astype(np.int32) & 255]


def _grain(s: Surface, period: float, fade: bool = True) -> np.ndarray:
    """Noise of about the given period in meters, from -0.5 to 0.5; it fades where a pixel covers more than a period."""
    shift = 211 * s.seed
    value = _noise(s.u / period + shift, s.v / period + shift) - 0.5
    return value * np.clip(1.6 - 1.2 * np.maximum(s.du, s.dv) / period, 0, 1) if fade else value


def _stripes(place: np.ndarray, covers: np.ndarray, low: float, high: float) -> np.ndarray:
    """How much of a pixel lies in [low, high] of each whole period, smoothed over what the pixel covers (in periods)."""
    inside = (high - low) / 2 - np.abs(place - np.floor(place) - (low + high) / 2)
    sharp = np.clip(inside / np.maximum(covers, 1e-3) + 0.5, 0, 1)
    return sharp + (high - low - sharp) * np.clip(2 * covers - 0.6, 0, 1)


def _rgb(*channels: float) -> np.ndarray:
    return np.array(channels, dtype=np.float32)


def _mix(a: np.ndarray, b: np.ndarray | tuple, amount: np.ndarray) -> np.ndarray:
    return a + (np.asarray(b, dtype=np.float32) - a) * amount[..., None]


def _pick(colors: list[tuple[float, float, float]], choice: np.ndarray) -> np.ndarray:
    return np.array(colors, dtype=np.float32)[np.minimum((choice * len(colors)).astype(np.int32), len(colors) - 1)]


_WALLS = [(0.56, 0.29, 0.22), (0.74, 0.62, 0.45), (0.62, 0.40, 0.30), (0.80, 0.74, 0.64), (0.58, 0.54, 0.50), (0.70, 0.52, 0.36)]
_PAINTS = [(0.85, 0.85, 0.86), (0.10, 0.11, 0.13), (0.55, 0.57, 0.60), (0.62, 0.08, 0.08), (0.14, 0.24, 0.45), (0.30, 0.32, 0.35)]
_CLOTHES = [(0.20, 0.26, 0.40), (0.62, 0.16, 0.16), (0.82, 0.80, 0.74), (0.18, 0.18, 0.19), (0.70, 0.55, 0.22), (0.25, 0.42, 0.36)]
_SIGNS = [(0.75, 0.08, 0.08), (0.10, 0.25, 0.62), (0.75, 0.08, 0.08), (0.86, 0.66, 0.06)]


def _facade(s: Surface, weather: Weather) -> np.ndarray:
    """Brick or plaster with rows of windows; a tall building has a shop floor, and no window crosses the eaves."""
    cell = 1.7 + 1.5 * s.seed
    column, floor = (s.u - s.u0) / cell, s.v / 3.1
    brick = _hash(np.floor(64 * s.tone), np.floor(64 * s.seed)) < 0.6
    joints = _stripes(s.v / 0.3, s.dv / 0.3, 0.0, 0.2) * np.where(brick, 0.22, 0.05)
    wall = _pick(_WALLS, s.tone) * (1 + 0.5 * _grain(s, 1.6) + 0.3 * _grain(s, 0.28) - joints)[:, None]
    ledge = _stripes(floor + 0.06, s.dv / 3.1, 0.0, 0.09)
    wall = _mix(wall, (0.82, 0.79, 0.73), 0.55 * ledge)
    fits = (np.floor(floor) + 0.9) * 3.1 < s.size
    shop = (floor < 1) & (s.size > 9)
    wide = _stripes(column / 2, s.du / cell / 2, 0.06, 0.94) * _stripes(floor, s.dv / 3.1, 0.12, 0.84)
    narrow = _stripes(column, s.du / cell, 0.24, 0.76) * _stripes(floor, s.dv / 3.1, 0.28, 0.82)
    frame = _stripes(column, s.du / cell, 0.18, 0.82) * _stripes(floor, s.dv / 3.1, 0.22, 0.87) * (fits & ~shop)
    wall = _mix(wall, (0.86, 0.84, 0.80), 0.6 * frame)
    luck = _hash(np.floor(column) + 99 * s.seed, np.floor(floor) + 77 * s.tone)
    pane = _mix(_rgb(0.10, 0.13, 0.17) + 0 * wall, weather.haze * 0.75, np.clip(0.7 * luck + 0.35 * (floor % 1) - 0.3, 0, 1))
    pane = _mix(pane, (0.95, 0.75, 0.42), 0.75 * (luck > 0.93))
    return _mix(wall, pane, np.where(shop, wide, narrow * fits))


def _roof(s: Surface, weather: Weather) -> np.ndarray:
    rows = _stripes(s.v / 0.35, s.dv / 0.35, 0.0, 0.25)
    tile = _pick([(0.50, 0.24, 0.17), (0.33, 0.30, 0.30), (0.44, 0.30, 0.22)], s.seed)
    return tile * (1 - 0.3 * rows + 0.4 * _grain(s, 0.5))[:, None]


def _foliage(s: Surface, weather: Weather) -> np.ndarray:
    """Clumps lit like balls, with leaves in three sizes; the leaves never fade, as far foliage is grainy too."""
    round_ = s.plane == Plane.FRONT
    right = np.where(round_ & (s.material == Material.FOLIAGE), (s.u - s.u0) / s.size, 0)
    up = np.where(s.material == Material.FOLIAGE, (s.v - s.v0) / s.size, 1.6 * s.v / s.size - 0.8)
    front = np.sqrt(np.clip(1 - right**2 - up**2, 0.05, 1))
    lit = right * weather.sun[0] + up * weather.sun[1] + front * weather.sun[2]
    leaves = 0.9 * _grain(s, 0.75, fade=False) + 0.8 * _grain(s, 0.24, fade=False) + 0.6 * _grain(s, 0.09, fade=False)
    bright = np.clip(0.36 + 0.42 * lit + 0.85 * leaves, 0, 1)
    leaf = _pick([(0.40, 0.52, 0.12), (0.32, 0.47, 0.13), (0.47, 0.52, 0.14), (0.27, 0.42, 0.15)], s.tone)
    return _mix(_rgb(0.035, 0.075, 0.03) + 0 * leaf, 1.15 * leaf, bright)


def _asphalt(s: Surface, weather: Weather) -> np.ndarray:
    tracks = 0.05 * np.cos(s.u * 3.6) + 0.22 * _grain(replace(s, v=s.v / 6, dv=s.dv / 6), 0.9)
    shade = 0.34 * (1 + tracks + 0.7 * _grain(s, 0.03) + 0.2 * _grain(s, 0.2) + 0.25 * _grain(s, 2.5))
    return shade[:, None] * _rgb(1.0, 0.98, 0.97)


def _mark(s: Surface, weather: Weather) -> np.ndarray:
    worn = np.clip(0.95 + 1.1 * _grain(s, 0.25) + 1.2 * _grain(s, 1.1) - 0.15, 0.1, 0.95)
    return _mix(_asphalt(s, weather), (0.80, 0.79, 0.74), worn)


def _paving(s: Surface, weather: Weather) -> np.ndarray:
    joints = np.maximum(_stripes(s.u / 0.8, s.du / 0.8, 0, 0.07), _stripes(s.v / 0.8, s.dv / 0.8, 0, 0.07))
    slab = 0.14 * (_hash(np.floor(s.u / 0.8), np.floor(s.v / 0.8)) - 0.5) * (s.dv < 0.5)
    shade = 0.56 * (1 + slab + 0.3 * _grain(s, 0.12) + 0.3 * _grain(s, 1.7) - 0.4 * joints)
    return shade[:, None] * _rgb(1.0, 0.95, 0.87)


def _paint(s: Surface, weather: Weather) -> np.ndarray:
    """Car paint: a bright shoulder that mirrors the sky, and a darker sill that mirrors the road."""
    shine = np.clip(1.6 * s.v - 0.75, 0, 0.9) ** 2 * 0.5
    paint = _pick(_PAINTS, s.tone) * np.clip(0.55 + 0.6 * s.v, 0, 1.1)[:, None]
    return _mix(paint, weather.haze, np.where(s.plane == Plane.GROUND, 0.4, shine))


def _glass(s: Surface, weather: Weather) -> np.ndarray:
    return _mix(_rgb(0.05, 0.06, 0.08) + np.zeros((len(s.v), 3), np.float32), weather.haze, np.clip(1.1 * s.v - 1.0, 0.05, 0.6))


def _plain(*colors: tuple[float, float, float], rough: float = 0.0) -> Callable[[Surface, Weather], np.ndarray]:
    def paint(s: Surface, weather: Weather) -> np.ndarray:
        return _pick(list(colors), (s.tone * 7.3 + s.seed) % 1) * (1 + rough * _grain(s, 0.12, fade=False))[:, None]

    return paint


_PHOTO: dict[Material, Callable[[Surface, Weather], np.ndarray]] = {
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.FOLIAGE: _foliage,
    Material.HEDGE: _foliage,
    Material.BARK: _plain((0.24, 0.18, 0.13), (0.30, 0.25, 0.20), rough=0.9),
    Material.ASPHALT: _asphalt,
    Material.MARK: _mark,
    Material.PAVING: _paving,
    Material.CURB: _plain((0.62, 0.60, 0.56), rough=0.3),
    Material.PAINT: _paint,
    Material.GLASS: _glass,
    Material.RUBBER: _plain((0.05, 0.05, 0.055)),
    Material.TAIL: _plain((0.75, 0.05, 0.04)),
    Material.LAMP: _plain((0.98, 0.96, 0.88)),
    Material.PLATE: _plain((0.88, 0.88, 0.84)),
    Material.METAL: _plain((0.42, 0.43, 0.44)),
    Material.SIGN: _plain(*_SIGNS),
    Material.TROUSERS: _plain((0.13, 0.16, 0.24), (0.20, 0.18, 0.16), (0.09, 0.09, 0.10), rough=0.5),
    Material.SHIRT: _plain(*_CLOTHES, rough=0.4),
    Material.SKIN: _plain((0.78, 0.58, 0.46), (0.42, 0.28, 0.20), (0.64, 0.45, 0.34)),
}
_SELF_LIT = [Material.FOLIAGE, Material.HEDGE, Material.TAIL, Material.LAMP, Material.SKY]


def paint_photo(surface: Surface, view: View, casters: list[Caster], rng: np.random.Generator) -> np.ndarray:
    """The lit look: textures, sun and shadows, haze, then what a camera adds (exposure, soft focus, noise)."""
    weather = _weather(rng)
    height, width = surface.labels.shape
    color = np.empty((height * width, 3), dtype=np.float32)
    color[np.flatnonzero(surface.labels == SKY)] = _sky(surface, view, weather)
    for material in np.unique(surface.material).tolist():
        if material != Material.SKY:
            mask = surface.material == material
            color[np.flatnonzero(mask)] = _PHOTO[Material(material)](surface.where(mask), weather)
    color = color.reshape(height, width, 3) * _light(surface, view, weather, casters)
    far = np.where(surface.labels == SKY, 0, 1 - np.exp(-surface.depth / weather.visibility))
    color = _mix(color, weather.haze, 0.85 * far) * weather.exposure
    color = np.clip(color, 0, 1)
    color = color * color * (3 - 2 * color) * 0.35 + color * 0.65  # a mild film curve
    soft = Image.fromarray(to_bytes(color)).filter(ImageFilter.GaussianBlur(0.35 + 0.15 * (width * height) ** 0.5 / 512))
    noise = rng.standard_normal((height, width, 1), dtype=np.float32) + 0.5 * rng.standard_normal((height, width, 3), dtype=np.float32)
    return to_bytes(np.asarray(soft, dtype=np.float32) / 255 + 0.011 * noise)


def _sky(surface: Surface, view: View, weather: Weather) -> np.ndarray:
    """The (n, 3) colors of the sky's pixels: pale at the horizon, blue above, with clouds in perspective."""
    row, column = np.nonzero(surface.labels == SKY)
    up = np.maximum((view.horizon - row) / view.focal, 0).astype(np.float32)
    across = ((column - view.center) / view.focal).astype(np.float32)
    lift = 1 / (up + 0.22)
    u, v = 1.5 * across * lift + weather.drift[0], 2.4 * lift + weather.drift[1]
    billow = 0.5 * _noise(u, v) + 0.27 * _noise(2.1 * u + 9, 2.1 * v) + 0.15 * _noise(4.3 * u, 4.3 * v + 5) + 0.08 * _noise(9 * u, 9 * v)
    cloud = np.clip((billow - 0.80 + 0.75 * weather.clouds) * 4.5, 0, 1) * np.clip(4 * up, 0.15, 1)
    blue = _mix(np.broadcast_to(np.float32(weather.haze), (len(up), 3)), weather.zenith, np.clip(1.9 * up, 0, 1) ** 0.7)
    white = _rgb(0.97, 0.95, 0.93) * (0.86 + 0.2 * np.clip(1.6 * billow - 0.4, 0, 0.7))[:, None]
    return _mix(blue, white, 0.9 * cloud)


def _light(surface: Surface, view: View, weather: Weather, casters: list[Caster]) -> np.ndarray:
    """(H, W, 3) of how much light each pixel gets: the sun by the face's direction, less where a shadow lies, plus the sky's."""
    plane = surface.plane.astype(np.uint8)
    toward = np.array([weather.sun[1], weather.sun[2], 0], dtype=np.float32)[plane]
    toward = np.where(plane == Plane.SIDE, np.maximum(-np.sign(surface.at) * weather.sun[0], 0), toward)
    lit = np.clip(1.25 * toward + 0.12, 0, 1)
    ground = (plane == Plane.GROUND) & (surface.labels != CAR)
    lit = np.where(ground, lit * (1 - 0.9 * _shadows(surface, view, weather, casters)), lit)
    lowness = np.where(ground, 1, np.clip(0.72 + 0.12 * surface.v, 0, 1))
    light = (weather.sunlight * 0.9) * lit[..., None] + weather.skylight * 1.05 * lowness[..., None]
    return np.where(np.isin(surface.material, _SELF_LIT)[..., None], 1.0, light).astype(np.float32)


def _shadows(surface: Surface, view: View, weather: Weather, casters: list[Caster]) -> np.ndarray:
    """(H, W) from 0 to 1: how much of the sun is hidden on the ground, soft at the edges and dappled under trees."""
    height, width = surface.labels.shape
    slide, push = -weather.sun[0] / weather.sun[1], weather.sun[2] / weather.sun[1]  # per meter of height: right, ahead
    near = sorted((caster for caster in casters if caster.z0 < 80), key=lambda caster: not caster.round)  # solid ones win over dappled
    outlines = [_shadow(caster, slide * caster.height, push * caster.height) for caster in near]
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    if near:
        flat, start = view.project(np.concatenate(outlines)).ravel().tolist(), 0
        for caster, outline in zip(near, outlines, strict=True):
            pen.polygon(flat[start : start + 2 * len(outline)], fill=170 if caster.round else 255)
            start += 2 * len(outline)
    blurred = image.filter(ImageFilter.GaussianBlur(max(0.4, (width * height) ** 0.5 / 160)))
    return np.asarray(blurred, dtype=np.float32) / 255


def _shadow(caster: Caster, dx: float, dz: float) -> np.ndarray:
    """The outline (N, 3) of a shadow whose top is moved by dx to the right and dz ahead."""
    x0, x1, z0, z1, _, is_round = caster
    if is_round:
        points = np.zeros((12, 3))
        points[:, ::2] = polygon(12) * ((x1 - x0) / 2, (z1 - z0) / 2) + ((x0 + x1) / 2 + dx, (z0 + z1) / 2 + dz)
    else:  # the base, swept to the top's place; dz is never negative, as the sun stands behind the driver
        a, b = (x0, x1) if dx > 0 else (x1, x0)
        swept = (a, 0, z0), (b, 0, z0), (b + dx, 0, z0 + dz), (b + dx, 0, z1 + dz), (a + dx, 0, z1 + dz), (a, 0, z1)
        points = np.array(swept, dtype=np.float64)
    np.maximum(points[:, 2], NEAR, out=points[:, 2])
    return points
