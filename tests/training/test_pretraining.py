"""Stage 1: the loss curve depends on neither the number of processes nor interruptions, and errors name the cause."""

import copy
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.multiprocessing import spawn

from lwm_spectro_hf import LwmSpectroForPreTraining, supervised_contrastive_loss
from lwm_spectro_hf.level_histogram_lwm_spectro import LwmSpectroLevelNorm
from lwm_spectro_hf.training.batches import Batches, class_labels
from lwm_spectro_hf.training.loop import Deadline, DivergedError, synchronize_normalizations
from lwm_spectro_hf.training.masks import mask_noise
from lwm_spectro_hf.training.pretraining import Pretraining, PretrainingSettings
from lwm_spectro_hf.training.state import StateError
from tiny_models import LEVELS, STEM, tiny_config

SETTINGS = PretrainingSettings(
    batch_size=16,
    epoch_samples=100,
    warmup_epochs=1,
    max_epochs=8,
    learning_rate=2e-3,
    contrastive=("snr_db",),
    supervised=("snr_db",),
    augment=True,
)
CHUNKS = 4  # in a block of all processes


class Noise:
    """Chunks of coloured noise by number, in place of a generator of signals."""

    chunk_size = 8

    def __init__(self, rank=0, num_replicas=1, bad_chunk=None):
        self.rank, self.num_replicas, self.bad_chunk = rank, num_replicas, bad_chunk
        self.chunks_per_batch = CHUNKS // num_replicas

    def batch(self, number):
        chunks = [
            (number * self.chunks_per_batch + place) * self.num_replicas + self.rank
            for place in range(self.chunks_per_batch)
        ]
        parts = [self.chunk(chunk) for chunk in chunks]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def chunk(self, number):
        generator = torch.Generator().manual_seed(number)
        snr = torch.randint(3, (self.chunk_size,), generator=generator) * 10.0
        values = (
            torch.randn(self.chunk_size, 1, 16, 24, generator=generator).cumsum(-1) / 4 + snr[:, None, None, None] / 10
        )
        if number == self.bad_chunk:
            values[0] = torch.nan
        labels = torch.zeros(self.chunk_size, dtype=torch.int64)
        index = torch.arange(self.chunk_size) + number * self.chunk_size
        return {"input_values": values, "snr_db": snr, "protocol": labels, "index": index}


def runner(folder, accelerator=None, settings=SETTINGS, losses=None, bad_chunk=None, config=None, **kwargs):
    accelerator = accelerator or Accelerator(cpu=True)
    torch.manual_seed(0)
    model = LwmSpectroForPreTraining(config or tiny_config())
    source = Noise(accelerator.process_index, accelerator.num_processes, bad_chunk)
    rows = settings.batch_size // accelerator.num_processes // settings.gradient_accumulation
    log = (lambda entry: losses.append(entry["loss"])) if losses is not None else None
    data = {"noise": "coloured"}
    return Pretraining(
        model, Batches(source, rows), settings, accelerator, folder, data, log=log, log_every=1, **kwargs
    )


def weights(of):
    return torch.cat([part.detach().flatten() for part in of.model.parameters()])


def _process(rank, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    return accelerator


def _one_of_two(rank, port, folder):
    accelerator, losses = _process(rank, port), []
    runner(Path(folder) / "two", accelerator, losses=losses).run()
    # No loss reaches the levels of this model, and no process may wait for their gradients.
    settings = replace(SETTINGS, contrastive=(), supervised=())
    config = tiny_config(level_num_bins=4)
    assert runner(Path(folder) / "levels", accelerator, settings, config=config).run(64) == "all samples seen"
    if rank == 0:
        (Path(folder) / "losses.json").write_text(json.dumps(losses))
    accelerator.end_training()


def test_two_processes_give_the_curve_of_one_with_the_same_batch(tmp_path):
    losses = []
    one = runner(tmp_path / "one", losses=losses)
    assert one.run() == "all samples seen" and one.progress.step == 50 and one.progress.samples == 800
    assert losses[-1] < 0.9 * losses[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_one_of_two, (port, str(tmp_path)), nprocs=2)
    both = json.loads((tmp_path / "losses.json").read_text())
    torch.testing.assert_close(torch.tensor(both), torch.tensor(losses), rtol=1e-4, atol=1e-4)
    # One process resumes what two have saved.
    resumed = runner(tmp_path / "two")
    assert resumed.progress.step == 50
    torch.testing.assert_close(weights(resumed), weights(one), rtol=0, atol=1e-3)


def test_processes_at_different_steps_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "gather", lambda self, steps: torch.tensor([int(steps[0]), 7]))
    with pytest.raises(StateError, match="resume from different steps, 0 to 7: .* the same folder for all of them"):
        runner(tmp_path)


def test_supervised_labels_are_learned_but_their_heads_not_saved(tmp_path):
    entries = []
    run = runner(tmp_path, settings=replace(SETTINGS, contrastive=(), max_epochs=16))
    run.log = entries.append
    run.run()
    assert entries[-1]["snr_db_loss"] < 0.5 * entries[0]["snr_db_loss"]
    assert entries[-1]["reconstruction_loss"] < entries[0]["reconstruction_loss"]
    batch = Noise().chunk(10_000)
    with torch.no_grad():
        logits = run.model(batch["input_values"], mask_noise(batch["index"], 24))[1]["snr_db"]
    assert (logits.argmax(-1) == class_labels(batch, "snr_db")).float().mean() > 0.8
    run.model.expert.save_pretrained(tmp_path / "model")
    kept = LwmSpectroForPreTraining.from_pretrained(tmp_path / "model")
    assert kept.state_dict().keys() == LwmSpectroForPreTraining(tiny_config()).state_dict().keys()


def test_training_the_decoder_leaves_the_encoder_unchanged(tmp_path):
    settings = replace(SETTINGS, contrastive=(), supervised=(), part="decoder")
    run = runner(tmp_path, settings=settings, config=tiny_config(**{**STEM, "num_channels": 1}))
    before = copy.deepcopy(run.model.expert.state_dict())
    run.run(max_samples=160)
    after = run.model.expert.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


def test_training_the_levels_leaves_all_else_unchanged(tmp_path):
    settings = replace(SETTINGS, contrastive=(), part="levels", max_epochs=16)
    entries, fields = [], {**LEVELS, "num_channels": 1}
    run = runner(tmp_path, settings=settings, config=tiny_config(**fields))
    run.log = entries.append
    before = copy.deepcopy(run.model.expert.state_dict())
    run.run()
    after = run.model.expert.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("lwm_spectro.levels.") for name in changed)
    assert entries[-1]["snr_db_loss"] < 0.7 * entries[0]["snr_db_loss"]
    assert "reconstruction_loss" not in entries[0]
    with pytest.raises(ValueError, match="`level_num_bins` is 0; expected at least 1"):
        runner(tmp_path / "none", settings=settings)


@pytest.mark.parametrize(
    "part, labels, message",
    [
        ("decoder", {"supervised": ("snr_db",)}, "The decoder by itself learns no labels"),
        ("levels", {}, "Levels by themselves learn supervised labels"),
        ("levels", {"supervised": ("snr_db",), "contrastive": ("snr_db",)}, "and no contrastive ones"),
        ("router", {}, "part is 'router'; expected one of all, decoder, levels"),
    ],
)
def test_parts_refuse_labels_that_they_cannot_learn(part, labels, message):
    with pytest.raises(ValueError, match=message):
        PretrainingSettings(part=part, **labels)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, dropout):
    config = tiny_config(hidden_dropout_prob=dropout)
    validation = [Noise().chunk(10_000)]
    whole = runner(tmp_path / "whole", config=config, validation=validation)
    whole.run()

    class Killed(Exception):
        pass

    for stop in (int(torch.randint(1, 48, (), generator=torch.Generator().manual_seed(0))), 49):
        killed = runner(tmp_path / "killed", config=config, validation=validation)

        def kill(entry, stop=stop):
            if entry["step"] == stop:
                raise Killed

        killed.log = kill
        with pytest.raises(Killed):
            killed.run(save_minutes=0)  # the steps since the last save are lost
    resumed = runner(tmp_path / "killed", config=config, validation=validation)
    assert resumed.progress.step == 48
    resumed.run()
    assert torch.equal(weights(resumed), weights(whole)) and resumed.progress == whole.progress
    for parameter, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(
            resumed.optimizer.state[parameter]["exp_avg_sq"], whole.optimizer.state[other]["exp_avg_sq"]
        )


def test_accumulated_parts_give_the_step_of_a_whole_batch(tmp_path):
    settings = replace(SETTINGS, contrastive=(), max_epochs=1.5)
    whole, parts = (runner(tmp_path / str(n), settings=replace(settings, gradient_accumulation=n)) for n in (1, 2))
    whole.run(), parts.run()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-4)
    # Eq. 21 leaves the projection of eq. 18 alone.
    fresh = runner(tmp_path / "fresh", settings=settings)
    assert torch.equal(whole.model.expert.projection.weight, fresh.model.expert.projection.weight)


def test_a_diverging_run_stops_and_says_where(tmp_path):
    run = runner(tmp_path, bad_chunk=2 * CHUNKS + 1)
    with pytest.raises(DivergedError, match="loss became nan at step 4, after 64 samples.*learning rate"):
        run.run(save_minutes=0)
    assert runner(tmp_path).progress.step == 4  # the last good state


def test_a_nan_validation_loss_ends_training(tmp_path):
    wrong = {**Noise().chunk(9_999)}
    wrong["input_values"] = wrong["input_values"] * torch.nan
    run = runner(tmp_path, settings=replace(SETTINGS, epoch_samples=32), validation=[wrong])
    with pytest.raises(
        DivergedError, match="validation loss became nan at step 2, while the training loss was finite"
    ):
        run.run()


def test_a_state_that_does_not_fit_says_how(tmp_path):
    runner(tmp_path).save()
    manifest = json.loads((tmp_path / "state.json").read_text())
    for progress in ({"step": "3"}, {"step": -1}, None):
        damaged = {**manifest, "record": {**manifest["record"], "progress": progress}}
        (tmp_path / "state.json").write_text(json.dumps(damaged))
        with pytest.raises(StateError, match="record in .* is damaged"):
            runner(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps(manifest))
    with pytest.raises(StateError, match="another model configuration: num_hidden_layers is 2 there, 3 here"):
        runner(tmp_path, config=tiny_config(num_hidden_layers=3))
    with pytest.raises(StateError, match=r"setting: batch_size is 16 there, 32 here; contrastive is \['snr_db'\]"):
        runner(tmp_path, settings=replace(SETTINGS, batch_size=32, contrastive=()))


def test_early_stopping_and_limits(tmp_path):
    settings = replace(SETTINGS, learning_rate=1e-30, final_learning_rate=0.0, patience=2)
    better, validation = [], [Noise().chunk(9_999)]
    run = runner(tmp_path / "a", settings=settings, validation=validation, improved=lambda: better.append(1))
    assert run.run() == "no better validation loss in 2 epochs"
    assert run.progress.step == 19 and better == [1]  # the first step that completes the third epoch
    # Calls that end within an epoch do not count against patience.
    for samples in (16, 32, 48, 64):
        short = runner(tmp_path / "f", settings=replace(settings, epoch_samples=10_000), validation=validation)
        assert short.run(max_samples=samples) == "all samples seen" and short.progress.stale_epochs == 0
    # Nor do they replace the ends of epochs.
    settings = replace(settings, learning_rate=1e-3, epoch_samples=32)
    losses = {2: 1.0, 3: 0.5, 4: 0.9, 6: 0.95, 8: 0.97}  # validated at ends of epochs, and of a call within one
    ends = []
    for name, calls in (("g", (None,)), ("h", (48, None))):
        for samples in calls:
            run = runner(tmp_path / name, settings=settings, validation=validation)
            run.evaluate = lambda _, run=run: losses.get(run.progress.step, 0.99)
            run.run(max_samples=samples)
        ends.append((run.progress.step, run.progress.stale_epochs))
    assert ends == [(8, 2), (8, 2)]
    assert runner(tmp_path / "b").run(max_samples=100) == "all samples seen"
    stopped = runner(tmp_path / "c")
    assert stopped.run(deadline=Deadline(minutes=0)) == "minutes over" and stopped.progress.step == 1
    stopped.stop_requested = True
    assert stopped.run() == "asked to stop"
    with pytest.raises(ValueError, match="needs a number of minutes"):
        runner(tmp_path / "d", settings=replace(SETTINGS, schedule="minutes")).run()


@pytest.mark.parametrize("schedule", ["samples", "minutes"])
def test_a_slow_first_step_does_not_end_a_run(schedule, tmp_path, monkeypatch):
    """The first step compiles, and may take most of the time."""
    now = [0.0]
    monkeypatch.setattr("lwm_spectro_hf.training.loop.time.monotonic", lambda: now[0])
    run = runner(tmp_path, settings=replace(SETTINGS, schedule=schedule, max_epochs=1000))
    step, rates = run._step, []

    def timed(rate):
        now[0] += 0.5 if rates else 8.0
        rates.append(rate)
        return step(rate)

    run._step = timed
    assert run.run(deadline=Deadline(minutes=0.25, start=0.0)) == "minutes over"
    assert 12.0 <= now[0] <= 15.0 and len(rates) >= 9
    if schedule == "minutes":  # warm-up and cosine span the time that is left
        peak = max(rates)
        assert rates.index(peak) < len(rates) / 2 and peak > 0.9 * SETTINGS.learning_rate


def test_a_max_grad_norm_of_zero_disables_clipping(tmp_path):
    reached = {}
    for limit in (0.0, 1e9, 1e-3):
        run = runner(tmp_path / str(limit), settings=replace(SETTINGS, max_grad_norm=limit))
        run.run(max_samples=48)
        reached[limit] = weights(run)
    assert torch.equal(reached[0.0], reached[1e9]) and not torch.equal(reached[0.0], reached[1e-3])
    with pytest.raises(ValueError, match="max_grad_norm is -1; expected more than 0, or 0 for no limit"):
        replace(SETTINGS, max_grad_norm=-1)


def test_the_schedule_matches_table_1():
    table = PretrainingSettings()
    warmup = table.warmup_epochs / table.max_epochs
    assert table.learning_rate_at(0) == 0 and table.learning_rate_at(warmup / 2) == pytest.approx(2.5e-4)
    assert table.learning_rate_at(warmup) == pytest.approx(5e-4) and table.learning_rate_at(1) == pytest.approx(1e-8)
    assert table.learning_rate_at((1 + warmup) / 2) == pytest.approx(2.5e-4, rel=1e-3)
    with pytest.raises(ValueError, match="warmup_epochs is 200; expected at least 0 and less than max_epochs"):
        PretrainingSettings(warmup_epochs=200)


def test_evaluation_and_training_see_the_same_loss(tmp_path):
    losses = []
    run = runner(tmp_path, settings=replace(SETTINGS, augment=False), losses=losses)
    batch = run.batches.at(0)
    outputs, logits = run.model(batch["input_values"], mask_noise(batch["index"], run.config.num_patches))
    expected = outputs.reconstruction_loss + 0.3 * supervised_contrastive_loss(
        outputs.projection, batch["snr_db"].long(), 0.2
    )
    expected = expected + torch.nn.functional.cross_entropy(logits["snr_db"], class_labels(batch, "snr_db"))
    assert run.evaluate([batch]) == pytest.approx(float(expected.detach()), rel=1e-5)
    run.run(max_samples=SETTINGS.batch_size)
    assert losses == [pytest.approx(float(expected.detach()), rel=1e-5)]


def test_only_plain_batch_normalization_is_synchronized():
    model = LwmSpectroForPreTraining(tiny_config(**LEVELS))
    model.more = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm1d(3))
    synchronize_normalizations(model)
    assert type(model.lwm_spectro.levels.norm) is LwmSpectroLevelNorm
    assert all(type(part) is torch.nn.SyncBatchNorm for part in model.more)
