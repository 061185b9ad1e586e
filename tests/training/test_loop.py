"""The timed loop: it learns, stops on NaN, and goes on where it was stopped."""

import itertools

import pytest
import torch
from torch import nn

from lwm_spectro_hf.training.loop import DivergedError, balanced_batches, train_for


def test_balanced_batches_repeat_small_groups_and_are_seeded():
    groups = [torch.arange(100), torch.tensor([900, 901])]
    first, again = (list(itertools.islice(balanced_batches(groups, 8, seed=3), 20)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for rows in first:
        assert int((rows >= 900).sum()) >= 2 and int((rows < 100).sum()) == 4


def problem():
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    inputs = torch.randn(64, 4)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    return module, lambda rows: (module(inputs[rows]) - targets[rows]).square().mean()


def test_it_learns_and_resumes_from_its_state(tmp_path):
    module, loss_of = problem()
    before = float(loss_of(torch.arange(64)).detach())

    def train(module, loss_of, minutes):
        batches = balanced_batches([torch.arange(64)], 16, seed=0)
        return train_for(minutes, module, loss_of, batches, tmp_path / "state.pt", learning_rate=0.05)

    first = train(module, loss_of, 0.01)
    assert first["steps"] > 1 and float(loss_of(torch.arange(64)).detach()) < before
    fresh, fresh_loss = problem()
    second = train(fresh, fresh_loss, 0.02)
    assert second["steps"] > first["steps"] and second["seconds"] > first["seconds"]
    # Nothing is left to do: the state is read back and the weights are those that were saved.
    restored, restored_loss = problem()
    assert train(restored, restored_loss, 0.02) == second
    torch.testing.assert_close(restored.weight, fresh.weight)
    assert not list(tmp_path.glob("*.part"))


def test_divergence_stops_and_says_where(tmp_path):
    module, _ = problem()
    with pytest.raises(DivergedError, match="step 0 of 'stage 9'"):
        train_for(
            0.01,
            module,
            lambda rows: module.weight.sum() * float("nan"),
            balanced_batches([torch.arange(4)], 4, seed=0),
            tmp_path / "state.pt",
            description="stage 9",
        )
    assert not (tmp_path / "state.pt").exists()
