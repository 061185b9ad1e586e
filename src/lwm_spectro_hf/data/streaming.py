"""A recipe as an endless stream of labeled spectrograms, generated on the training device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from .front_end import default_extractor
from .recipe import Recipe
from .synthesis import check_channels, draw_recordings

LABELS = ("protocol", "modulation", "code_rate", "snr_db", "mobility", "speed_mps", "channel", "user", "index")


class GeneratedSpectrograms(IterableDataset):
    """Endless batches of spectrograms and labels, sharded over ranks and over loader workers.

    Of `num_replicas` ranks, rank `r` takes every `num_replicas`-th chunk of the recipe, starting at `r`. No two ranks
    see the same recording, and together they see what one rank alone would. On a GPU, iterate over it directly (or
    with `num_workers=0`); on CPUs, let a `DataLoader(stream, batch_size=None, num_workers=...)` generate ahead. The
    stream never ends, so keep one iterator, `iter(loader)`: another one starts over, in workers of its own.

    Args:
        recipe ([`Recipe`]): What to generate.
        seed (`int`, *optional*, defaults to 0): Of the stream.
        extractor ([`SpectrogramFeatureExtractor`], *optional*): The front-end.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the batches are generated, and stay.
        chunks_per_batch (`int`, *optional*, defaults to 3): Chunks joined into a batch; each is of one protocol.
        rank (`int`, *optional*, defaults to 0): Of this process.
        num_replicas (`int`, *optional*, defaults to 1): Processes that share the stream.

    Raises:
        ValueError: If the recipe's channels, the device or the rank do not exist.

    Yields:
        `dict`: `input_values` of shape `(batch, num_channels, num_frames, num_freq_bins)`, float32; `resolution` of
        shape `(batch, 2)`, see [`SpectrogramFeatureExtractor.resolution`]; and labels of shape `(batch,)`, where
        `batch = chunks_per_batch * recipe.chunk_size`.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int = 0,
        extractor: SpectrogramFeatureExtractor | None = None,
        device: str | torch.device = "cpu",
        chunks_per_batch: int = 3,
        rank: int = 0,
        num_replicas: int = 1,
    ):
        super().__init__()
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank is {rank} of {num_replicas}; expected 0 to {num_replicas - 1}.")
        if chunks_per_batch < 1:
            raise ValueError(f"chunks_per_batch is {chunks_per_batch}; expected at least 1.")
        check_channels(recipe)
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device is {device!r}, but there is none here; use 'cpu'. PyTorch says: {error}"
            ) from error
        self.recipe, self.seed, self.device = recipe, seed, device
        self.extractor = extractor or default_extractor(recipe.num_frames, recipe.fft_size)
        self.chunks_per_batch = chunks_per_batch
        self.rank, self.num_replicas = rank, num_replicas
        self.batches_drawn = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        while True:
            batch = self.batches_drawn + number
            self.batches_drawn += workers  # a worker counts those of the others, too
            yield self.batch(batch)

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Batch `number` of this rank, regardless of what was drawn before."""
        first = number * self.chunks_per_batch
        chunks = [(first + place) * self.num_replicas + self.rank for place in range(self.chunks_per_batch)]
        columns: dict[str, list[torch.Tensor]] = {}
        for chunk in chunks:
            drawn = draw_recordings(self.recipe, chunk, self.seed, self.device)
            columns.setdefault("input_values", []).append(self.extractor.spectrogram(drawn.iq))
            resolution = self.extractor.resolution(drawn.iq.shape[1], drawn.sampling_rate, drawn.frame_step_s)
            columns.setdefault("resolution", []).append(resolution.to(self.device).expand(len(drawn.iq), 2))
            for name in LABELS:
                columns.setdefault(name, []).append(getattr(drawn, name))
        return {name: torch.cat(parts) for name, parts in columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream, to resume with [`load_state_dict`] with the same number of ranks and batch size.

        Workers of a `DataLoader` have copies of the stream, which go on from its position, and do not advance this
        one: with them, set `batches_drawn` to the number of batches taken from the loader.
        """
        return {"batches_drawn": self.batches_drawn, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the position in `state`.

        Raises:
            ValueError: If the state is of a stream with another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"The state is from a stream with seed {state['seed']}, but this one has {self.seed}.")
        self.batches_drawn = state["batches_drawn"]
