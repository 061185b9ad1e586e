"""Ray-traced scenarios: base stations and users in the streets of a city, traced with Sionna RT, stored as DeepMIMO.

Needs the extras `raytracing` and `data`; `dataset_scripts/trace_scenarios.py` runs it.
"""

import contextlib
import io
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..extras import require
from .cities import CITY_PLANS, CITY_SIZE_M, Building, draw_city, prism

# Scenes that Sionna RT ships, and the name of the ground object in each.
REAL_CITIES = {
    "munich": ("munich", "ground"),
    "paris": ("etoile", "Plane"),
    "florence": ("florence", "ground"),
    "san_francisco": ("san_francisco", "Terrain"),
}
TRACED_CITIES = (*REAL_CITIES, *CITY_PLANS)

ABOVE_ALL_M = 1000.0
# Bits of the mantissa that are kept: errors up to 0.03 ns at 1 us, 0.03 dB at 100 dB, 0.1 degrees at 90 degrees.
MANTISSA_BITS = {"delay": 15, "power": 11, "phase": 9, "aoa_az": 9, "aoa_el": 9, "aod_az": 9, "aod_el": 9}


@dataclass(frozen=True)
class Tracing:
    """How a city is traced.

    Attributes:
        carrier_hz (`float`): Carrier [Hz].
        num_users (`int`): Number of users with paths, divided equally among the base stations.
        num_stations (`int`): Base stations.
        station_height_m (`float`): Height of their antennas above the street: UMi of TR 38.901, table 7.2-1 [m].
        user_height_m (`float`): Height of the users' antennas [m].
        max_distance_m (`float`): Largest distance of users from their base station [m].
        spacing_m (`float`): Minimum distance between base stations [m].
        max_depth (`int`): Maximum number of reflections and diffractions of a path, at most one of them a diffraction.
        num_rays (`int`): Rays launched from a base station.
        batch_users (`int`): Users traced at once; memory use grows with it.
        min_paths (`int`): Users with fewer paths are left out: so few in a street are an artifact of the tracing.
        max_paths (`int`): Number of strongest paths kept per user.
        dynamic_range_db (`float`): Paths that are further than this below the strongest are left out [dB].
        min_gain_db (`float`): Users with a lower total path gain are out of coverage: at 30 dBm over 20 MHz, -130 dB
            is 6 dB below the noise of a receiver with a noise figure of 7 dB [dB].
        seed (`int`): Seed of the procedural city and of all positions.
    """

    carrier_hz: float = 3.5e9
    num_users: int = 1080
    num_stations: int = 3
    station_height_m: float = 10.0
    user_height_m: float = 1.5
    max_distance_m: float = 200.0
    spacing_m: float = 150.0
    max_depth: int = 5
    num_rays: int = 25_000
    batch_users: int = 640
    min_paths: int = 3
    max_paths: int = 20
    dynamic_range_db: float = 30.0
    min_gain_db: float = -130.0
    seed: int = 0


def write_scene(buildings: list[Building], folder: Path) -> Path:
    """Writes a procedural city as a scene for Mitsuba and Sionna RT: one mesh per material, and the ground.

    Args:
        buildings (`list` of [`Building`]): The city.
        folder (`Path`): Output folder.

    Returns:
        `Path` of the XML file.
    """
    half = CITY_SIZE_M
    corners = np.array([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)], float)
    meshes = {"ground": ("concrete", [(corners, np.array([(0, 1, 2), (0, 2, 3)]))])}
    for material in sorted({building.material for building in buildings}):
        prisms = [prism(building) for building in buildings if building.material == material]
        meshes[f"{material}-buildings"] = (material, prisms)

    materials = sorted({material for material, _ in meshes.values()})
    lines = ['<scene version="2.1.0">']
    for material in materials:
        lines.append(f'<bsdf type="itu-radio-material" id="{material}"><string name="type" value="{material}"/>')
        lines.append('<float name="thickness" value="0.1"/></bsdf>')
    for name, (material, parts) in meshes.items():
        offsets = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
        vertices = np.concatenate([vertices for vertices, _ in parts]).astype("<f4")
        faces = np.concatenate([faces + offset for (_, faces), offset in zip(parts, offsets, strict=False)])
        _write_ply(folder / f"{name}.ply", vertices, faces)
        lines.append(f'<shape type="ply" id="mesh-{name}"><string name="filename" value="{name}.ply"/>')
        lines.append(f'<boolean name="face_normals" value="true"/><ref id="{material}" name="bsdf"/></shape>')
    lines.append("</scene>")
    scene = folder / "scene.xml"
    scene.write_text("\n".join(lines), encoding="utf-8")
    return scene


def _write_ply(file: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("count", "u1"), ("vertices", "<i4", 3)])
    rows["count"], rows["vertices"] = 3, faces
    file.write_bytes(header.encode() + vertices.tobytes() + rows.tobytes())


class _Streets:
    """The streets of a scene: points on the ground with open sky above."""

    def __init__(self, scene: Any, ground: str, mitsuba: ModuleType):
        self.scene, self.mitsuba = scene, mitsuba
        self.ground = mitsuba.ShapePtr(scene.objects[ground].mi_mesh)
        box = scene.mi_scene.bbox()
        low, high = np.array(box.min)[:2], np.array(box.max)[:2]
        # Leave out the rim of a scene: nothing beyond it reflects, as in open country.
        centre, half = (low + high) / 2, np.minimum((high - low) / 2, CITY_SIZE_M / 2)
        self.low, self.high = centre - half, centre + half

    def _rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        mi = self.mitsuba
        origins, directions = (np.ascontiguousarray(x.T, np.float32) for x in (origins, directions))
        return mi.Ray3f(mi.Point3f(origins), mi.Vector3f(directions))

    def lift(self, points: np.ndarray, height_m: float) -> np.ndarray:
        """Those of the points `(num, 2)` that lie in a street, lifted to a height above it: `(streets, 3)` [m]."""
        inside = ((points > self.low) & (points < self.high)).all(1)
        origins = np.column_stack([points[inside], np.full(inside.sum(), ABOVE_ALL_M)])
        hit = self.scene.mi_scene.ray_intersect(self._rays(origins, np.broadcast_to([0, 0, -1.0], origins.shape)))
        heights = ABOVE_ALL_M - np.array(hit.t) + height_m
        street = np.array(hit.is_valid() & (hit.shape == self.ground))
        return np.column_stack([origins[:, :2], heights])[street]

    def visible(self, origin: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether each of the points `(num, 3)` is in line of sight of the origin `(3,)`: `(num,)` bool."""
        ray = self._rays(np.broadcast_to(origin, points.shape), points - origin)
        ray.maxt = self.mitsuba.Float(1.0)
        return ~np.array(self.scene.mi_scene.ray_test(ray))


def _place_stations(streets: _Streets, tracing: Tracing, rng: np.random.Generator) -> np.ndarray:
    """Base stations where most of the streets around are in sight, at least `spacing_m` apart: `(stations, 3)` [m]."""
    square = rng.uniform(streets.low, streets.high, (4000, 2))
    users = streets.lift(square, tracing.user_height_m)
    candidates = streets.lift(square[:400], tracing.station_height_m)
    # A station at the rim would have few users, so only those in the middle are candidates.
    middle = np.abs(candidates[:, :2] - (streets.low + streets.high) / 2) < 0.7 * (streets.high - streets.low) / 2
    candidates = candidates[middle.all(1)]
    seen = []
    for candidate in candidates:
        near = users[np.linalg.norm(users[:, :2] - candidate[:2], axis=1) < tracing.max_distance_m]
        seen.append(streets.visible(candidate, near).sum())
    stations = []
    for candidate in candidates[np.argsort(seen)[::-1]]:
        if all(np.linalg.norm(candidate[:2] - station[:2]) >= tracing.spacing_m for station in stations):
            stations.append(candidate)
        if len(stations) == tracing.num_stations:
            return np.stack(stations)
    raise ValueError(
        f"{len(stations)} places for base stations at least {tracing.spacing_m:g} m apart were found, but "
        f"{tracing.num_stations} are needed: use fewer stations or less spacing."
    )


def _drop_users(
    streets: _Streets, stations: np.ndarray, serving: int, tracing: Tracing, rng: np.random.Generator
) -> np.ndarray:
    """Users in the streets whose nearest base station is the serving one: `(batch_users, 3)` [m]."""
    found = []
    while sum(map(len, found)) < tracing.batch_users:
        offsets = rng.uniform(-tracing.max_distance_m, tracing.max_distance_m, (4 * tracing.batch_users, 2))
        users = streets.lift(stations[serving, :2] + offsets, tracing.user_height_m)
        distances = np.linalg.norm(users[:, None, :2] - stations[None, :, :2], axis=2)
        near = (distances[:, serving] > 10) & (distances[:, serving] < tracing.max_distance_m)
        found.append(users[near & (distances.argmin(1) == serving)])
    return np.concatenate(found)[: tracing.batch_users]


def _strongest_paths(paths: Any, tracing: Tracing, num_users: int) -> dict[str, np.ndarray]:
    """The first users in coverage and their strongest paths, in DeepMIMO's export format.

    DeepMIMO's own `export_paths` computes every attribute there is, which takes longer than the tracing, and its
    converter would keep 25 arbitrary paths.
    """
    real, imaginary = paths.a
    amplitudes = real.numpy() + 1j * imaginary.numpy()
    gains = np.abs(amplitudes[:, 0, 0, 0]) ** 2
    gains *= gains >= gains.max(1, keepdims=True, initial=0) * 10 ** (-tracing.dynamic_range_db / 10)
    covered = gains.sum(1) >= 10 ** (tracing.min_gain_db / 10)
    users = np.flatnonzero(covered & ((gains > 0).sum(1) >= tracing.min_paths))[:num_users]
    order = np.argsort(-gains[users], axis=1, kind="stable")[:, : tracing.max_paths]
    kept = np.take_along_axis(gains[users], order, 1) > 0

    def select(array: np.ndarray, user_axis: int, path_axis: int) -> np.ndarray:
        moved = np.moveaxis(array, (user_axis, path_axis), (0, 1))[users]
        taken = np.take_along_axis(moved, order.reshape(*order.shape, *[1] * (moved.ndim - 2)), 1)
        return np.moveaxis(taken, (0, 1), (user_axis, path_axis))

    result = {
        key: select(getattr(paths, key).numpy(), 0, 2) for key in ("tau", "phi_r", "phi_t", "theta_r", "theta_t")
    }
    result["a"] = select(amplitudes, 0, 4) * kept[:, None, None, None]
    result["interactions"] = select(paths.interactions.numpy(), 1, 3)
    result["vertices"] = np.zeros((*result["interactions"].shape, 3), np.float32)  # removed by `_slim`
    return result | {"sources": paths.sources.numpy().T, "targets": paths.targets.numpy().T[users]}


def _trace_users(scene: Any, streets: _Streets, tracing: Tracing, log: Any) -> list[dict[str, np.ndarray]]:
    """Traces batches of users until each base station has its share of users with paths."""
    rt = require("sionna.rt", extra="raytracing")
    rng = np.random.default_rng(tracing.seed)
    stations = _place_stations(streets, tracing, rng)
    solver = rt.PathSolver(deterministic=True)
    batches = []
    for serving, station in enumerate(stations):
        scene.add(rt.Transmitter("station", position=station.tolist()))
        wanted = -(-tracing.num_users // tracing.num_stations)
        dropped = 0
        while wanted > 0:
            users = _drop_users(streets, stations, serving, tracing, rng)
            for index, user in enumerate(users):
                scene.add(rt.Receiver(f"user-{index}", position=user.tolist()))
            paths = solver(
                scene,
                max_depth=tracing.max_depth,
                samples_per_src=tracing.num_rays,
                max_num_paths_per_src=1_000_000,
                refraction=False,
                diffraction=True,
                seed=tracing.seed,
            )
            for index in range(len(users)):
                scene.remove(f"user-{index}")
            dropped += len(users)
            batch = _strongest_paths(paths, tracing, wanted)
            if len(batch["targets"]):
                batches.append(batch)
            wanted -= len(batch["targets"])
            log(f"  station {serving}: {dropped} users dropped, {wanted} more needed")
            if dropped >= 20 * tracing.num_users:
                raise ValueError(
                    f"Base station {serving} at {station.round(1).tolist()} reaches too few users: {wanted} are "
                    f"missing after {dropped} were dropped. Use another seed, fewer users or a lower min_gain_db."
                )
        scene.remove("station")
    return batches


def _slim(folder: Path, tracing: Tracing, versions: dict[str, str]) -> None:
    """Removes what channels do not need, rounds the rest, and records how the scenario was made."""
    for file in sorted(folder.glob("*.npz")):
        key, array = next(iter(np.load(file).items()))
        if key == "inter_pos":
            file.unlink()
            continue
        if key in MANTISSA_BITS:
            mantissa, exponent = np.frexp(array)
            array = np.ldexp(np.round(np.ldexp(mantissa, MANTISSA_BITS[key])), exponent - MANTISSA_BITS[key])
        np.savez_compressed(file, **{key: array.astype(np.float32)})
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    params["rt_params"] |= {
        "max_diffractions": 1,
        "terrain_diffraction": True,
        "raw_params": {"tracing": asdict(tracing), "versions": versions},
    }
    # The exporter iterates over a set of objects, in arbitrary order.
    materials = sorted(params["materials"].values(), key=lambda material: material["permittivity"])
    params["materials"] = {
        f"material_{index}": material | {"id": index, "name": f"material_{index}"}
        for index, material in enumerate(materials)
    }
    (folder / "params.json").write_text(json.dumps(params, indent=1) + "\n", encoding="utf-8")


def trace_scenario(name: str, out: str | Path, tracing: Tracing | None = None, log: Any = print) -> Path:
    """Traces a city and writes it as a DeepMIMO v4 scenario.

    Args:
        name (`str`): One of `TRACED_CITIES`.
        out (`str` or `Path`): Folder in which the scenario's folder, named after the city, appears once complete.
        tracing ([`Tracing`], *optional*): How to trace; by default as for the shipped scenarios.
        log (`callable`, *optional*, defaults to `print`): Called with progress messages.

    Returns:
        `Path` of the scenario's folder.
    """
    if name not in TRACED_CITIES:
        raise ValueError(f"There is no city {name!r} to trace; expected one of {', '.join(TRACED_CITIES)}.")
    tracing = tracing or Tracing()
    rt = require("sionna.rt", extra="raytracing")
    mitsuba = require("mitsuba", extra="raytracing")
    deepmimo = require("deepmimo", extra="data")
    exporter = require("deepmimo.exporters.sionna_exporter", extra="data")

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if name in REAL_CITIES:
            scene_name, ground = REAL_CITIES[name]
            xml = getattr(rt.scene, scene_name)
        else:
            xml, ground = write_scene(draw_city(CITY_PLANS[name], tracing.seed), work), "ground"
        scene = rt.load_scene(str(xml), merge_shapes_exclude_regex=ground)
        scene.frequency = tracing.carrier_hz
        scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")

        batches = _trace_users(scene, _Streets(scene, ground, mitsuba), tracing, log)
        raw = work / "raw"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            arguments = {"max_depth": tracing.max_depth, "samples_per_src": tracing.num_rays, "refraction": False}
            exporter.sionna_exporter(scene, batches, arguments, str(raw))
            # Leave out the buildings: the scene or the plan has them, and they are larger than all paths together.
            deepmimo.utils.save_pickle({}, str(raw / "sionna_objects.pkl"))
            deepmimo.convert(str(raw), scenario_name=name, parent_folder=str(work), overwrite=True, vis_scene=False)
        _slim(work / name, tracing, {"sionna-rt": rt.__version__, "deepmimo": deepmimo.__version__})
        target = Path(out) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        shutil.move(work / name, target)
    return target
