"""Power-delay profiles against Sionna's copy of the tables and the requested delay spreads."""

import json
from importlib import resources

import numpy as np
import pytest
import torch

from lwm_spectro_hf.channel.profiles import exponential_profile, tdl_profile


def test_tables_match_sionna():
    models = pytest.importorskip("sionna.phy.channel.tr38901.models")
    tables = json.loads(resources.files("lwm_spectro_hf.channel").joinpath("tables", "tdl.json").read_text())
    assert list(tables) == list("ABCDE")
    for name, table in tables.items():
        theirs = json.loads(resources.files(models).joinpath("v16_1", f"TDL-{name}.json").read_text())
        assert table["delays"] == theirs["delays"] and table["powers_db"] == theirs["powers"]


@pytest.mark.parametrize("name, num_taps, k_db", [("A", 23, None), ("C", 24, None), ("D", 13, 13.3), ("E", 14, 22.0)])
def test_tdl_profile_merges_the_rows_of_the_first_tap(name, num_taps, k_db):
    profile = tdl_profile(name, torch.tensor([100e-9, 300e-9]))
    assert profile.delays_s.shape == profile.powers.shape == (2, num_taps)
    torch.testing.assert_close(profile.powers.sum(1), torch.ones(2))
    torch.testing.assert_close(profile.delays_s[1], 3 * profile.delays_s[0])
    k = 0.0 if k_db is None else 10 ** (k_db / 10)
    torch.testing.assert_close(profile.rician_k, torch.full((2,), k))


@pytest.mark.parametrize("name", "ABCDE")
def test_tdl_profile_has_the_requested_delay_spread(name):
    profile = tdl_profile(name, torch.tensor([100e-9]))
    mean = (profile.powers * profile.delays_s).sum()
    spread = (profile.powers * (profile.delays_s - mean).square()).sum().sqrt()
    assert abs(float(spread) - 100e-9) < 1e-9  # the tables are rounded


DEVIATION = 0.825  # standard deviation of an exponential distribution of mean 1 without its upper 2 %


def test_unknown_profile_is_named():
    with pytest.raises(ValueError, match="'F'; expected one of A, B, C, D, E"):
        tdl_profile("F", torch.tensor([1e-7]))


def test_exponential_profile_decays_with_its_delay_spread():
    spread, num = 200e-9, 20_000
    k = torch.full((num,), 3.0)
    profile = exponential_profile(torch.full((num,), spread), k, torch.Generator().manual_seed(0), num_taps=20)
    torch.testing.assert_close(profile.powers.sum(1), torch.ones(num))
    assert (profile.delays_s[:, 0] == 0).all() and (profile.delays_s.diff() >= 0).all() and profile.rician_k is k
    # Behind the first tap, power falls by e over 1.21 delay spreads.
    later = (profile.delays_s[:, 1:] / spread).flatten().numpy()
    weight = profile.powers[:, 1:].flatten().numpy()
    histogram, _ = np.histogram(later, bins=[0.0, 0.5, 1.0, 1.5, 2.0], weights=weight)
    np.testing.assert_allclose(np.diff(np.log(histogram)), -0.5 * DEVIATION, atol=0.05)


def test_exponential_profile_has_the_requested_delay_spread():
    # With many taps, the first ones are aligned already.
    profile = exponential_profile(torch.full((400,), 1e-6), torch.zeros(400), torch.Generator().manual_seed(0), 400)
    mean = (profile.powers * profile.delays_s).sum() / profile.powers.sum()
    second = (profile.powers * profile.delays_s.square()).sum() / profile.powers.sum()
    assert (second - mean.square()).sqrt() == pytest.approx(1e-6, rel=0.02)
