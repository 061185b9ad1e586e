"""The endless stream: ranks and workers share what one process would draw, and it resumes where it stopped."""

import pytest
import torch
from torch.utils.data import DataLoader

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.recipe import Recipe
from lwm_spectro_hf.data.streaming import LABELS, GeneratedSpectrograms

RECIPE = Recipe(
    protocols=("LTE", "WiFi"), resource_blocks={"LTE": (6,)}, noise_share=0.25, num_frames=16, chunk_size=2
)
FRONT_END = SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=128, fft_size=128)


def stream(**options):
    return GeneratedSpectrograms(RECIPE, **{"seed": 3, "extractor": FRONT_END, "chunks_per_batch": 2, **options})


def draw(source, count):
    return [batch for _, batch in zip(range(count), source, strict=False)]


def rows_of(batches):
    """Every recording by its number."""
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    rows = {}
    for row, index in enumerate(joined["index"].tolist()):
        assert index not in rows
        rows[index] = {name: values[row] for name, values in joined.items()}
    return rows


def assert_same(first, second):
    assert first.keys() == second.keys()
    for index in first:
        for name, value in first[index].items():
            assert torch.equal(value, second[index][name]), (index, name)


@pytest.fixture(scope="module")
def alone():
    return rows_of(draw(stream(), 4))


def test_batches(alone):
    (batch,) = draw(stream(), 1)
    assert batch.keys() == {"input_values", "resolution", *LABELS}
    assert batch["resolution"].shape == (4, 2) and bool((batch["resolution"] > 0).all())
    assert batch["input_values"].shape == (4, 1, 16, 128) and batch["input_values"].dtype == torch.float32
    assert all(batch[name].shape == (4,) for name in LABELS)
    assert sorted(alone) == list(range(16)) and {int(row["protocol"]) for row in alone.values()} == {-1, 0, 1}


def test_ranks_share_what_one_process_draws(alone):
    ranks = [draw(stream(rank=rank, num_replicas=2), 2) for rank in range(2)]
    assert_same(rows_of(ranks[0] + ranks[1]), alone)


def test_workers_of_a_loader_share_what_one_process_draws(alone):
    loader = DataLoader(stream(), batch_size=None, num_workers=2)
    assert_same(rows_of(draw(loader, 4)), alone)


def test_the_stream_resumes_from_its_state(alone):
    first = stream()
    begun = draw(first, 1)
    state = first.state_dict()

    def stream_at(state):
        again = stream()
        again.load_state_dict(state)
        return again

    assert_same(rows_of(begun + draw(stream_at(state), 3)), alone)
    loader = DataLoader(stream_at(state), batch_size=None, num_workers=2)
    assert_same(rows_of(begun + draw(loader, 3)), alone)
    with pytest.raises(ValueError, match="stream with seed 3, but this one has 4"):
        stream(seed=4).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "num_replicas": 2}, "rank is 2 of 2; expected 0 to 1"),
        ({"rank": -1}, "rank is -1 of 1"),
        ({"chunks_per_batch": 0}, "chunks_per_batch is 0; expected at least 1"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)


def test_unknown_cities_are_errors_before_the_first_batch():
    with pytest.raises(ValueError, match="No scenario 'atlantis'"):
        GeneratedSpectrograms(RECIPE.narrowed(channels=("atlantis",)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_devices_are_named():
    with pytest.raises(ValueError, match="device is 'cuda', but there is none here; use 'cpu'"):
        GeneratedSpectrograms(Recipe(), device="cuda")
