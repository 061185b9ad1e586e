"""Scenes: labels match what is sent, at the requested SNR."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import load_dataset
from scipy.ndimage import binary_closing

from lwm_spectro_hf import MaskedConvLstmConfig, MaskedConvLstmForForecasting, MaskedConvLstmForSemanticSegmentation
from lwm_spectro_hf.data import scenes
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.data.scenes import SCENE_LABELS, SceneRecipe, build_scenes, draw_scenes, scene_extractor


def recipe(presence=1.0, snr_db=(30.0, 30.0), chunk_size=2, pieces=0.0, max_spurs=0, **fields) -> SceneRecipe:
    sent = replace(SceneRecipe().transmissions, chunk_size=chunk_size, **fields)
    return SceneRecipe(sent, presence=presence, snrs_db=snr_db, pieces=pieces, max_spurs=max_spurs)


def power(drawn) -> torch.Tensor:
    """Power of each value of the spectrograms relative to the noise [linear]."""
    extractor = scene_extractor()
    hop = round(float(extractor.resolution(drawn.iq.shape[1], 1.0)[0]))
    frames = drawn.iq.unfold(1, extractor.fft_size, hop)[:, : extractor.num_frames]
    window = torch.hann_window(extractor.fft_size)
    spectrum = torch.fft.fft(frames * window).abs().square() / window.square().sum()
    return torch.fft.fftshift(spectrum, dim=-1)


def test_the_same_seed_gives_the_same_scenes():
    first, again, other = (draw_scenes(recipe(), 1, seed) for seed in (5, 5, 6))
    assert torch.equal(first.iq, again.iq) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.iq, other.iq)
    assert first.index.tolist() == [2, 3]
    assert first.iq.shape == (2, 307_200) and first.sampling_rate == 30.72e6


def test_labelled_values_are_loud_and_others_are_noise():
    # At most 15 dB, or mirror images of the mixer would show where nothing was sent.
    loud = recipe(snr_db=(15.0, 15.0), full_load=1.0, channels=("none",))
    drawn = [draw_scenes(loud, chunk, 0) for chunk in range(6)]
    for number in range(1, len(SCENE_LABELS)):
        chosen = torch.cat([power(part)[part.labels == number] for part in drawn])
        assert len(chosen) > 500, SCENE_LABELS[number]
        assert chosen.median() > 10, SCENE_LABELS[number]
    quiet = []
    for part in drawn:
        # The window spreads carriers, and the leakage of local oscillators at zero, over two bins on either side.
        used = (part.labels > 0).any(1)
        used[:, 64] = True
        near = torch.nn.functional.max_pool1d(used.float(), 5, 1, 2) > 0
        quiet.append(power(part).mT[~near])
    quiet = torch.cat(quiet)
    assert quiet.mean() == pytest.approx(1.0, rel=0.1)
    assert quiet.median() == pytest.approx(np.log(2), rel=0.1)  # the median of noise of power 1


@pytest.mark.parametrize("protocol, full_load", [("LTE", 1.0), ("WiFi", 0.0), ("5G", 1.0)])
def test_snr_is_that_in_the_carriers_band_while_it_sends(protocol, full_load):
    asked = 12.0
    loud = recipe(snr_db=(asked, asked), chunk_size=4, protocols=(protocol,), full_load=full_load, channels=("none",))
    drawn = draw_scenes(loud, 0, 3)
    found = []
    for row, labels in zip(power(drawn), drawn.labels, strict=True):
        # Bins at the edge lie only partly in the carrier, and labelled frames may be pauses.
        inside = (labels > 0).any(0)
        inside = inside & inside.roll(1) & inside.roll(-1)
        inside[62:67] = False  # where local oscillators leak
        sends = row[:, inside].mean(1) > 3
        found.append(10 * torch.log10(row[sends][:, inside].mean() - 1))
    assert torch.stack(found).mean() == pytest.approx(asked, abs=0.7)
    assert drawn.snr_db[:, PROTOCOLS.index(protocol)].tolist() == [asked] * 4
    assert drawn.snr_db.isnan().sum() == 8


def test_carriers_do_not_overlap():
    """Each bin holds at most one protocol, and everything that is sent is labelled."""
    for chunk in range(4):
        drawn = draw_scenes(recipe(), chunk, 1)
        for labels, snr_db in zip(drawn.labels, drawn.snr_db, strict=True):
            by_bin = [set(column.unique().tolist()) - {0} for column in labels.T]
            assert all(len(names) <= 1 for names in by_bin)
            seen = set().union(*by_bin)
            assert seen == {number + 1 for number, value in enumerate(snr_db.tolist()) if not np.isnan(value)}


def test_an_empty_band_is_noise():
    drawn = draw_scenes(recipe(presence=0.0), 0, 0)
    assert drawn.labels.max() == 0 and drawn.snr_db.isnan().all()
    middle = power(drawn)[:, :, 66:]  # local oscillators leak at zero
    assert middle.mean() == pytest.approx(1.0, rel=0.05)


def test_in_pieces_of_wider_recordings_leakage_may_be_anywhere():
    """An empty band holds only noise and leakage, the latter in one bin and its neighbours."""
    places = []
    for pieces in (0.0, 1.0):
        empty = [draw_scenes(recipe(presence=0.0, pieces=pieces, chunk_size=8), chunk, 0) for chunk in range(2)]
        levels = torch.cat([power(part).mean(1) for part in empty])
        leaks = levels.amax(1) > 5
        places.append(set(levels.argmax(1)[leaks].tolist()))
        assert (levels[leaks].median(1).values < 1.3).all()
    assert places[0] == {64} and len(places[1]) > 2


def test_spurs_are_steady_tones_without_labels():
    clean, spoiled = (power(draw_scenes(recipe(presence=0.0, max_spurs=most, chunk_size=8), 0, 0)) for most in (0, 4))
    levels = spoiled.mean(1) - clean.mean(1)
    assert levels.max() > 100 * clean[:, :, 66:].mean()
    # At most the requested number; a tone fills its bin and, with this window, the two beside it.
    peaks = (levels > 20) & (levels >= levels.roll(1, 1)) & (levels >= levels.roll(-1, 1))
    assert 0 < peaks.sum(1).max() <= 4 and peaks.sum(1).min() < 4
    row, place = divmod(int(levels.argmax()), levels.shape[1])
    tone = spoiled[row, :, place]
    assert tone.std() < 0.1 * tone.mean()
    assert draw_scenes(recipe(presence=0.0, max_spurs=4), 0, 0).labels.max() == 0


@pytest.mark.parametrize("longest", [0, 1, 4, 7])
def test_short_pauses_are_filled_as_by_a_closing(longest):
    on = torch.rand(4, 60, generator=torch.Generator().manual_seed(longest)) < 0.3
    found = scenes._without_pauses(on, longest)
    width = 2 * (longest // 2) + 1
    for row, expected in zip(found, on, strict=True):
        padded = np.pad(expected.numpy(), width)
        closed = binary_closing(padded, np.ones(width, bool))[width:-width]
        assert np.array_equal(row[width:-width].numpy(), closed[width:-width])
    assert (found | ~on).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"presence": 1.5}, "presence is 1.5"),
        ({"pieces": -0.5}, "pieces is -0.5"),
        ({"max_spurs": -1}, "max_spurs is -1"),
        ({"snrs_db": (20.0, 0.0)}, "snrs_db is"),
        ({"sampling_rate": 0.0}, "sampling_rate is 0.0"),
        ({"transmissions": replace(SceneRecipe().transmissions, snrs_db=(10,))}, "must have the receiver 'native'"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        SceneRecipe(**wrong)


def test_a_band_too_narrow_for_any_carrier_is_an_error():
    with pytest.raises(ValueError, match="No carrier of the recipe fits into a band of 1 MHz"):
        draw_scenes(replace(recipe(), sampling_rate=1e6), 0)


def test_a_build_is_read_by_datasets_and_resumes(tmp_path):
    small = recipe()
    paths = build_scenes(tmp_path, 6, 2, seed=4, recipe=small, shard_size=4)
    assert [path.name[:5] for path in paths] == ["train", "train", "test-"]
    rows = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in rows.items()} == {"train": 6, "test": 2}
    row = rows["train"].with_format("numpy")[3]
    extractor = scene_extractor()
    expected = draw_scenes(small, 1, row["seed"].item())
    assert row["index"] == 3
    np.testing.assert_array_equal(row["labels"], expected.labels[1].numpy())
    np.testing.assert_array_equal(row["input_values"], extractor.spectrogram(expected.iq)[1].half().numpy())
    extractor.normalization = "none"
    assert row["std_db"] == pytest.approx(float(extractor.spectrogram(expected.iq)[1].std()), rel=1e-4)
    np.testing.assert_allclose(row["resolution"], [2417 / 30.72e6, 240e3], rtol=1e-6)

    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    kept = paths[0].stat().st_mtime_ns
    build_scenes(tmp_path, 6, 2, seed=4, recipe=small, shard_size=4, processes=2)
    assert [path.read_bytes() for path in paths] == before
    assert paths[0].stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="different settings .*seed"):
        build_scenes(tmp_path, 6, 2, seed=5, recipe=small, shard_size=4)
    record = json.loads((tmp_path / "dataset.json").read_text())
    assert record["scenes"]["presence"] == 1.0


def test_the_front_end_keeps_to_the_resolution_of_scenes():
    extractor = scene_extractor()
    iq = draw_scenes(recipe(), 0, 0).iq[:1]
    longer = torch.cat([iq, iq], dim=1).numpy()
    expected = extractor.spectrogram(iq)
    found = extractor(longer, sampling_rate=30.72e6, return_tensors="pt").input_values
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="20,000,000 Hz, but this extractor expects 30,720,000 Hz"):
        extractor(longer, sampling_rate=20e6)
    with pytest.raises(ValueError, match="too short"):
        extractor(longer[:, :300_000], sampling_rate=30.72e6)


def test_models_take_what_the_front_end_gives():
    extractor = scene_extractor()
    small = {"hidden_size": 4, "num_hidden_layers": 1, "embedding_stride": 8}
    config = MaskedConvLstmConfig(**small, id2label={0: "nothing", 1: "LTE"})
    inputs = extractor(draw_scenes(recipe(), 0, 0).iq.numpy(), sampling_rate=30.72e6, return_tensors="pt")
    assert "resolution" in inputs
    logits = MaskedConvLstmForSemanticSegmentation(config)(**inputs).logits
    assert logits.shape == (2, 2, 128, 128)
    assert MaskedConvLstmForForecasting(config)(**inputs).reconstruction.shape == (2, 1, 128, 128)


def test_nothing_to_build_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="0 and 0 scenes were requested"):
        build_scenes(tmp_path, 0, 0)
