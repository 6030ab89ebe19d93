"""Writes GGUF, llama.cpp's model file format (version 3), for weights that are mostly zeros."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"

_VERSION = 3
_ALIGNMENT = 32

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


class _Kind(IntEnum):
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9


_FORMS = {_Kind.UINT32: "<I", _Kind.INT32: "<i", _Kind.FLOAT32: "<f", _Kind.BOOL: "<?"}


class Precision(IntEnum):
    """How a tensor's numbers are stored, by the format's own codes."""

    FLOAT32 = 0
    FLOAT16 = 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A matrix of zeros but for ``weights``, which maps (row, column) to a number.

    A vector is a matrix of one row.
    """

    name: str
    rows: int
    columns: int
    weights: Mapping[tuple[int, int], float] = field(default_factory=dict)
    precision: Precision = Precision.FLOAT16

    @property
    def form(self) -> str:
        """The struct format of one number."""
        return "<e" if self.precision is Precision.FLOAT16 else "<f"

    @property
    def size(self) -> int:
        """Bytes in the file, padding included."""
        return _aligned(self.rows * self.columns * struct.calcsize(self.form))


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
    """Write a model to ``path``. Runs of zeros take no room where the file system has holes."""
    head = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        head.append(_description(tensor, offset))
        offset += tensor.size
    start = _aligned(sum(map(len, head)))
    with path.open("wb") as file:
        file.truncate(start + offset)
        file.writelines(head)
        for tensor in tensors:
            _write_weights(file, tensor, start)
            start += tensor.size


def _write_weights(file: BinaryIO, tensor: Tensor, start: int) -> None:
    width = struct.calcsize(tensor.form)
    for (row, column), weight in tensor.weights.items():
        file.seek(start + (row * tensor.columns + column) * width)
        file.write(struct.pack(tensor.form, weight))


def _description(tensor: Tensor, offset: int) -> bytes:
    shape = [tensor.columns, tensor.rows] if tensor.rows > 1 else [tensor.columns]
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.precision.value, offset)
    return _string(tensor.name) + numbers


def _value(value: Value) -> bytes:
    kind = _kind(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        # The format's readers want whole numbers in arrays with a sign, and others without.
        inner = _Kind.INT32 if _kind(value[0]) is _Kind.UINT32 else _kind(value[0])
        items = b"".join(_plain(inner, item) for item in value)
        return struct.pack("<IIQ", kind, inner, len(value)) + items
    return struct.pack("<I", kind) + _plain(kind, value)


def _kind(value: Value) -> _Kind:
    match value:
        case bool():
            return _Kind.BOOL
        case int():
            return _Kind.UINT32
        case float():
            return _Kind.FLOAT32
        case str():
            return _Kind.STRING
    return _Kind.ARRAY


def _plain(kind: _Kind, value: object) -> bytes:
    if kind is _Kind.STRING:
        return _string(str(value))
    return struct.pack(_FORMS[kind], value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
