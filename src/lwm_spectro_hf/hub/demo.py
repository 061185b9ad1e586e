"""Compare imported weights with the embeddings that the published repository ships in `demo_data.pt`."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ..modeling_lwm_spectro_moe import LwmSpectroMoEForPreTraining
from .foreign import DEMO_FILE
from .layout import CLS_TOKEN_VALUE

# Samples to compare, evenly spaced since the file is sorted by protocol; few, since each has 1024 tokens.
NUM_SAMPLES = 9


def compare_with_demo(model: LwmSpectroMoEForPreTraining, samples: Any) -> str:
    """Report how far the embeddings are from the published ones, with and without the CLS token.

    These embeddings are the only reference outputs in the published repository, so they also show which of the two
    variants its authors used. Spectrograms are z-scored, which changes nothing if they already are.

    Args:
        model ([`LwmSpectroMoEForPreTraining`]): The imported mixture.
        samples (`list[dict]`): Content of `demo_data.pt`: `data` of shape `(1, num_frames, num_freq_bins)` and
            `moe_embedding` of shape `(hidden_size,)`.

    Returns:
        `str`: A note for the conversion report.
    """
    expert = model.config.expert_config
    shapes = {"data": (1, expert.num_frames, expert.num_freq_bins), "moe_embedding": (expert.hidden_size,)}
    usable = [sample for sample in samples if _fits(sample, shapes)] if isinstance(samples, list) else []
    if not usable:
        return f"{DEMO_FILE} holds no sample with the shapes {shapes}, so nothing was compared"
    count = min(NUM_SAMPLES, len(usable))
    chosen = [usable[index * (len(usable) - 1) // max(1, count - 1)] for index in range(count)]
    inputs = torch.stack([sample["data"] for sample in chosen]).float()
    inputs = (inputs - inputs.mean((1, 2, 3), keepdim=True)) / inputs.std((1, 2, 3), keepdim=True, unbiased=False)
    published = torch.stack([sample["moe_embedding"] for sample in chosen]).float()
    found = []
    for value, words in ((CLS_TOKEN_VALUE, "with"), (None, "without")):
        config = copy.deepcopy(model.config)
        config.expert_config.cls_token_value = value
        if config.expert_config.sequence_length > (expert.max_position_embeddings or expert.sequence_length):
            continue  # the position table has no row for the CLS token
        variant = type(model)(config).eval()
        variant.load_state_dict(model.state_dict())
        with torch.no_grad():
            error = (variant.base_model(inputs).pooler_output - published).abs().max()
        found.append(f"{error:.2g} {words} the CLS token")
    return f"{count} embeddings of {DEMO_FILE} differ from the published ones by at most {' and '.join(found)}"


def _fits(sample: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    return isinstance(sample, Mapping) and all(
        isinstance(sample.get(key), torch.Tensor) and tuple(sample[key].shape) == shape
        for key, shape in shapes.items()
    )
