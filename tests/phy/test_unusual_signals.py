"""Evidence for signals that no model was trained on: unusual ones of the standards, and ones of no standard."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from lwm_spectro_hf.phy.listening import listen

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/other_signals.py"))
PROTOCOLS = ("WiFi", "LTE", "5G")


def evidence_of(draw, rate, seed, snr_db=15.0, milliseconds=20):
    iq = BENCHMARK["received"](draw, np.random.default_rng(seed), rate, milliseconds * 1e-3, snr_db)
    return dict(zip(PROTOCOLS, listen(iq, rate, PROTOCOLS).evidence, strict=True))


@pytest.mark.parametrize("name", BENCHMARK["UNUSUAL"])
@pytest.mark.parametrize("rate, snr_db", [(10e6, 15), (30.72e6, 10)])
def test_unusual_signals_are_recognized(name, rate, snr_db):
    evidence = evidence_of(BENCHMARK["UNUSUAL"][name], rate, 3, snr_db)
    standard = "WiFi" if name.startswith("802.11") else name.split(",")[0]
    assert max(evidence, key=evidence.get) == standard and evidence[standard] > 1


@pytest.mark.parametrize("name", BENCHMARK["NONE_OF_THEM"])
def test_signals_of_no_standard_give_no_evidence(name):
    for rate in BENCHMARK["RATES_HZ"][::2]:
        assert max(evidence_of(BENCHMARK["NONE_OF_THEM"][name], rate, 4).values()) <= 0


def test_lte_terminals_are_recognized_by_their_reference_symbols(monkeypatch):
    """Without reference symbols, nothing tells them from terminals of 5G."""
    uplink = BENCHMARK["UNUSUAL"]["LTE, uplink"]
    assert evidence_of(uplink, 15.36e6, 5)["LTE"] > 10 and evidence_of(uplink, 15.36e6, 5, milliseconds=5)["LTE"] > 6

    def like_data(group, width):
        return np.fft.fft(np.random.default_rng(width).choice([-1, 1], size=(width, 2)) @ (1, 1j), norm="ortho")

    monkeypatch.setitem(BENCHMARK["uplink"].__globals__, "reference_symbol", like_data)
    evidence = evidence_of(uplink, 15.36e6, 5)
    assert evidence["5G"] > evidence["LTE"]


@pytest.mark.parametrize("microseconds", [40, 60, 80])
def test_a_burst_as_long_as_a_symbol_is_no_cell(microseconds):
    generator, rate = np.random.default_rng(microseconds), 20e6
    for num_samples in (40_000, 400_000):
        iq = BENCHMARK["white"](generator, num_samples) / 30
        iq[17_000:][: round(microseconds * 1e-6 * rate)] *= 900
        assert listen(iq.astype(np.complex64), rate, PROTOCOLS).evidence[1:].max() <= 0
