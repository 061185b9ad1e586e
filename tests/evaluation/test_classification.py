"""Scores equal those of scikit-learn, over the classes that occur."""

import numpy as np
import pytest

from lwm_spectro_hf.evaluation.classification import classification_scores, scores_table
from lwm_spectro_hf.plotting import draw_confusion


def test_scores_class_by_class_and_their_table():
    scores = classification_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), ["low", "high", "never"])
    assert scores["accuracy"] == 75 and scores["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert scores["per_class"]["low"] == {"precision": 100.0, "recall": 66.67, "f1": 80.0, "num": 3}
    assert scores["macro_f1"] == pytest.approx((80 + 66.67) / 2, abs=0.01)
    table = scores_table(scores, "snr_db")
    assert "low           100.0    66.7    80.0        3" in table and "accuracy" in table


def test_the_confusion_matrix_shows_shares_of_each_class():
    figure = draw_confusion([[3, 1], [0, 4]], ["low", "high"], "SNR")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "0", "100"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["low", "high"]
    assert axis.images[0].get_array().sum(axis=1).tolist() == [1, 1]
