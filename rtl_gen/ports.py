"""Ports and stream payloads of a component as plain data, for the sidecar.

A shape becomes ``{"kind": "int", "width", "signed"}``, ``{"kind": "array", "width", "length",
"element"}`` or ``{"kind": "struct", "width", "fields": [{"name", "offset", "shape"}]}``.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

from amaranth.hdl import Const, Shape, ShapeLike, Value
from amaranth.hdl._ir import PortDirection  # what convert() takes; in no public module (Amaranth is pinned)
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In

__all__ = ["describe_ports", "describe_shape", "describe_streams", "flat_ports"]


def describe_shape(shape: ShapeLike) -> dict[str, Any]:
    """``shape`` as nested dictionaries."""
    try:
        layout = data.Layout.cast(shape)
    except TypeError:
        plain = Shape.cast(shape)
        return {"kind": "int", "width": plain.width, "signed": plain.signed}
    if isinstance(layout, data.ArrayLayout):
        return {"kind": "array", "width": layout.size, "length": layout.length,
                "element": describe_shape(layout.elem_shape)}
    return {
        "kind": "struct",
        "width": layout.size,
        "fields": [{"name": str(key), "offset": field.offset, "shape": describe_shape(field.shape)}
                   for key, field in layout],
    }


def flat_ports(component: wiring.Component) -> dict[str, tuple[Value, PortDirection]]:
    """Verilog ports by name. Constants (``ready`` of an always ready stream) and empty values have none."""
    ports = {}
    for path, member, value in component.signature.flatten(component):
        value = Value.cast(value)
        if not isinstance(value, Const) and len(value):
            direction = PortDirection.Input if member.flow == In else PortDirection.Output
            ports["__".join(map(str, path))] = value, direction
    return ports


def describe_ports(component: wiring.Component) -> list[dict[str, Any]]:
    """Every Verilog port but clock and reset: name, direction, width, signedness."""
    return [{"name": name, "direction": "in" if direction is PortDirection.Input else "out",
             "width": len(value), "signed": value.shape().signed}
            for name, (value, direction) in flat_ports(component).items()]


def describe_streams(component: wiring.Component) -> list[dict[str, Any]]:
    """Every stream port, nested or in arrays: name, direction, payload layout."""
    return list(_streams(component.signature, (), False))


def _streams(signature: Any, path: tuple[str, ...], flipped: bool) -> Iterator[dict[str, Any]]:
    for name, member in signature.members.items():
        if not member.is_signature:
            continue
        inward = member.flow == In
        inner = member.signature.flip() if inward else member.signature
        inward ^= flipped
        for index in product(*map(range, member.dimensions)):
            here = (*path, name, *map(str, index))
            if isinstance(inner, stream.Signature):
                yield {"name": "__".join(here), "direction": "in" if inward else "out",
                       "always_valid": inner.always_valid, "always_ready": inner.always_ready,
                       "payload": describe_shape(inner.members["payload"].shape)}
            else:
                yield from _streams(inner, here, inward)
