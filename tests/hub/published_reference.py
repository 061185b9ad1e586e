"""The published model, written a second time: random checkpoints with its keys, and its formulas in NumPy float64.

Nothing here uses the package, so that agreement with it means something.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

CLS_VALUE, MASK_VALUE, EPSILON = 0.2, 0.1, 1e-6


def random_expert(seed=0, layers=2, width=32, element=16, positions=17, ffn=64, attention_width=None):
    """State dict with the published key names, in the published order, and random float32 values."""
    generator = torch.Generator().manual_seed(seed)
    attention_width = attention_width or width

    def normal(*shape, scale=0.1, offset=0.0):
        return offset + scale * torch.randn(*shape, generator=generator)

    state = OrderedDict()

    def linear(name, outputs, inputs):
        state[f"{name}.weight"] = normal(outputs, inputs, scale=inputs**-0.5)
        state[f"{name}.bias"] = normal(outputs)

    def norm(name):
        state[f"{name}.alpha"] = normal(width, offset=1.0)
        state[f"{name}.bias"] = normal(width)

    linear("embedding.proj", width, element)
    state["embedding.pos_embed.weight"] = normal(positions, width, scale=1.0)
    norm("embedding.norm")
    for layer in range(layers):
        for name in ("W_Q", "W_K", "W_V"):
            linear(f"layers.{layer}.enc_self_attn.{name}", attention_width, width)
        linear(f"layers.{layer}.enc_self_attn.linear", width, attention_width)
        linear(f"layers.{layer}.pos_ffn.fc1", ffn, width)
        linear(f"layers.{layer}.pos_ffn.fc2", width, ffn)
        norm(f"layers.{layer}.norm1")
        norm(f"layers.{layer}.norm2")
    linear("linear", width, width)
    norm("norm")
    state["decoder.weight"] = normal(element, width, scale=width**-0.5)
    state["decoder_bias"] = normal(element)
    return state


class Reference:
    """The published forward pass, evaluated in float64."""

    def __init__(self, state, heads=8):
        self.weights = {key: value.double().numpy() for key, value in state.items()}
        self.heads = heads
        self.layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        deviation = x - x.mean(-1, keepdims=True)
        std = np.sqrt((deviation**2).sum(-1, keepdims=True) / (x.shape[-1] - 1))  # unbiased
        return self.weights[f"{name}.alpha"] * deviation / (std + EPSILON) + self.weights[f"{name}.bias"]

    def attention(self, name, x):
        batch, length, _ = x.shape

        def heads(projection):
            return self.linear(f"{name}.{projection}", x).reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3)

        query, key, value = heads("W_Q"), heads("W_K"), heads("W_V")
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = scores / scores.sum(-1, keepdims=True) @ value
        return self.linear(f"{name}.linear", context.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def last_hidden_state(self, tokens, use_cls_token=True):
        """`tokens` is `(batch, patches, element)`: flattened patches, masked ones already replaced."""
        tokens = np.asarray(tokens, dtype=np.float64)
        if use_cls_token:
            cls = np.full((tokens.shape[0], 1, tokens.shape[2]), CLS_VALUE)
            tokens = np.concatenate([cls, tokens], axis=1)
        x = self.linear("embedding.proj", tokens) + self.weights["embedding.pos_embed.weight"][: tokens.shape[1]]
        x = self.norm("embedding.norm", x)
        for layer in range(self.layers):
            x = self.norm(f"layers.{layer}.norm1", x + self.attention(f"layers.{layer}.enc_self_attn", x))
            hidden = np.maximum(self.linear(f"layers.{layer}.pos_ffn.fc1", x), 0.0)
            x = self.norm(f"layers.{layer}.norm2", x + self.linear(f"layers.{layer}.pos_ffn.fc2", hidden))
        return x

    def embedding(self, tokens, use_cls_token=True):
        return self.last_hidden_state(tokens, use_cls_token).mean(axis=1)

    def reconstruction(self, tokens, mask, use_cls_token=True):
        """The values predicted for the masked patches, `(masked patches of all samples, element)`."""
        masked = np.where(mask[..., None], MASK_VALUE, np.asarray(tokens, dtype=np.float64))
        x = self.last_hidden_state(masked, use_cls_token)[:, int(use_cls_token) :][mask]
        x = self.norm("norm", np.maximum(self.linear("linear", x), 0.0))
        return x @ self.weights["decoder.weight"].T + self.weights["decoder_bias"]


def patches(spectrogram, size=4):
    """Row-major `size` x `size` patches of `(batch, rows, columns)`, one slice at a time."""
    rows, columns = spectrogram.shape[1] // size, spectrogram.shape[2] // size
    cut = [
        spectrogram[:, size * row : size * (row + 1), size * column : size * (column + 1)].reshape(
            len(spectrogram), -1
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return np.stack(cut, axis=1)


def random_router(seed=0, experts=3):
    """A stride-2 CNN of the published structure, with running statistics that are not the initial ones."""
    layers = []
    channels = (1, 32, 64, 96, 128)
    for inputs, outputs, kernel in zip(channels[:-1], channels[1:], (5, 3, 3, 3), strict=True):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        ]
    router = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, experts))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in router.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(7)
    return router.eval()


def random_bundle(router, comm_to_idx, expert_state_dicts=None):
    """A task bundle with the published keys; its classifier's tensors have names of no documented layout."""
    mapping = {
        index: (snr, mobility)
        for index, (snr, mobility) in enumerate(
            (snr, mobility) for snr in (-5, 0, 5, 10, 15, 20, 25) for mobility in ("pedestrian", "vehicular")
        )
    }
    bundle = {
        "model_type": "moe",
        "task": "snr_mobility",
        "num_classes": 14,
        "topk": 1,
        "dropout": 0.1,
        "comm_to_idx": comm_to_idx,
        "experts": list(comm_to_idx),
        "classifier_state_dict": {"norm.weight": torch.ones(128), "blocks.0.conv.weight": torch.zeros(4, 1, 3)},
        "mapping": mapping,
        "router_state_dict": router.state_dict(),
    }
    if expert_state_dicts is not None:
        bundle["expert_state_dicts"] = expert_state_dicts
    return bundle
