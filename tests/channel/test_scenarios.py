"""The shipped cities, read as DeepMIMO reads them, and errors for folders that are not scenarios."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch

from lwm_spectro_hf.channel.scenarios import (
    HELD_OUT_SCENARIOS,
    SHIPPED_FOLDER,
    delay_spread_statistics,
    is_held_out,
    list_scenarios,
    load_scenario,
)

deepmimo = pytest.importorskip("deepmimo")


def read_with_deepmimo(name, monkeypatch, **arguments):
    monkeypatch.setitem(deepmimo.config._config, "scenarios_folder", str(SHIPPED_FOLDER))
    with contextlib.redirect_stdout(io.StringIO()):
        return deepmimo.load(name, **arguments).datasets


@pytest.fixture
def copied(tmp_path):
    """A copy of a scenario that a test may damage."""
    return shutil.copytree(SHIPPED_FOLDER / "florence", tmp_path / "florence")


def test_twenty_cities_are_shipped_and_florence_is_held_out():
    assert len(list_scenarios()) == 20
    assert {"munich", "paris", "florence", "san_francisco"} <= set(list_scenarios())
    assert HELD_OUT_SCENARIOS == ("florence",)


@pytest.mark.parametrize("name", list_scenarios())
def test_every_city_has_a_thousand_users_in_less_than_a_megabyte(name, capsys):
    scenario = load_scenario(name)
    assert capsys.readouterr().out == ""
    assert scenario.name == name and scenario.carrier_hz == 3.5e9
    assert len(scenario) >= 1000 and scenario.num_paths.min() >= 1
    assert sum(file.stat().st_size for file in (SHIPPED_FOLDER / name).iterdir()) < 1e6
    exists = scenario.powers > 0
    assert (scenario.delays_s >= 0).all() and (scenario.delays_s[:, 0] == 0).all()
    assert (scenario.delays_s[~exists] == 0).all() and (scenario.delays_s.diff(dim=1)[exists[:, 1:]] >= 0).all()
    assert torch.isfinite(scenario.delays_s).all() and torch.isfinite(scenario.powers).all()
    assert 0.1 < scenario.line_of_sight.float().mean() < 0.9
    # Users stand apart from each other, on the ground, near the base station that serves them.
    assert len(scenario.positions.unique(dim=0)) == len(scenario)
    distance = (scenario.positions - scenario.stations[scenario.base_station])[:, :2].norm(dim=1)
    assert distance.max() <= 200 and distance.min() >= 10


def test_all_cities_together_are_less_than_ten_megabytes():
    assert sum(file.stat().st_size for file in SHIPPED_FOLDER.rglob("*") if file.is_file()) < 10e6


def test_arrays_match_deepmimo(monkeypatch):
    scenario = load_scenario("munich")
    links = read_with_deepmimo("munich", monkeypatch)
    assert [len(link.power) for link in links] == [len(scenario)] * len(links)
    assert sum(int((link.num_paths > 0).sum()) for link in links) == len(scenario)
    for station, link in enumerate(links):
        served = scenario.base_station == station
        np.testing.assert_array_equal(link.num_paths > 0, served.numpy())
        np.testing.assert_array_equal(link.num_paths[served], scenario.num_paths[served].numpy())
        np.testing.assert_array_equal(link.los[served] == 1, scenario.line_of_sight[served].numpy())
        np.testing.assert_allclose(link.rx_pos[served], scenario.positions[served].numpy())
        np.testing.assert_allclose(link.tx_pos.ravel(), scenario.stations[station].numpy())
        for user in torch.where(served)[0].tolist()[::50]:
            count = int(link.num_paths[user])
            order = np.argsort(link.delay[user, :count], kind="stable")
            gains = 10 ** (link.power[user, :count].astype(np.float64) / 10)
            np.testing.assert_allclose(scenario.powers[user, :count].numpy(), gains[order], rtol=1e-5)
            after_first = link.delay[user, :count].astype(np.float64) - link.delay[user, :count].min()
            np.testing.assert_allclose(scenario.delays_s[user, :count].numpy(), after_first[order], atol=1e-12)


def test_direct_paths_follow_free_space(monkeypatch):
    for link in read_with_deepmimo("florence", monkeypatch, matrices=["power", "delay", "inter", "rx_pos", "tx_pos"]):
        direct = link.inter[:, 0] == 0
        distance = np.linalg.norm(link.rx_pos[direct] - link.tx_pos, axis=1)
        np.testing.assert_allclose(link.delay[direct, 0], distance / 299_792_458, rtol=1e-4)
        friis_db = 20 * np.log10(299_792_458 / 3.5e9 / (4 * np.pi * distance))
        # Isotropic, vertically polarized antennas add no gain or loss.
        np.testing.assert_allclose(link.power[direct, 0], friis_db, atol=0.1)


def test_delay_spreads_are_plausible():
    """Specular and diffracted paths alone spread less than measured ones, but stay in the range of TR 38.901."""
    for sight in (True, False):
        mean, std = delay_spread_statistics("UMi", sight, 3.5e9)
        log_spread = []
        for name in list_scenarios():
            scenario = load_scenario(name)
            log_spread.append(scenario.delay_spread_s[scenario.line_of_sight == sight].clamp(min=1e-10).log10())
        medians = torch.stack([values.median() for values in log_spread])
        everyone = torch.cat(log_spread)
        assert mean - 1.2816 * std < everyone.median() < mean + 1.2816 * std
        assert medians.max() < mean + 1.6449 * std
        assert everyone.quantile(0.99) < -6  # a microsecond


def test_delay_spread_statistics_match_tr_38_901():
    # TR 38.901, table 7.5-6, worked out by hand: log10(4.5) = 0.6532, log10(6) = 0.7782.
    assert delay_spread_statistics("UMi", True, 3.5e9) == pytest.approx((-7.2968, 0.38), abs=1e-4)
    assert delay_spread_statistics("UMi", False, 3.5e9) == pytest.approx((-6.9868, 0.3845), abs=1e-4)
    assert delay_spread_statistics("UMa", True, 3.5e9) == pytest.approx((-7.0299, 0.66), abs=1e-4)
    assert delay_spread_statistics("UMa", False, 3.5e9) == pytest.approx((-6.4388, 0.39), abs=1e-4)
    with pytest.raises(ValueError, match="'UMi' or 'UMa'"):
        delay_spread_statistics("indoor", True, 3.5e9)


def test_delay_spread_is_the_second_moment_of_the_power():
    scenario = load_scenario("munich")
    weights = scenario.powers.double() / scenario.powers.double().sum(1, keepdim=True)
    for user in (0, 500, 1000):
        expected = np.sqrt(np.cov(scenario.delays_s[user].double().numpy(), aweights=weights[user], ddof=0))
        assert float(scenario.delay_spread_s[user]) == pytest.approx(float(expected), rel=1e-3)


def test_profiles_are_the_strongest_paths_in_order_of_arrival():
    scenario = load_scenario("munich")
    user = torch.arange(len(scenario))
    profile = scenario.profiles(user, torch.Generator().manual_seed(0), max_taps=6)
    assert profile.powers.shape == profile.delays_s.shape == (len(user), 6)
    torch.testing.assert_close(profile.powers.sum(1), torch.ones(len(user)))
    for row in (3, 77, 1000):
        best = sorted(range(scenario.powers.shape[1]), key=lambda path: -scenario.powers[row, path])[:6]
        best = sorted(path for path in best if scenario.powers[row, path] > 0)
        expected = scenario.powers[row, best] / scenario.powers[row, best].sum()
        torch.testing.assert_close(profile.powers[row, : len(best)], expected)
        delays = scenario.delays_s[row, best] - scenario.delays_s[row, best[0]]
        torch.testing.assert_close(profile.delays_s[row, : len(best)], delays)
        assert (profile.delays_s[row, len(best) :] == 0).all() and (profile.powers[row, len(best) :] == 0).all()
    every = scenario.profiles(user, torch.Generator().manual_seed(0), max_taps=99)
    torch.testing.assert_close(every.delays_s, scenario.delays_s)


def test_rician_k_follows_the_standard_in_line_of_sight():
    scenario = load_scenario("munich")
    user = torch.arange(len(scenario)).repeat(20)
    k = scenario.profiles(user, torch.Generator().manual_seed(1)).rician_k
    sight = scenario.line_of_sight[user]
    assert (k[~sight] == 0).all()
    k_db = 10 * k[sight].log10()
    assert abs(float(k_db.mean()) - 9) < 0.15 and abs(float(k_db.std()) - 5) < 0.15
    again = scenario.profiles(user, torch.Generator().manual_seed(1)).rician_k
    assert torch.equal(k, again)


def test_a_scenario_is_read_once_until_it_changes(copied):
    assert load_scenario("munich") is load_scenario("munich")
    first = load_scenario(copied)
    assert load_scenario(str(copied)) is first
    params = copied / "params.json"
    params.write_text(params.read_text().replace("3500000000", "2600000000"))
    assert load_scenario(copied).carrier_hz == 2.6e9


def test_the_strongest_base_station_serves(copied):
    """Where several base stations reach a user, as in most of DeepMIMO's scenarios."""
    louder, served = 40, np.load(copied / "power_t000_tx000_r001.npz")["power"]
    users = np.flatnonzero(~np.isnan(served[:, 0]))[:5]
    for key in ("power", "delay", "inter"):
        source = np.load(copied / f"{key}_t000_tx000_r001.npz")[key]
        file = copied / f"{key}_t000_tx001_r001.npz"
        target = np.load(file)[key]
        width = max(source.shape[1], target.shape[1])
        target = np.pad(target, ((0, 0), (0, width - target.shape[1])), constant_values=np.nan)
        target[users] = np.nan
        target[users, :2] = source[users, :2] + (louder if key == "power" else 0)
        np.savez(file, **{key: target})
    assert (load_scenario(copied).base_station[users] == 1).all()
    assert (load_scenario(copied).num_paths[users] == 2).all()


def test_unknown_names_list_the_shipped_cities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("atlantis", "no/such/folder"):
        with pytest.raises(ValueError, match=r"Shipped scenarios: .*florence.*download=True"):
            load_scenario(name)


def test_scenarios_are_downloaded_on_request_and_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(name):
        asked.append(name)
        shutil.copytree(SHIPPED_FOLDER / "munich", tmp_path / "deepmimo_scenarios" / name)

    monkeypatch.setattr(deepmimo, "download", download)
    assert load_scenario("asu_campus_3p5", download=True).name == "asu_campus_3p5"
    assert asked == ["asu_campus_3p5"]
    assert load_scenario("asu_campus_3p5").name == "asu_campus_3p5" and len(asked) == 1


def test_folders_that_are_not_scenarios_are_errors(copied, tmp_path):
    with pytest.raises(ValueError, match=r"has no params.json"):
        load_scenario(tmp_path)
    with pytest.raises(ValueError, match="rename"):
        load_scenario(shutil.copytree(copied, tmp_path / "Florence"))
    params = json.loads((copied / "params.json").read_text())
    moving = shutil.copytree(copied, tmp_path / "moving")
    (moving / "params.json").write_text(json.dumps(params | {"scene": {"num_scenes": 3}}))
    with pytest.raises(ValueError, match="3 snapshots"):
        load_scenario(moving)
    (moving / "params.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe"):
        load_scenario(moving)
    (copied / "delay_t000_tx001_r001.npz").unlink()
    with pytest.raises(ValueError, match="lacks its 'delay'"):
        load_scenario(copied)


@pytest.mark.parametrize("name, damage", [("power", lambda data: data[: len(data) // 2]), ("delay", lambda data: b"")])
def test_damaged_arrays_are_an_error_that_names_the_folder(copied, name, damage):
    path = copied / f"{name}_t000_tx001_r001.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="florence cannot be read .*: copy or convert the scenario again"):
        load_scenario(copied)


def test_an_invalid_number_names_the_file(copied):
    params = json.loads((copied / "params.json").read_text())
    params["rt_params"]["frequency"] = "x"
    (copied / "params.json").write_text(json.dumps(params))
    with pytest.raises(ValueError, match="params.json does not describe"):
        load_scenario(copied)


def test_paths_without_a_delay_are_left_out(copied):
    before = load_scenario("florence")
    for file in copied.glob("delay_*.npz"):
        delay = np.load(file)["delay"]
        delay[0] = np.nan
        np.savez(file, delay=delay)
    after = load_scenario(copied)
    assert len(before) - 1 <= len(after) <= len(before) and bool(after.delays_s.isfinite().all())


def test_held_out_cities_are_recognized_by_folder_name(copied):
    assert is_held_out("florence") and is_held_out(copied) and not is_held_out("munich")


def test_a_scenario_without_paths_is_an_error(copied):
    for file in copied.glob("power_*.npz"):
        np.savez(file, power=np.full_like(np.load(file)["power"], np.nan))
    with pytest.raises(ValueError, match="None of the 1080 users"):
        load_scenario(copied)


def test_deepmimos_configuration_is_restored(copied):
    before = deepmimo.config.get("scenarios_folder")
    load_scenario(copied)
    assert deepmimo.config.get("scenarios_folder") == before
