"""Synchronization and reference signals of LTE and NR against py3gpp and closed forms."""

import numpy as np
import py3gpp
import torch

from lwm_spectro_hf.phy import lte, nr
from lwm_spectro_hf.phy.traffic import draw_allocation

CELLS = torch.tensor([0, 1, 100, 503, 777, 1007])


def test_nr_synchronization_signals_agree_with_py3gpp():
    pss = nr.primary_synchronization(CELLS % 3)
    sss = nr.secondary_synchronization(CELLS // 3, CELLS % 3)
    for row, cell in enumerate(CELLS.tolist()):
        np.testing.assert_allclose(pss[row].numpy(), np.asarray(py3gpp.nrPSS(cell)).reshape(-1), atol=1e-6)
        np.testing.assert_allclose(sss[row].numpy(), np.asarray(py3gpp.nrSSS(cell)).reshape(-1), atol=1e-6)


def test_nr_ssb_carries_the_dmrs_of_py3gpp():
    block = nr.ss_pbch_block(CELLS, 3, torch.zeros(len(CELLS), 4, 240, dtype=torch.complex64))
    for row, cell in enumerate(CELLS.tolist()):
        pilots = np.asarray(py3gpp.nrPBCHDMRS(cell, 3)).reshape(-1)
        comb = np.arange(0, 240, 4) + cell % 4
        found = block[row].numpy()
        middle = np.concatenate([found[2, comb[:12]], found[2, comb[48:]]])
        np.testing.assert_allclose(np.concatenate([found[1, comb], middle, found[3, comb]]), pilots, atol=1e-6)


def test_lte_pss_has_constant_modulus_and_distinct_roots():
    pss = lte.primary_synchronization(torch.arange(3))
    torch.testing.assert_close(pss.abs(), torch.ones(3, 62))
    cross = (pss @ pss.mH).abs() / 62
    assert float((cross - torch.eye(3)).abs().max()) < 0.45
    # Root 29 and 34 add up to 63: conjugates.
    torch.testing.assert_close(pss[1], pss[2].conj(), atol=1e-4, rtol=0)


def test_lte_sss_tells_the_168_groups_and_both_half_frames_apart():
    groups = torch.arange(168)
    sector = torch.ones(168).long()
    first, second = (lte.secondary_synchronization(groups, sector, subframe).real for subframe in (0, 5))
    correlation = torch.cat([first, second]) @ torch.cat([first, second]).T / 62
    off_diagonal = correlation - torch.eye(336)
    assert float(off_diagonal.abs().max()) < 0.75


def test_lte_grid_carries_reference_and_synchronization_signals():
    scheduled = draw_allocation(6, 10, 15, torch.Generator().manual_seed(3))
    scheduled = scheduled[..., ::2].repeat_interleave(2, -1)[..., :15]
    cells = lte.Downlink(15, 10, torch.arange(6), allocation=scheduled)
    power = lte.transmit(cells, torch.Generator().manual_seed(3)).grid.abs().square()
    assert power.shape == (6, 140, 180)
    # The first symbol of every subframe carries port 0 on every sixth subcarrier, whatever the load.
    for subframe in range(10):
        comb = power[:, 14 * subframe].view(6, 30, 6)
        assert bool((comb > 0.9).all(1).any(1).all())
    # One PSS each half frame: the five subcarriers on both sides of the 62 are empty.
    guard = power[:, :, 90 - 36 : 90 - 31].sum(-1) == 0
    assert bool((guard.sum(1) >= 4).all())


def test_nr_carriers_are_lean():
    wave = nr.draw(52, 15e3, 16, 20 * 15_360, torch.Generator().manual_seed(0))
    silent = (wave.samples.abs() < 1e-6).float().mean(1)
    assert float(silent.max()) > 0.7, "some cell should transmit its SS/PBCH blocks and little else"
    assert bool(wave.samples.isfinite().all())


def test_allocations_range_from_empty_to_full():
    share = draw_allocation(400, 10, 50, torch.Generator().manual_seed(0)).float().mean((1, 2))
    assert float((share == 0).float().mean()) > 0.1
    assert float((share == 1).float().mean()) > 0.2
    assert float(((share > 0.05) & (share < 0.95)).float().mean()) > 0.3
