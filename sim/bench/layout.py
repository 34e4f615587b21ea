"""Payloads as plain Python values: int for numbers, list for arrays, dict for structs."""

from collections.abc import Callable
from operator import index
from typing import Any

__all__ = ["Codec"]


class Codec:
    """Packs and unpacks the payload of one stream, after the layout in the sidecar.

    ``None`` inside an expected payload means *any value*: ``pack`` leaves it out of the mask.
    """

    def __init__(self, shape: dict[str, Any], name: str):
        self.width: int = shape["width"]
        self._name = name
        self._pack = _packer(shape)
        self._unpack = _unpacker(shape)

    def pack(self, value: Any) -> tuple[int, int]:
        """Bits and mask of ``value``; ``ValueError`` that names the field when it does not fit."""
        return self._pack(value, self._name)

    def unpack(self, bits: int) -> Any:
        return self._unpack(bits)


_Packer = Callable[[Any, str], tuple[int, int]]


def _packer(shape: dict[str, Any]) -> _Packer:
    width = shape["width"]
    full = (1 << width) - 1
    if shape["kind"] == "int":
        low = -(1 << width >> 1) if shape["signed"] else 0
        high = low + full

        def pack_int(value: Any, where: str) -> tuple[int, int]:
            if value is None:
                return 0, 0
            try:
                number = index(value)
            except TypeError:
                raise ValueError(f"{where} must be an integer, not {value!r}") from None
            if not low <= number <= high:
                raise ValueError(f"{where} must be in {low}..{high}, not {number}")
            return number & full, full

        return pack_int
    if shape["kind"] == "array":
        element = _packer(shape["element"])
        length, step = shape["length"], shape["element"]["width"]

        def pack_array(value: Any, where: str) -> tuple[int, int]:
            if value is None:
                return 0, 0
            if not hasattr(value, "__len__") or isinstance(value, dict) or len(value) != length:
                raise ValueError(f"{where} must be a list of {length} elements, not {value!r}")
            bits = mask = 0
            for position in range(length):
                b, m = element(value[position], f"{where}[{position}]")
                bits |= b << position * step
                mask |= m << position * step
            return bits, mask

        return pack_array
    fields = [(f["name"], f["offset"], _packer(f["shape"])) for f in shape["fields"]]
    names = {name for name, _, _ in fields}

    def pack_struct(value: Any, where: str) -> tuple[int, int]:
        if value is None:
            return 0, 0
        if not isinstance(value, dict) or value.keys() != names:
            raise ValueError(f"{where} must be a dict with keys {', '.join(sorted(names))}, not {value!r}")
        bits = mask = 0
        for name, offset, field in fields:
            b, m = field(value[name], f"{where}.{name}")
            bits |= b << offset
            mask |= m << offset
        return bits, mask

    return pack_struct


def _unpacker(shape: dict[str, Any]) -> Callable[[int], Any]:
    width = shape["width"]
    full = (1 << width) - 1
    if shape["kind"] == "int":
        if not shape["signed"]:
            return lambda bits: bits & full
        half = 1 << width >> 1
        return lambda bits: ((bits & full) ^ half) - half
    if shape["kind"] == "array":
        element = _unpacker(shape["element"])
        step = shape["element"]["width"]
        return lambda bits: [element(bits >> i * step) for i in range(shape["length"])]
    fields = [(f["name"], f["offset"], _unpacker(f["shape"])) for f in shape["fields"]]
    return lambda bits: {name: field(bits >> offset) for name, offset, field in fields}
