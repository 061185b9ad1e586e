"""Batches by number: every row comes once, on any number of processes; their labels, masks and operation counts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForPreTraining, SpectrogramFeatureExtractor
from lwm_spectro_hf.data.builder import features
from lwm_spectro_hf.data.parquet import ParquetSpectrograms, TooFewRowsError, load_spectrograms
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.training.batches import NUM_CLASSES, Batches, Interleaved, class_labels, contrastive_labels
from lwm_spectro_hf.training.masks import mask_noise
from lwm_spectro_hf.training.throughput import peak_flops, training_flops


class Counting:
    chunk_size = 6

    def __init__(self, chunks_per_batch=4):
        self.chunks_per_batch, self.made = chunks_per_batch, []

    def batch(self, number):
        self.made.append(number)
        return {"index": torch.arange(self.chunks_per_batch * 6) + number * self.chunks_per_batch * 6}


@pytest.mark.parametrize("prefetch", [False, True])
def test_every_row_comes_once_from_every_chunk_equally(prefetch):
    batches = Batches(Counting(), 8, prefetch=prefetch)
    rows = [batches.at(number)["index"] for number in range(6)]
    assert torch.cat(rows).sort().values.tolist() == list(range(48))
    assert all((row // 6).bincount(minlength=4)[-4:].tolist() == [2] * 4 for row in rows)
    # Batches depend only on their number, not on what was read before.
    assert torch.equal(Batches(Counting(), 8).at(4)["index"], rows[4])
    assert torch.equal(batches.at(1)["index"], rows[1])


def test_interleaved_blocks_overlap_and_lose_no_row():
    source = Interleaved(Counting(), 2)
    assert source.chunks_per_batch == 8
    plain = [set(Counting().batch(number)["index"].tolist()) for number in range(5)]
    blocks = [set(source.batch(number)["index"].tolist()) for number in range(4)]
    for number, block in enumerate(blocks):
        assert len(block & plain[number]) == len(block & plain[number + 1]) == len(block) // 2
    assert len(set.union(*blocks)) == sum(map(len, blocks)), "no row comes twice"
    assert plain[1] | plain[2] | plain[3] < set.union(*blocks), "nor is one left out"
    again = Interleaved(Counting(), 2).batch(2)["index"]
    assert torch.equal(again, source.batch(2)["index"]), "whatever was read before"
    with pytest.raises(ValueError, match="cannot be cut into 7 equal parts"):
        Interleaved(Counting(), 7).batch(0)


def test_repeated_rows_get_new_numbers_and_are_made_once():
    source = Counting()
    batches = Batches(source, 8, repeat=2)
    visits = torch.cat([batches.at(number)["index"] for number in range(12)])
    assert visits.sort().values.tolist() == list(range(96)) and source.made == [0, 1]


def test_sizes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="A batch of 6 rows cannot be made of 4 equal parts"):
        Batches(Counting(), 6)
    with pytest.raises(ValueError, match="Chunks of 6 spectrograms cannot be cut into equal parts of the 4"):
        Batches(Counting(), 16).at(0)


def test_contrastive_classes_are_combinations_of_known_labels():
    batch = {
        "protocol": torch.tensor([1, 1, 1, 1, -1, 1]),
        "modulation": torch.tensor([0, 0, 2, -1, 0, 0]),
        "snr_db": torch.tensor([-5.0, -5.0, -5.0, -5.0, -5.0, 0.0]),
        "mobility": torch.tensor([2, 1, 2, 2, 2, 2]),
    }
    assert (contrastive_labels(batch, ["mobility"]) == torch.tensor([2, 1, 2, 2, -1, 2])).all()
    first, second, third, *unknown, last = contrastive_labels(batch, ["modulation", "snr_db", "mobility"]).tolist()
    assert unknown == [-1, -1] and len({first, second, third, last}) == 4 and min(first, second, third, last) >= 0
    with pytest.raises(ValueError, match="expected some of modulation, snr_db, mobility"):
        contrastive_labels(batch, ["city"])


def test_classes_of_one_label():
    batch = {
        "protocol": torch.tensor([0, 1, 2, -1]),
        "modulation": torch.tensor([1, -1, 4, 0]),
        "snr_db": torch.tensor([-5.0, 25.2, 7.0, 10.0]),
        "mobility": torch.tensor([0, 2, -1, 1]),
    }
    found = {name: class_labels(batch, name).tolist() for name in NUM_CLASSES}
    assert found["modulation"] == [1, -100, 4, -100] and found["mobility"] == [0, 2, -100, -100]
    assert found["snr_db"] == [0, 6, -100, -100], "7 dB is not on the grid, and noise has no SNR"
    assert all(max(classes) < NUM_CLASSES[name] for name, classes in found.items())


def test_mask_noise_is_uniform_and_belongs_to_the_sample():
    index = torch.arange(4000)
    noise = mask_noise(index, 64, seed=5)
    assert torch.equal(noise[1000:1003], mask_noise(index[1000:1003], 64, seed=5))
    assert not torch.equal(noise, mask_noise(index, 64, seed=6))
    assert 0 <= float(noise.min()) and float(noise.max()) < 1
    assert float((noise.mean(0) - 0.5).abs().max()) < 0.025 and float((noise.mean(1) - 0.5).abs().max()) < 0.2
    correlation = torch.corrcoef(noise.T) - torch.eye(64)
    assert float(correlation.abs().max()) < 0.08 and float(noise.var()) == pytest.approx(1 / 12, rel=0.01)


@pytest.mark.parametrize("strategy", ["token", "drop"])
def test_operation_counts_match_the_matrix_products(strategy):
    config = LwmSpectroConfig(num_frames=32, num_freq_bins=16, num_hidden_layers=2, mask_strategy=strategy)
    patches, width, inner = config.num_patches, config.hidden_size, config.intermediate_size
    visible = patches - config.num_masked_patches if strategy == "drop" else patches

    def layer(tokens):
        return 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width

    decoder = config.decoder_num_hidden_layers * layer(patches)
    forward = config.num_hidden_layers * layer(visible) + decoder
    assert training_flops(config) == pytest.approx(3 * forward, rel=0.08)  # embeddings and projections come on top
    assert peak_flops(torch.device("cpu")) is None
    assert LwmSpectroForPreTraining(config).lwm_spectro.config._attn_implementation != "eager"


def write_shards(folder, sizes):
    """Shards as `build_parquet` writes them, of random numbers; every other row is LTE."""
    schema = features(SpectrogramFeatureExtractor(num_frames=4, num_freq_bins=8, fft_size=8), ("spectrogram",))
    generator, columns = torch.Generator().manual_seed(0), {}
    for shard, size in enumerate(sizes):
        columns = {name: [0] * size for name in schema} | {"scenario": ["munich"] * size}
        columns["resolution"] = torch.rand(size, 2, generator=generator).numpy()
        columns["input_values"] = torch.randn(size, 1, 4, 8, generator=generator).half().numpy()
        columns["protocol"] = [row % 2 for row in range(size)]
        columns["snr_db"] = torch.rand(size, generator=generator).tolist()
        table = Dataset.from_dict(columns, features=schema).with_format("arrow")[:]
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / "data" / f"train-{shard:05d}-of-{len(sizes):05d}.parquet", row_group_size=10)


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_kept_back_come_from_every_data_set_and_are_not_trained_on(tmp_path, in_memory):
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_shards(folder, [24, 24 + 8 * number])
    options = {"chunk_size": 8, "kept_back": 16, "chunks_per_batch": 2, "in_memory": in_memory}
    named = [folders[0], folders[1], folders[0]]  # listed twice, to count double
    train = ParquetSpectrograms(named, chunks_per_batch=14, **{k: v for k, v in options.items() if "chunks" not in k})
    kept = ParquetSpectrograms(named, only_kept_back=True, **options)
    assert len(train) == 2 * 40 + 48 - 128 % 8 and len(kept) == 16
    tables = [load_spectrograms(folder, "train")["snr_db"] for folder in folders]
    last = torch.cat([table[-8:] for table in tables])
    assert kept.batch(0)["snr_db"].sort().values.tolist() == last.sort().values.tolist()
    assert kept.rows()["snr_db"].tolist() == last.tolist() and kept.rows()["index"].tolist() == list(range(16))
    assert not set(train.batch(0)["snr_db"].tolist()) & set(last.tolist())


def test_small_data_sets_leave_validation_to_the_others(tmp_path):
    sizes = {"small": 6, "large": 100}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, [size])
    folders = [tmp_path / name for name in sizes]
    options = {"chunk_size": 1, "chunks_per_batch": 1, "kept_back": 20}
    kept = ParquetSpectrograms(folders, protocol="LTE", only_kept_back=True, **options)
    # Half of the three rows of one; the other makes up for the rest.
    assert len(kept) == 20 and [path.parts[-3] for path in kept.paths] == list(sizes)
    train = ParquetSpectrograms(folders, protocol="LTE", **options)
    assert len(train) == 3 + 50 - 20
    with pytest.raises(TooFewRowsError, match="has 0 rows of 5G"):
        ParquetSpectrograms(folders, protocol="5G", only_kept_back=True, **options)


def test_spectrograms_with_nan_are_named(tmp_path):
    write_shards(tmp_path, [16, 16])
    last = max((tmp_path / "data").iterdir())
    table = pq.read_table(last)
    values = table.column("input_values").to_pylist()
    values[5][0][0][0] = float("nan")
    place = table.schema.get_field_index("input_values")
    pq.write_table(table.set_column(place, table.field(place), pa.array(values, table.field(place).type)), last)
    message = f"Row 5 of {last} holds a spectrogram with values that are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        ParquetSpectrograms(tmp_path, chunk_size=16, chunks_per_batch=2).batch(0)
    with pytest.raises(ValueError, match=message):
        load_spectrograms(tmp_path, "train")


def test_missing_resolutions_are_unknown(tmp_path):
    write_shards(tmp_path, [16, 16])
    first = min((tmp_path / "data").iterdir())
    pq.write_table(pq.read_table(first).drop_columns(["resolution"]), first)
    batch = ParquetSpectrograms(tmp_path, chunk_size=16, chunks_per_batch=2).batch(0)
    assert batch["resolution"].isnan().all(1).tolist() == (batch["index"] < 16).tolist()
    assert batch["resolution"].shape == (32, 2)


def test_parquet_blocks_hold_every_row_of_the_protocol_once_an_epoch(tmp_path):
    write_shards(tmp_path, [24, 24, 22])
    table = load_spectrograms(tmp_path, "train")
    some = load_spectrograms(tmp_path, "train", 30)
    assert all(torch.equal(column, table[name][:30]) for name, column in some.items())
    rows = (table["protocol"] == PROTOCOLS.index("LTE")).nonzero()[:, 0]
    options = {"protocol": "LTE", "chunk_size": 8}
    source = ParquetSpectrograms(tmp_path, chunks_per_batch=2, **options)
    assert len(rows) == 35 and len(source) == 32
    blocks = [source.batch(number) for number in range(4)]
    for epoch in (0, 1):
        index = torch.cat([block["index"] for block in blocks[2 * epoch : 2 * epoch + 2]])
        assert index.sort().values.tolist() == list(range(35 * epoch, 35 * epoch + 32))
    assert not torch.equal(blocks[0]["index"], blocks[2]["index"] - 35)
    for block in blocks:
        chosen = rows[block["index"] % 35]
        assert torch.equal(block["input_values"], table["input_values"][chosen].float())
        assert torch.equal(block["resolution"], table["resolution"][chosen])
        for name in ("modulation", "snr_db", "mobility", "protocol"):
            assert torch.equal(block[name], table[name][chosen])
    held = ParquetSpectrograms(tmp_path, chunks_per_batch=2, in_memory=True, **options)
    for number in (3, 0):
        block = held.batch(number)
        assert all(torch.equal(block[name], column) for name, column in blocks[number].items())
    # Two processes share the rows of one.
    halves = [
        ParquetSpectrograms(tmp_path, chunks_per_batch=1, rank=rank, num_replicas=2, **options) for rank in (0, 1)
    ]
    together = torch.cat([half.batch(1)["index"] for half in halves])
    assert together.sort().values.tolist() == blocks[1]["index"].sort().values.tolist()
    with pytest.raises(ValueError, match="has 35 rows of LTE in its split 'train' for this use, 4 chunks of 8"):
        ParquetSpectrograms(tmp_path, chunks_per_batch=5, **options)
    with pytest.raises(FileNotFoundError, match="no split 'test'"):
        ParquetSpectrograms(tmp_path, "test")
