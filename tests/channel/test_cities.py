"""Drawn cities: reproducible, without overlapping buildings, with streets between them."""

import numpy as np
import pytest

from lwm_spectro_hf.channel.cities import CITY_PLANS, CITY_SIZE_M, draw_city, prism


def area(polygon):
    x, y = polygon.T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def inside(points, polygon):
    """Which points lie inside a convex polygon, counter-clockwise."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    towards = points[:, None] - polygon
    return (edges[:, 0] * towards[..., 1] - edges[:, 1] * towards[..., 0] > 0).all(1)


@pytest.mark.parametrize("name", CITY_PLANS)
def test_buildings_are_convex_apart_and_leave_streets(name):
    city = draw_city(CITY_PLANS[name], seed=0)
    points = np.random.default_rng(0).uniform(-CITY_SIZE_M / 2, CITY_SIZE_M / 2, (2000, 2))
    covered = np.zeros(len(points), int)
    for building in city:
        corners = building.footprint
        turns = [area(corners[[i, (i + 1) % 4, (i + 2) % 4]]) for i in range(4)]
        assert min(turns) > 0
        assert building.height_m >= 3
        covered += inside(points, corners)
    assert covered.max() == 1
    assert 0.1 < covered.mean() < 0.8
    median = np.median([building.height_m for building in city])
    assert abs(median / CITY_PLANS[name].height_m - 1) < 0.2
    assert {building.material for building in city} == set(CITY_PLANS[name].materials)


def test_sixteen_cities_differ_and_a_seed_gives_one():
    assert len(CITY_PLANS) == len(set(map(repr, CITY_PLANS.values()))) == 16
    assert {plan.grid for plan in CITY_PLANS.values()} == {"regular", "staggered", "irregular"}
    plan = CITY_PLANS["oldtown_brick"]
    first, again, other = (np.stack([b.footprint for b in draw_city(plan, seed)]) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first[:5], other[:5])


def test_a_prism_is_closed_and_faces_outward():
    building = draw_city(CITY_PLANS["suburb_brick"], seed=1)[0]
    vertices, triangles = prism(building)
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    # The area vectors of a closed surface add up to zero; only the floor is missing.
    np.testing.assert_allclose(normals.sum(0), [0, 0, area(building.footprint)], atol=1e-9)
    outward = corners.mean(1) - vertices.mean(0)
    assert ((normals * outward).sum(1) > 0).all()
