"""Read a dictionary of NumPy arrays from an untrusted pickle, without executing anything.

Nothing that the file names is imported, called or built. Names become labels, and the few calls that NumPy writes for
an array become records of what was stored. Opcodes that would build anything else are not supported. Arrays are
created only after everything that the file says about them has been checked.
"""

import pickle
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

# The only names that NumPy 1 or 2 writes for an array of numbers under Python 2 or 3, and what they stand for.
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
# Opcodes for tuples, strings and numbers.
_OPCODES = (
    *"PROTO FRAME STOP MARK EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3".split(),
    *"NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING SHORT_BINSTRING".split(),
    *"UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BINBYTES8 GLOBAL STACK_GLOBAL".split(),
    *"PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET".split(),
)


def read_array_pickle(stream: BinaryIO) -> list[tuple[Any, np.ndarray]]:
    """Reads a pickled dictionary whose values are arrays of numbers.

    Args:
        stream (`BinaryIO`): A pickle of protocol 0 to 4, written by Python 2 or 3.

    Returns:
        `list[tuple[Any, np.ndarray]]`: Keys and read-only arrays in the file's order. A key is a string, a number, or
        a tuple of such; strings of Python 2 are decoded as Latin-1.

    Raises:
        pickle.UnpicklingError: If the file is truncated or asks for anything else; the message says what.
    """
    try:
        content = _Unpickler(stream).load()
    except (EOFError, MemoryError, LookupError, TypeError, ValueError, struct.error) as error:
        # The unpickler has no error of its own for most damage: an empty stack, for instance, is an IndexError.
        raise pickle.UnpicklingError(_described(error)) from error
    if not isinstance(content, _Items) or not content:
        raise pickle.UnpicklingError("it holds no dictionary, or an empty one")
    return [(key, _array_of(stored)) for key, stored in content]


class _Items(list):
    """Stands for a dictionary: a list of its pairs, as a malicious key could be nested too deeply to be hashed."""


@dataclass(frozen=True)
class _Name:
    """Stands for an object that the file names; nothing is imported for it."""

    name: str


class _StoredType:
    """Stands for a `numpy.dtype`: what the file says about it."""

    def __init__(self, code: str):
        self.code, self.byte_order = code, "|"


class _StoredArray:
    """Stands for a `numpy.ndarray`: what the file says about it."""

    shape = dtype = data = None
    is_fortran = False


class _Unpickler(pickle._Unpickler):
    # The Python implementation, since its memo is a dictionary. The memo of the C implementation is an array as long
    # as the largest index that the file uses, which could be gigabytes.
    def __init__(self, stream: BinaryIO):
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> _Name:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, but may contain only NumPy arrays")
        return _Name(_NAMES[module, name])

    def load_reduce(self):
        arguments, called = self.stack.pop(), self.stack.pop()
        match called, arguments:
            case _Name("reconstruct"), (_Name("ndarray"), *_):
                self.append(_StoredArray())
            case _Name("dtype"), (str(code), *_):
                self.append(_StoredType(code))
            case _Name("encode"), (str(text), "latin1" | "latin-1"):
                self.append(text.encode("latin1"))
            case _:
                raise pickle.UnpicklingError("it calls something that NumPy arrays do not call")

    def load_build(self):
        state, built = self.stack.pop(), self.stack[-1]
        match built, state:
            case _StoredArray(), (int(), tuple(shape), _StoredType() as dtype, int(order), str() | bytes() as data):
                if not all(isinstance(size, int) for size in shape):
                    raise pickle.UnpicklingError("the shape of an array contains something that is not an integer")
                built.shape, built.dtype, built.is_fortran = shape, dtype, bool(order)
                built.data = data.encode("latin1") if isinstance(data, str) else data
            case _StoredType(), (int(), str(byte_order), *_):
                built.byte_order = byte_order
            case _:
                raise pickle.UnpicklingError("it sets a state that arrays of numbers do not have")

    def load_empty_dict(self):
        self.append(_Items())

    def load_dict(self):
        items = self.pop_mark()
        self.append(_Items(zip(items[::2], items[1::2], strict=True)))

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._add([(key, value)])

    def load_setitems(self):
        items = self.pop_mark()
        self._add(zip(items[::2], items[1::2], strict=True))

    def _add(self, items: Iterable[tuple]):
        if not isinstance(self.stack[-1], _Items):
            raise pickle.UnpicklingError("it sets items of something that is not a dictionary")
        self.stack[-1].extend(items)

    dispatch = {
        **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES},
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
    }


def _described(error: Exception) -> str:
    # An opcode missing from `dispatch` raises a KeyError with its number.
    if type(error) is KeyError and isinstance(error.args[0], int):
        return f"it uses the opcode {chr(error.args[0])!r}, which a dictionary of arrays does not need"
    return f"{type(error).__name__}: {error}"


def _array_of(stored: Any) -> np.ndarray:
    if not isinstance(stored, _StoredArray) or stored.data is None:
        raise pickle.UnpicklingError("it has a value that is not an array of numbers")
    code = stored.dtype.byte_order + stored.dtype.code
    if not re.fullmatch(r"[<>|][fiu][1248]", code) or code[-2:] == "f1" or min(stored.shape, default=0) < 0:
        raise pickle.UnpicklingError(f"it has an array of type {code[:20]!r} and shape {stored.shape[:8]}")
    dtype, needed = np.dtype(code), int(code[-1])
    for size in stored.shape:
        needed *= size
    if len(stored.data) != needed:
        raise pickle.UnpicklingError(f"it has {len(stored.data)} bytes for an array that needs {needed}")
    return np.frombuffer(stored.data, dtype).reshape(stored.shape, order="F" if stored.is_fortran else "C")
