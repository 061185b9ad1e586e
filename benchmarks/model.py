#!/usr/bin/env python
"""
Speed of the model, as ratios measured in one run on one machine, in float32 on the CPU.

    python benchmarks/model.py                                # all of it, about 4 minutes on two quiet cores
    python benchmarks/model.py --rows 2 --repeats 1           # a quick look
    python benchmarks/model.py --parts encoder --threads 1    # one part, one thread

The parts:

encoder   Spectrograms per second of `LwmSpectroModel` with its default configuration, eager and under
          `torch.compile(fullgraph=True)`, against a plain encoder with the same weights: matrix products, a softmax
          over (batch, heads, 1024, 1024) kept in memory, and normalizations written out, as in the published code.
          The embeddings of all three must agree to 1e-4, or the run fails. Target: 5 times or more.
routing   Top-1 routing of a batch that is split equally over the three experts, against one expert plus the router on
          that batch. Target: 1.15 times or less.
masking   A training step (forward and backward) that keeps masked patches as tokens, and one that drops them, against
          a plain one: mask tokens kept, and the attention's matrices of (batch, heads, 1024, 1024) in memory.
          Target for dropping: 4 times or more.

The sides of a part take turns, and each ratio is the median over the rounds of the ratio within a round, so that
temporary load on the machine slows both sides alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lwm_spectro_hf import (
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroModel,
    LwmSpectroMoEConfig,
    LwmSpectroMoEModel,
)

TOLERANCE = 1e-4


def spectrograms(config: LwmSpectroConfig, rows: int) -> torch.Tensor:
    """Standard normal spectrograms, as the front-end's normalization leaves them."""
    shape = (rows, config.num_channels, config.num_frames, config.num_freq_bins)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def plain_norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """Layer normalization, one operation after the other."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return norm.weight * (x - mean) / torch.sqrt(variance + norm.eps) + norm.bias


def plain_encoder(model: LwmSpectroModel, input_values: torch.Tensor) -> torch.Tensor:
    """The embedding by eq. 11 to 14 as they are written, with the weights of `model`."""
    config, (batch, *_) = model.config, input_values.shape
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    hidden_states = model.embeddings(input_values)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        query, key, value = (
            projection(hidden_states).view(batch, -1, heads, width).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / width**0.5
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        context = context.transpose(1, 2).contiguous().view(hidden_states.shape)
        hidden_states = plain_norm(hidden_states + attention.o_proj(context), layer.norm1)
        hidden_states = plain_norm(hidden_states + mlp.fc2(F.gelu(mlp.fc1(hidden_states))), layer.norm2)
    return hidden_states.mean(dim=1)


def take_turns(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run each side once untimed, then all of them in turn; the seconds of each run of each side."""
    for side in sides.values():
        side()
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def rate(rows: torch.Tensor, seconds: list[float]) -> str:
    return f"{len(rows) / statistics.median(seconds):.2f} spectrograms/s"


def verdict(value: float, target: float, at_least: bool) -> str:
    met = value >= target if at_least else value <= target
    return f"target {'>=' if at_least else '<='} {target:g}: {'met' if met else 'NOT met'}"


@torch.inference_mode()
def measure_encoder(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    model = LwmSpectroModel(LwmSpectroConfig()).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, options={"freezing": True})
    rows = spectrograms(model.config, arguments.rows)
    # Few rows at a time keep the activations in the cache; the plain encoder is fastest with its whole batch or
    # indifferent to it, since its attention matrices fit in no cache anyway.
    chunks = rows.split(arguments.chunk_rows)

    def fused():
        return torch.cat([model(chunk).pooler_output for chunk in chunks])

    def fused_and_compiled():
        return torch.cat([compiled(chunk).pooler_output for chunk in chunks])

    def plain():
        return plain_encoder(model, rows)

    for side in (fused, fused_and_compiled):
        difference = (side() - plain()).abs().max().item()
        if difference > TOLERANCE:
            raise SystemExit(
                f"The embeddings differ by {difference:.1e} from the plain encoder's; expected <= {TOLERANCE}"
            )
    seconds = take_turns({"plain": plain, "fused": fused, "compiled": fused_and_compiled}, arguments.repeats)
    table = [("encoder, plain", rate(rows, seconds["plain"]), "reference")]
    for name, label in (("fused", "encoder, LwmSpectroModel"), ("compiled", "encoder, LwmSpectroModel compiled")):
        gain = ratio(seconds["plain"], seconds[name])
        table.append((label, rate(rows, seconds[name]), f"{gain:.2f} x; {verdict(gain, 5, at_least=True)}"))
    return table


@torch.inference_mode()
def measure_routing(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    model = LwmSpectroMoEModel(LwmSpectroMoEConfig()).eval()
    rows = spectrograms(model.config.expert_config, 3 * arguments.rows)
    # A router with random weights would send every row to one expert; it still runs, but its choice is replaced.
    mixed = torch.arange(len(rows)) % model.config.num_experts

    def routed():
        return model(rows, expert_index=mixed)

    def one_expert_and_router():
        return model.router(rows), model.experts[0](rows)

    seconds = take_turns({"routed": routed, "one": one_expert_and_router}, arguments.repeats)
    cost = ratio(seconds["routed"], seconds["one"])
    result = f"{cost:.2f} x the time; {verdict(cost, 1.15, at_least=False)}"
    return [
        ("routing, one expert + router", rate(rows, seconds["one"]), "reference"),
        ("routing, top-1 of 3", rate(rows, seconds["routed"]), result),
    ]


def measure_masking(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    kept, dropped = LwmSpectroConfig(), LwmSpectroConfig(mask_strategy="drop")
    models = {
        "plain": LwmSpectroForPreTraining(LwmSpectroConfig(attn_implementation="eager")),
        "token": LwmSpectroForPreTraining(kept),
        "drop": LwmSpectroForPreTraining(dropped),
    }
    rows = spectrograms(kept, arguments.rows)

    def step(name: str) -> Callable[[], None]:
        def run():
            models[name].zero_grad()
            models[name](rows).loss.backward()

        return run

    seconds = take_turns({name: step(name) for name in models}, arguments.repeats)
    gains = {name: ratio(seconds["plain"], seconds[name]) for name in models}
    target = verdict(gains["drop"], 4, at_least=True)
    return [
        ("training step, plain", rate(rows, seconds["plain"]), "reference"),
        ("training step, masked tokens kept", rate(rows, seconds["token"]), f"{gains['token']:.2f} x"),
        ("training step, masked tokens dropped", rate(rows, seconds["drop"]), f"{gains['drop']:.2f} x; {target}"),
    ]


PARTS = {"encoder": measure_encoder, "routing": measure_routing, "masking": measure_masking}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure (default: all)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=8,
        help="spectrograms per batch; three times as many for routing (default: %(default)s)",
    )
    parser.add_argument(
        "--chunk-rows",
        type=int,
        default=4,
        help="rows that the fused encoder processes at a time (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each part (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, float32, {arguments.repeats} rounds")
    for part in arguments.parts:
        for label, rate, result in PARTS[part](arguments):
            print(f"{label:<38}{rate:>28}   {result}", flush=True)


if __name__ == "__main__":
    main()
