"""Results of the paper (arXiv 2601.08780): macro-F1 [%] by task, our counterpart of the paper's model, and N."""

_TABLE_2_SHOTS = (5, 10, 20, 50, 100, 200, 400)
_TABLE_3_SHOTS = (100, 200, 400, 800, 1600, 3200)


def _row(shots: tuple[int, ...], *scores: float) -> dict[int, float]:
    return dict(zip(shots, scores, strict=True))


PAPER: dict[str, dict[str, dict[int, float]]] = {
    "joint-lte": {  # Table II; its MobileNet is V3
        "lwm-finetuned": _row(_TABLE_2_SHOTS, 76.53, 91.24, 92.93, 93.92, 94.43, 94.85, 95.14),
        "lwm-head": _row(_TABLE_2_SHOTS, 47.41, 52.15, 78.84, 89.26, 90.82, 91.12, 92.01),
        "cnn-kojima": _row(_TABLE_2_SHOTS, 44.64, 46.28, 50.91, 53.45, 82.27, 90.03, 90.54),
        "resnet-18": _row(_TABLE_2_SHOTS, 28.27, 30.35, 40.02, 41.54, 48.86, 49.92, 50.13),
        "efficientnet-b0": _row(_TABLE_2_SHOTS, 30.74, 35.82, 38.95, 39.43, 40.13, 41.08, 42.28),
        "mobilenet-v2": _row(_TABLE_2_SHOTS, 7.12, 10.94, 27.71, 30.37, 36.42, 37.75, 39.94),
    },
    "joint-mixed": {  # Table III
        "lwm-head": _row(_TABLE_3_SHOTS, 89.77, 90.36, 90.45, 90.81, 91.12, 91.50),
        "cnn-kojima": _row(_TABLE_3_SHOTS, 39.41, 43.53, 55.49, 63.95, 79.61, 88.60),
        "resnet-18": _row(_TABLE_3_SHOTS, 32.92, 35.17, 34.46, 39.17, 88.29, 90.37),
    },
}
