"""Ray tracing, where Sionna RT and LLVM are installed."""

import numpy as np
import pytest

pytest.importorskip("sionna.rt")
pytest.importorskip("deepmimo")

from lwm_spectro_hf.channel.raytracing import Tracing, trace_scenario  # noqa: E402
from lwm_spectro_hf.channel.scenarios import load_scenario  # noqa: E402

TINY = Tracing(num_users=12, num_stations=2, num_rays=2000, batch_users=20, max_depth=3, max_paths=5)


def test_tracing_is_reproducible(tmp_path):
    told = []
    first = trace_scenario("estate_concrete", tmp_path / "first", TINY, log=told.append)
    again = trace_scenario("estate_concrete", tmp_path / "again", TINY, log=told.append)
    scenario = load_scenario(first)
    assert len(scenario) == 12 and scenario.base_station.bincount().tolist() == [6, 6]
    assert scenario.num_paths.min() >= 3 and scenario.num_paths.max() <= 5
    assert any("station 1" in line for line in told)
    np.testing.assert_allclose(scenario.stations[:, 2], 10)
    np.testing.assert_allclose(scenario.positions[:, 2], 1.5, atol=1e-3)
    assert sorted(f.name for f in first.iterdir()) == sorted(f.name for f in again.iterdir())
    for file in first.glob("*.json"):
        assert file.read_text() == (again / file.name).read_text()
    for name in ("power", "delay", "phase", "rx_pos"):
        for file in first.glob(f"{name}_*.npz"):
            np.testing.assert_array_equal(np.load(file)[name], np.load(again / file.name)[name])


def test_unknown_cities_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="no city 'atlantis'.*munich.*oldtown_brick"):
        trace_scenario("atlantis", tmp_path, TINY)
