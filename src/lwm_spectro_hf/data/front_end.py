"""The default front-end of generated data sets."""

from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor


def default_extractor(num_frames: int = 128, fft_size: int = 128) -> SpectrogramFeatureExtractor:
    """The front-end of generated data sets, with the two windows that carry most information about modulation.

    Args:
        num_frames, fft_size (`int`, *optional*, default to 128): As in the recipe, so that each frame is a symbol.
    """
    return SpectrogramFeatureExtractor(
        num_frames=num_frames,
        num_freq_bins=fft_size,
        fft_size=fft_size,
        window_function=["boxcar", "general_hamming:0.72"],
    )
