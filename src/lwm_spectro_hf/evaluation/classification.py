"""Scores of a classifier, and a table to print them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..extras import require


def classification_scores(truth: np.ndarray, answers: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Scores over all rows and class by class.

    Args:
        truth (`np.ndarray` of shape `(num,)`): Index of the class of each row.
        answers (`np.ndarray` of shape `(num,)`): Index of the predicted class of each row.
        labels (`Sequence[str]`): Names of the classes.

    Returns:
        `dict`: `num`, `accuracy` and `macro_f1` (over the classes that occur) in %; `per_class`, name to
        `precision`, `recall`, `f1` in % and `num`; `confusion`, counts by true class (row) and prediction (column).

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    metrics = require("sklearn.metrics", "train")
    everything = list(range(len(labels)))
    precision, recall, f1, num = metrics.precision_recall_fscore_support(
        truth, answers, labels=everything, zero_division=0.0
    )
    return {
        "num": len(truth),
        "accuracy": round(100 * float(metrics.accuracy_score(truth, answers)), 2),
        "macro_f1": round(100 * float(f1[num > 0].mean()), 2),
        "per_class": {
            name: {
                "precision": round(100 * float(precision[index]), 2),
                "recall": round(100 * float(recall[index]), 2),
                "f1": round(100 * float(f1[index]), 2),
                "num": int(num[index]),
            }
            for index, name in enumerate(labels)
        },
        "confusion": metrics.confusion_matrix(truth, answers, labels=everything).tolist(),
    }


def scores_table(scores: dict[str, Any], name: str) -> str:
    """The scores as a table to print, one line per class.

    Args:
        scores (`dict`): By [`classification_scores`].
        name (`str`): Name of the task, for the header.

    Returns:
        `str`, of several lines.
    """
    width = max(len(name), *(len(label) for label in scores["per_class"]), len("macro-F1"))
    lines = [f"{name:{width}}  precision  recall      F1     rows"]
    for label, entry in scores["per_class"].items():
        lines.append(
            f"{label:{width}} {entry['precision']:10.1f}{entry['recall']:8.1f}{entry['f1']:8.1f}{entry['num']:9,}"
        )
    lines.append(f"{'macro-F1':{width}} {'':18}{scores['macro_f1']:8.1f}{scores['num']:9,}")
    lines.append(f"{'accuracy':{width}} {'':18}{scores['accuracy']:8.1f}")
    return "\n".join(lines)
