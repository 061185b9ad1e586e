"""The front-end that generated data sets have unless told otherwise."""

from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor


def default_extractor() -> SpectrogramFeatureExtractor:
    """The front-end of generated data sets: the two windows that carry most about modulation."""
    return SpectrogramFeatureExtractor(window_function=["boxcar", "general_hamming:0.72"])
