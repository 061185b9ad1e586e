"""Sixteen procedural cities for ray tracing: buildings as prisms, drawn from a table of city plans."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

CITY_SIZE_M = 600.0


@dataclass(frozen=True)
class CityPlan:
    """The parameters from which a city is drawn.

    Attributes:
        grid (`str`): `"regular"`; `"staggered"`, where every second row of blocks is shifted by half a block; or
            `"irregular"`, where street corners lie up to a fifth of a block off the grid.
        block_m (`tuple` of two `float`): Mean size of a block between the streets, east-west and
            north-south [m].
        street_m (`float`): Mean width of the streets [m].
        buildings (`tuple` of two `int`): Buildings in a block, east-west and north-south.
        gap (`float`): Largest share of a building's lot left open on each side.
        height_m (`float`): Median height of the buildings [m].
        height_sigma (`float`): Standard deviation of the logarithm of the heights.
        open_share (`float`): Share of the blocks that are squares or parks.
        materials (`dict` from `str` to `float`): Share of the buildings made of each material of ITU-R P.2040.
    """

    grid: Literal["regular", "staggered", "irregular"]
    block_m: tuple[float, float]
    street_m: float
    buildings: tuple[int, int]
    gap: float
    height_m: float
    height_sigma: float
    open_share: float
    materials: dict[str, float]


CITY_PLANS = {
    "oldtown_brick": CityPlan("irregular", (48, 42), 9, (3, 2), 0.02, 12, 0.20, 0.08, {"brick": 0.9, "wood": 0.1}),
    "oldtown_marble": CityPlan("irregular", (62, 55), 11, (3, 3), 0.0, 16, 0.15, 0.10, {"marble": 0.8, "brick": 0.2}),
    "bazaar_concrete": CityPlan("irregular", (36, 34), 7, (2, 2), 0.02, 9, 0.30, 0.06, {"concrete": 1.0}),
    "midtown_glass": CityPlan("regular", (78, 130), 24, (2, 3), 0.04, 55, 0.50, 0.05, {"glass": 0.6, "metal": 0.4}),
    "midtown_concrete": CityPlan(
        "regular", (90, 110), 20, (2, 3), 0.03, 32, 0.40, 0.08, {"concrete": 0.7, "glass": 0.3}
    ),
    "towers_glass": CityPlan("staggered", (70, 70), 38, (1, 1), 0.12, 65, 0.45, 0.10, {"glass": 0.8, "concrete": 0.2}),
    "boulevard_marble": CityPlan("regular", (95, 85), 34, (3, 3), 0.0, 21, 0.10, 0.06, {"marble": 1.0}),
    "superblock_brick": CityPlan(
        "regular", (113, 113), 20, (4, 4), 0.01, 20, 0.15, 0.05, {"brick": 0.8, "marble": 0.2}
    ),
    "terraces_brick": CityPlan("staggered", (120, 28), 15, (8, 2), 0.0, 9, 0.12, 0.06, {"brick": 1.0}),
    "estate_concrete": CityPlan("regular", (95, 18), 32, (1, 1), 0.05, 28, 0.25, 0.08, {"concrete": 1.0}),
    "slabs_mixed": CityPlan("staggered", (22, 80), 30, (1, 1), 0.06, 24, 0.40, 0.10, {"concrete": 0.6, "brick": 0.4}),
    "suburb_wood": CityPlan("regular", (90, 44), 14, (5, 2), 0.18, 7, 0.15, 0.06, {"wood": 0.8, "brick": 0.2}),
    "suburb_brick": CityPlan("irregular", (85, 60), 13, (4, 2), 0.14, 8, 0.20, 0.08, {"brick": 0.8, "wood": 0.2}),
    "campus_mixed": CityPlan(
        "irregular", (75, 70), 18, (1, 2), 0.10, 17, 0.35, 0.30, {"brick": 0.5, "concrete": 0.3, "glass": 0.2}
    ),
    "harbour_metal": CityPlan("staggered", (115, 65), 28, (2, 1), 0.05, 13, 0.25, 0.10, {"metal": 0.8, "brick": 0.2}),
    "works_metal": CityPlan("irregular", (95, 80), 22, (2, 2), 0.08, 15, 0.45, 0.12, {"metal": 0.6, "concrete": 0.4}),
}


@dataclass(frozen=True)
class Building:
    """A prism that stands on the ground.

    Attributes:
        footprint (`numpy.ndarray` of shape `(4, 2)`): Corners, counter-clockwise [m].
        height_m (`float`): Height of the flat roof [m].
        material (`str`): Material of walls and roof, as in ITU-R P.2040.
    """

    footprint: np.ndarray
    height_m: float
    material: str


def _point(corners: np.ndarray, u: float, v: float) -> np.ndarray:
    """Map the point `(u, v)` of the unit square to a quadrilateral by bilinear interpolation."""
    south = (1 - u) * corners[0] + u * corners[1]
    north = (1 - u) * corners[3] + u * corners[2]
    return (1 - v) * south + v * north


def _part(corners: np.ndarray, u: tuple[float, float], v: tuple[float, float]) -> np.ndarray:
    return np.stack([_point(corners, *uv) for uv in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))])


def _blocks(plan: CityPlan, rng: np.random.Generator) -> list[np.ndarray]:
    """Corners of the blocks, streets left out, each of shape `(4, 2)`, counter-clockwise [m]."""
    pitch = np.array(plan.block_m) + plan.street_m
    counts = np.maximum(np.round(CITY_SIZE_M / pitch).astype(int), 2)
    east, north = np.meshgrid(np.arange(counts[0] + 1), np.arange(counts[1] + 1), indexing="ij")
    lattice = np.stack([east, north], -1) * pitch - counts * pitch / 2
    if plan.grid == "irregular":
        lattice += rng.uniform(-0.2, 0.2, lattice.shape) * pitch
    street = rng.uniform(0.8, 1.2, counts.max()) * plan.street_m
    blocks = []
    for i, j in np.ndindex(*counts):
        corners = np.stack([lattice[i, j], lattice[i + 1, j], lattice[i + 1, j + 1], lattice[i, j + 1]])
        if plan.grid == "staggered":
            corners = corners + [(j % 2 - 0.5) * pitch[0] / 2, 0.0]
        margin = np.array([street[i], street[j]]) / (2 * pitch)
        blocks.append(_part(corners, (margin[0], 1 - margin[0]), (margin[1], 1 - margin[1])))
    return blocks


def draw_city(plan: CityPlan, seed: int) -> list[Building]:
    """Draws the buildings of a city. The same plan and seed give the same city.

    Args:
        plan (`CityPlan`): Parameters of the city.
        seed (`int`): Seed.

    Returns:
        `list` of [`Building`] without overlap.
    """
    rng = np.random.default_rng(seed)
    materials, shares = zip(*plan.materials.items(), strict=True)
    columns, rows = plan.buildings
    city = []
    for block in _blocks(plan, rng):
        if rng.random() < plan.open_share:
            continue
        for column, row in np.ndindex(columns, rows):
            if 0 < column < columns - 1 and 0 < row < rows - 1:
                continue  # the courtyard that the buildings around a block enclose
            gaps = rng.uniform(0, plan.gap, 4) + 1e-3  # touching walls would leave edges inside a wall
            u = ((column + gaps[0]) / columns, (column + 1 - gaps[1]) / columns)
            v = ((row + gaps[2]) / rows, (row + 1 - gaps[3]) / rows)
            height = plan.height_m * np.exp(plan.height_sigma * rng.standard_normal())
            city.append(Building(_part(block, u, v), float(max(height, 3.0)), str(rng.choice(materials, p=shares))))
    return city


def prism(building: Building) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of the walls and the roof. They share vertices, so that diffracting edges can be found.

    Args:
        building (`Building`): The building.

    Returns:
        Vertices, `numpy.ndarray` of shape `(8, 3)` [m], and the vertices of each triangle,
        `numpy.ndarray` of shape `(10, 3)`, counter-clockwise seen from outside.
    """
    heights = np.repeat([0.0, building.height_m], 4)[:, None]
    vertices = np.hstack([np.tile(building.footprint, (2, 1)), heights])
    walls = [triangle for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)) for triangle in ((i, j, j + 4), (i, j + 4, i + 4))]
    return vertices, np.array([*walls, (4, 5, 6), (4, 6, 7)])
