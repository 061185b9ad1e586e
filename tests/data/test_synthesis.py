"""Generated recordings: repeatable, labelled, at the SNR that was asked; and shards that survive a stop."""

import numpy as np
import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data import spectrograms
from lwm_spectro_hf.data.recipe import MODULATIONS, PROTOCOLS, Recipe
from lwm_spectro_hf.data.synthesis import NO_LABEL, draw_recordings


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, None])
def test_the_same_seed_gives_the_same_recordings(protocol):
    first, again, other = (draw_recordings(protocol, 4, seeded(seed)) for seed in (7, 7, 8))
    assert first.iq.dtype == torch.complex64 and bool(first.iq.isfinite().all())
    torch.testing.assert_close(first.iq, again.iq, rtol=0, atol=0)
    assert first.sampling_rate == again.sampling_rate
    assert other.iq.shape != first.iq.shape or not torch.equal(other.iq, first.iq)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_recordings("LTE", 4, seeded(0))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_indices_or_ignored(protocol):
    batch = draw_recordings(protocol, 16, seeded(1))
    index = PROTOCOLS.index(protocol)
    assert set(batch.protocol.tolist()) <= {index, NO_LABEL}
    assert set(batch.modulation.tolist()) <= {NO_LABEL, *range(len(MODULATIONS))}
    if protocol != "WiFi":
        assert MODULATIONS.index("BPSK") not in batch.modulation.tolist()
    moving = batch.mobility > 0
    assert bool((batch.speed_mps[moving] > 0).all()) and bool((batch.speed_mps[~moving] == 0).all())


def test_noise_has_no_protocol():
    batch = draw_recordings(None, 4, seeded(0))
    assert set(batch.protocol.tolist()) == set(batch.modulation.tolist()) == {NO_LABEL}


def test_unknown_protocol_names_the_known_ones():
    with pytest.raises(ValueError, match="'LoRa'.*WiFi, LTE, 5G"):
        draw_recordings("LoRa", 4, seeded(0))


@pytest.mark.parametrize("snr_db", [0, 20])
def test_snr_in_the_occupied_band_is_the_label(snr_db):
    # A saturated LTE carrier at its own rate: power in the occupied band over power in the empty outer band.
    recipe = Recipe(snrs_db=(snr_db,), native_rate=1.0, contiguous_view=0.0, spans_s=(0.5e-3, 0.6e-3))
    found = []
    for seed in range(20):
        batch = draw_recordings("LTE", 8, seeded(seed), recipe)
        power = np.abs(np.fft.fft(batch.iq.numpy(), axis=1)) ** 2
        frequency = np.abs(np.fft.fftfreq(power.shape[1]))
        in_band = power[:, (frequency > 0.02) & (frequency < 0.26)].mean(1)
        # Where the channel filter leaves the outer band alone it shows the noise density; its median over the
        # recordings does.
        outside = np.median(power[:, (frequency > 0.42) & (frequency < 0.46)], axis=1) / np.log(2)
        full = (batch.modulation >= 0).numpy()
        found += (10 * np.log10(np.maximum(in_band / outside - 1, 1e-9)))[full].tolist()
    # Unfiltered, fully loaded recordings pile up at the label; partly loaded ones fall below it, filtered ones above.
    histogram, edges = np.histogram(found, bins=np.arange(snr_db - 10.5, snr_db + 11, 1.0))
    assert abs(edges[histogram.argmax()] + 0.5 - snr_db) <= 1


def test_shards_are_kept_and_a_stopped_build_goes_on(tmp_path):
    extractor = SpectrogramFeatureExtractor()
    recipe = Recipe(contiguous_view=1.0)
    arguments = dict(num=8, seed=3, extractor=extractor, noise_share=0.25, shard_size=2, recipe=recipe)
    paths = spectrograms.build_shards(tmp_path / "a", **arguments)
    assert [path.name.split("-")[0] for path in paths] == ["WiFi", "LTE", "5G", "noise"]
    whole = spectrograms.load_shards(paths)
    assert whole["input_values"].shape == (8, 1, 128, 128) and whole["protocol"].tolist()[-2:] == [NO_LABEL, NO_LABEL]
    # A killed build leaves some shards and half of one aside.
    kept = paths[0].stat().st_mtime_ns
    paths[2].rename(paths[2].with_suffix(".part"))
    again = spectrograms.load_shards(spectrograms.build_shards(tmp_path / "a", **arguments))
    assert paths[0].stat().st_mtime_ns == kept
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_no_shards_is_an_error():
    with pytest.raises(FileNotFoundError, match="build_shards"):
        spectrograms.load_shards([])
