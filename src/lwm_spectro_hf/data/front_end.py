"""The front-end that generated data sets have unless told otherwise."""

from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor


def default_extractor(num_frames: int = 128, fft_size: int = 128) -> SpectrogramFeatureExtractor:
    """The front-end of generated data sets: the two windows that carry most about modulation.

    Args:
        num_frames, fft_size (`int`, *optional*, default to 128): Those of the recipe, so that frames are symbols.
    """
    return SpectrogramFeatureExtractor(
        num_frames=num_frames,
        num_freq_bins=fft_size,
        fft_size=fft_size,
        window_function=["boxcar", "general_hamming:0.72"],
    )
