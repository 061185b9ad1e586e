"""Neighbours in other channels, silhouettes and pictures."""

import numpy as np
import pytest
import torch

from lwm_spectro_hf.evaluation.embeddings import draw_tsne, embed, neighbour_scores, neighbour_table
from tiny_models import build


def rows(num=240, seed=0):
    generator = np.random.default_rng(seed)
    snr = generator.choice([0.0, 10.0, 20.0], num)
    modulation = generator.integers(0, 4, num)
    noise = generator.standard_normal((num, 6))
    told = noise.copy()
    told[:, 0] += snr
    return {"raw": noise, "told": told}, {"snr_db": snr, "modulation": modulation}, generator.integers(0, 40, num)


def test_scores_are_high_only_for_informative_features():
    features, labels, channels = rows()
    labels["modulation"][:40] = -1  # unknown
    scores = neighbour_scores(features, labels, channels, num=200, draws=3)
    snr, modulation = scores["snr_db"], scores["modulation"]
    assert min(snr["told"]) > 95 and snr["silhouette"]["told"] > 0.5 > snr["silhouette"]["raw"]
    for found in (snr["raw"], modulation["raw"], modulation["told"]):
        assert len(found) == 3 and np.mean(found) < 60
    assert 33 <= np.mean(snr["chance"]) < 60
    assert neighbour_scores(features, labels, channels, num=200, draws=3) == scores
    table = neighbour_table(scores)
    assert table.splitlines()[0] == "|  | raw | told | chance |" and " ± " in table and table.count("\n") == 3


def test_neighbours_are_of_other_channels():
    # Feature and label depend on the channel alone, so neighbours within a channel would be perfect.
    generator = np.random.default_rng(0)
    channels = np.repeat(np.arange(60), 4)
    label = generator.integers(0, 2, 60)[channels]
    feature = 100.0 * generator.standard_normal((60, 3))[channels] + 0.01 * generator.standard_normal((240, 3))
    scores = neighbour_scores({"channel": feature}, {"label": label}, channels, num=240, draws=3)
    assert np.mean(scores["label"]["channel"]) < 75
    with pytest.raises(ValueError, match="1 channels are too few for 10 neighbours in other channels"):
        neighbour_scores({"channel": feature}, {"label": label}, np.zeros(240, int))


def test_embeddings_do_not_depend_on_the_batch():
    model = build("moe-model")
    values = torch.randn(5, 1, 16, 24, generator=torch.Generator().manual_seed(0)).half()
    whole = embed(model, values)
    assert whole.shape == (5, 32) and whole.dtype == np.float32
    np.testing.assert_allclose(embed(model, values, batch_size=2), whole, atol=1e-5)


def test_pictures_have_a_panel_for_each_label_and_feature():
    features, labels, _ = rows(60)
    shown = {"snr_db": labels["snr_db"], "modulation": [f"m{value}" for value in labels["modulation"]]}
    figure = draw_tsne(features, shown, {("snr_db", "told"): "neighbours 99 %"})
    assert [panel.get_title() for panel in figure.axes] == [
        "raw, by snr_db", "told, by snr_db", "raw, by modulation", "told, by modulation",
    ]  # fmt: skip
    assert figure.axes[1].get_xlabel() == "neighbours 99 %"
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["0", "10", "20"]
