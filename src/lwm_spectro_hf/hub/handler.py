"""Handler of a dedicated Inference Endpoint: takes samples as JSON or bytes, and answers in JSON.

`lwm-spectro export` copies this file into the folder that it writes, where endpoints look for it. It imports nothing
from this package.
"""

import base64
import binascii
import json
from typing import Any

import numpy as np
from transformers import pipeline

# For samples as bytes: the storage type of each I and Q value, and its full scale.
SAMPLE_TYPES = {"cf32": ("<f4", 1.0), "ci16": ("<i2", 32768.0), "ci8": ("i1", 128.0)}


class EndpointHandler:
    """Serves one checkpoint.

    Args:
        path (`str`, *optional*, defaults to `""`): Folder of the checkpoint, including its code.
    """

    def __init__(self, path: str = ""):
        with open(f"{path or '.'}/config.json", encoding="utf-8") as stream:
            tasks = list(json.load(stream).get("custom_pipelines", {}))
        if len(tasks) != 1:
            raise ValueError(
                f"The config.json in {path or '.'} names the pipelines {tasks}; expected one. Write the folder with "
                "`lwm-spectro export`."
            )
        self.task = tasks[0]
        self.pipeline = pipeline(self.task, model=path or ".", trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Answers a request.

        Args:
            data (`dict`): `inputs`: a list of pairs `[I, Q]`, or the samples as bytes (in JSON: base64); `parameters`:
                `sampling_rate` [Hz], for bytes also `dtype`, one of `SAMPLE_TYPES` (default: "cf32"), and other
                arguments of the pipeline.

        Returns:
            `dict`: The pipeline's answer, with arrays as lists; or `error`, which says what is wrong with the request.
        """
        try:
            if not isinstance(data, dict):
                raise ValueError(f'A request must be an object: {{"inputs": ..., "parameters": ...}}; found {data!r}.')
            parameters = data.get("parameters") or {}
            if not isinstance(parameters, dict) or "inputs" in parameters:
                raise ValueError(f'parameters must be an object: {{"sampling_rate": 20e6}}; found {parameters!r}.')
            parameters = dict(parameters)
            iq = _samples(data.get("inputs"), parameters.pop("dtype", "cf32"))
            return _plain(self.pipeline(iq, **parameters))
        except (TypeError, ValueError, OverflowError, ImportError) as error:
            return {"error": str(error)}


def _samples(inputs: Any, dtype: str) -> np.ndarray:
    """Complex64 samples of shape `(num_samples,)`."""
    if isinstance(inputs, str):
        try:
            inputs = base64.b64decode(inputs, validate=True)
        except binascii.Error as error:
            raise ValueError(f"inputs is text that is not base64: {error}.") from None
    if isinstance(inputs, bytes | bytearray):
        if dtype not in SAMPLE_TYPES:
            raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(SAMPLE_TYPES)}.")
        stored, full_scale = SAMPLE_TYPES[dtype]
        size = 2 * np.dtype(stored).itemsize
        if not inputs or len(inputs) % size:
            raise ValueError(f"inputs has {len(inputs)} bytes; expected {size} for each sample of {dtype}.")
        pairs = np.frombuffer(inputs, stored).astype(np.float32).reshape(-1, 2) / full_scale
    else:
        try:
            pairs = np.asarray(inputs, np.float32)
        except (TypeError, ValueError, OverflowError):
            pairs = np.empty(0, np.float32)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError("inputs must be a list of pairs [I, Q], or bytes (in JSON: base64) of samples.")
    return np.ascontiguousarray(pairs, np.float32).view(np.complex64)[:, 0]


def _plain(value: Any) -> Any:
    """Convert arrays and NumPy scalars to values that JSON can hold."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
