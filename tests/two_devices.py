"""Finds on a CPU what would fail on a GPU: operations that mix tensors of host and device."""

import traceback

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

_FACTORIES = {
    getattr(torch, name)
    for name in (
        "arange", "zeros", "ones", "empty", "full", "tensor", "as_tensor", "rand", "randn", "randint", "randperm",
        "linspace", "eye", "from_numpy", "hann_window",
    )
} | {torch.fft.fftfreq, torch.fft.rfftfreq}  # fmt: skip


DEVICE = torch.device("cpu:0")  # for PyTorch the same as "cpu", the host, but under another name


class DeviceGenerator(torch.Generator):
    """A generator that claims to be on the device."""

    device = DEVICE


class TwoDevices(TorchFunctionMode):
    """Simulates a machine with a GPU: tensors made with `device=DEVICE` are on the device, all others on the host.

    Results of host tensors alone stay on the host until `.to(DEVICE)`. Mixing is recorded where it is an error on a
    GPU: not for tensors without dimensions, nor for indexing a device tensor by a host tensor, which PyTorch allows.

    Attributes:
        mixes (`list[str]`): Where host and device tensors met.
        syncs (`int`): How often the host waited for a value of the device.
    """

    _places = WeakTensorKeyDictionary()  # shared, since tables are cached from one test to the next

    def __init__(self):
        super().__init__()
        self.mixes: list[str] = []
        self.syncs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in _flatten((args, kwargs)) if isinstance(value, torch.Tensor)]
        name = getattr(func, "__name__", str(func))
        if func == torch.Tensor.device.__get__:
            return DEVICE if self._is_there(args[0]) else func(*args)
        result = func(*args, **kwargs)
        named = [torch.device(value) for value in _flatten((args[1:], kwargs)) if _is_device(value)]
        if func in _FACTORIES:
            there = named[-1] == DEVICE if named else bool(tensors) and self._is_there(tensors[0])
            self._mark(result, there)
        elif func is torch.Tensor.to and (named or len(tensors) > 1):
            self._mark(result, named[-1] == DEVICE if named else self._is_there(tensors[1]))
        elif func == torch.Tensor.data.__set__:  # this is how modules move
            self._mark(args[0], self._is_there(args[1]))
        elif func is torch.Tensor.cpu:
            self._mark(result, False)
        elif name in ("item", "tolist", "__bool__", "__int__", "__float__", "numpy", "nonzero", "unique"):
            self.syncs += self._is_there(tensors[0])
            self._mark(result, self._is_there(tensors[0]))
        elif tensors:
            self._check(name, args, tensors)
            places = tensors[:1] if name == "copy_" else tensors
            there = named[-1] == DEVICE if named else any(self._is_there(tensor) for tensor in places)
            self._mark(result, there)
        return result

    def _check(self, name, args, tensors):
        if name in ("copy_", "_has_compatible_shallow_copy_type"):  # copies across, or uses no values
            return
        if name == "__getitem__" and self._is_there(tensors[0]):
            return
        if name == "__setitem__" and self._is_there(tensors[0]):
            tensors = [tensors[0], *([args[2]] if isinstance(args[2], torch.Tensor) else [])]
        sized = [tensor for tensor in tensors if tensor.ndim > 0]
        if len({self._is_there(tensor) for tensor in sized}) > 1:
            frames = [frame for frame in traceback.extract_stack() if "lwm_spectro_hf" in frame.filename]
            where = f"{frames[-1].filename.rpartition('lwm_spectro_hf/')[2]}:{frames[-1].lineno}" if frames else "?"
            self.mixes.append(f"{where} {name}: {frames[-1].line if frames else ''}")

    def _is_there(self, tensor) -> bool:
        return bool(self._places.get(tensor, False))

    def _mark(self, result, there: bool):
        for value in _flatten(result):
            if isinstance(value, torch.Tensor):
                self._places[value] = there


def _is_device(value) -> bool:
    return isinstance(value, torch.device) or isinstance(value, str) and value in ("cpu", "cpu:0")


def _flatten(value):
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _flatten(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _flatten(entry)
    else:
        yield value
