"""Views of a spectrogram: shifting, mirroring, shortening and narrowing keep the signal."""

import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.training.augmentation import augment, narrow, shorten


def test_rows_start_later_and_mirror_about_dc():
    values = torch.randn(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([[0.0, 0.9], [0.25, 0.9], [0.5, 0.1]])
    views = augment(values, noise)
    assert torch.equal(views[0], values[0])
    assert torch.equal(views[1], values[1].roll(-4, 1))
    mirrored = values[2].roll(-8, 1)
    # DC, the bin right of the middle, stays; the bin k above it comes from the bin k below.
    assert torch.equal(views[2][..., 12], mirrored[..., 12])
    assert torch.equal(views[2][..., 13:], mirrored[..., 1:12].flip(-1))


@pytest.mark.parametrize("num_bins", [24, 23])
def test_the_mirror_is_the_spectrogram_of_the_conjugate(noise, num_bins):
    extractor = SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=num_bins, fft_size=num_bins)
    iq = torch.from_numpy(noise(16 * num_bins))[None]
    mirror = augment(extractor.spectrogram(iq), torch.tensor([[0.0, 0.1]]))
    torch.testing.assert_close(mirror, extractor.spectrogram(iq.conj()), rtol=0, atol=1e-3)


def test_spectrograms_of_symbols_become_those_of_short_recordings():
    values = torch.randn(4, 2, 128, 24, generator=torch.Generator().manual_seed(0))
    resolution = torch.tensor([[1 / 14e3, 15e3], [4e-6, 312.5e3], [2e-5, 15e3], [torch.nan, torch.nan]])
    noise = torch.tensor([[0.1, 0.45, 0.9]] * 4)
    views = shorten(values, resolution, noise, share=0.5)
    # Cells keep whole slots of seven symbols, packets any number; frames that are no symbols are unchanged.
    for row, count in ((0, 28), (1, 59)):
        assert torch.equal(views[row], views[row][:, torch.arange(128) % count])
        assert len(views[row, 0].unique(dim=0)) == count
        for channel in views[row]:
            assert channel.mean().item() == pytest.approx(0, abs=1e-5)
            assert channel.std(correction=0).item() == pytest.approx(1, abs=1e-5)
        # They are consecutive frames of the recording.
        similar = torch.corrcoef(torch.cat([values[row, 0], views[row, 0, :1]]))[-1, :-1]
        start = int(similar.argmax())
        assert 0 < start <= 128 - count
        expected = values[row, :, start : start + count]
        got = views[row, :, :count]
        slope = (got * expected).sum() / expected.square().sum()
        assert (got - slope * expected).std() < 0.05
    assert torch.equal(views[2:], values[2:])
    assert torch.equal(shorten(values, resolution, noise, share=0.05), values)


def test_shortening_equals_repeating_the_first_symbols():
    """Training makes the spectrogram of a recording's first symbols, repeated, from that of the whole recording."""
    extractor = SpectrogramFeatureExtractor(hop_length=128)
    frames = torch.randn(1, 128, 128, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    resolution = torch.tensor([[1 / 28e3, 30e3]])
    whole, short = (extractor.spectrogram(kept.flatten(1)) for kept in (frames, frames[:, torch.arange(128) % 21]))
    views = shorten(whole, resolution, torch.tensor([[0.0, 0.3, 0.0]]), share=1.0)
    torch.testing.assert_close(views, short, rtol=0, atol=1e-4)


def test_grids_shorter_than_the_shortest_recording_stay():
    values = torch.randn(1, 1, 10, 24)
    assert torch.equal(shorten(values, torch.tensor([[1 / 14e3, 15e3]]), torch.zeros(1, 3), share=1.0), values)


def test_narrow_views_hold_a_piece_of_the_whole():
    values = torch.arange(2 * 16 * 24).float().view(1, 2, 16, 24).expand(64, -1, -1, -1)
    noise = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    moved, mask = narrow(values, noise, share=1.0)
    widths = set()
    for row, hidden in zip(moved, mask, strict=True):
        frames, bins = (~hidden).any(1).nonzero()[:, 0], (~hidden).any(0).nonzero()[:, 0]
        # Visible are the first frames and the bins around the middle, without gaps.
        assert frames.tolist() == list(range(len(frames))) and len(frames) >= 6
        assert bins.tolist() == list(range(12 - len(bins) // 2, 12 - len(bins) // 2 + len(bins))) and len(bins) >= 6
        assert (~hidden).sum() == len(frames) * len(bins)
        piece = row[:, : len(frames), bins[0] : bins[-1] + 1]
        first = int(piece[0, 0, 0])
        frame, bin_ = divmod(first, 24)
        torch.testing.assert_close(piece, values[0, :, frame : frame + len(frames), bin_ : bin_ + len(bins)])
        widths.add(len(bins))
    assert len(widths) > 6
    same, nothing = narrow(values, noise, share=0.0)
    assert torch.equal(same, values) and not nothing.any()
