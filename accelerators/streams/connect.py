"""Strict connection: the same fields, widths and signs on both sides, or an error."""

from typing import Any

from amaranth.hdl import Module, Shape, ShapeCastable, ShapeLike, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In

__all__ = ["connect"]


def connect(m: Module, source: Any, sink: Any) -> None:
    """Connect output port ``source`` to input port ``sink``.

    ``wiring.connect`` compares widths only, and lets ``signed(8)`` drive ``unsigned(8)`` and one layout
    another. Here field names, offsets, widths and signs of every member must be the same.

    Parameters
    ----------
    m : Module
        Where the connection is made.
    source, sink : stream or other interface objects
        ``source`` drives: for a stream, its ``valid`` is an output. To connect a port of the component
        under construction to one of its parts, pass it through ``wiring.flipped``.

    Raises
    ------
    TypeError
        If one of them is no interface, or their members differ.
    ValueError
        If the direction is wrong, or a shape differs; the message names both ports and the difference.
    """
    for name, port in (("source", source), ("sink", sink)):
        if not isinstance(getattr(port, "signature", None), wiring.Signature):
            raise TypeError(f"{name} must be an interface object, not {port!r}")
    here, there = _members(source), _members(sink)
    both = f"{_port_name(here)} to {_port_name(there)}"
    if here.keys() != there.keys():
        different = ", ".join(sorted(map(_dotted, here.keys() ^ there.keys())))
        raise TypeError(f"cannot connect {both}: only one of them has {different}")
    for path, (flow, shape, _) in here.items():
        other_flow, other_shape, _ = there[path]
        if flow == other_flow:
            sides = "inputs" if flow == In else "outputs"
            raise ValueError(f"cannot connect {both}: {_dotted(path)} are both {sides}")
        difference = _difference(shape, other_shape, _dotted(path))
        if difference:
            raise ValueError(f"cannot connect {both}: {difference}")
    if _is_stream(source) and here[("valid",)][0] == In:
        raise ValueError(f"cannot connect {both}: the source is an input, the sink an output; exchange them")
    wiring.connect(m, source, sink)


def _is_stream(port: Any) -> bool:
    signature = port.signature
    return isinstance(signature.flip() if isinstance(signature, wiring.FlippedSignature) else signature,
                      stream.Signature)


def _members(port: Any) -> dict[tuple[str | int, ...], tuple[Any, ShapeLike, Any]]:
    return {path: (member.flow, member.shape, value) for path, member, value in port.signature.flatten(port)}


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _port_name(members: dict[tuple[str | int, ...], tuple[Any, ShapeLike, Any]]) -> str:
    """Name of the port, from the name of its first signal without the member's own name."""
    for path, (_, _, value) in members.items():
        name = getattr(Value.cast(value), "name", None)
        if name is not None:
            return name.removesuffix("__" + "__".join(map(str, path))) or name
    return "(unnamed)"


def _layout(shape: ShapeLike) -> data.Layout | None:
    while isinstance(shape, ShapeCastable):
        if isinstance(shape, data.Layout):
            return shape
        shape = shape.as_shape()
    return None


def _difference(a: ShapeLike, b: ShapeLike, where: str) -> str | None:
    """What differs between the shapes of source and sink, or ``None``."""
    here, there = _layout(a), _layout(b)
    if (here is None) != (there is None):
        return f"{where} is {_describe(a)} in the source and {_describe(b)} in the sink"
    if here is None or there is None:
        if Shape.cast(a) != Shape.cast(b):
            return f"{where} is {_describe(a)} in the source and {_describe(b)} in the sink"
        return None
    fields, other_fields = dict(iter(here)), dict(iter(there))
    if fields.keys() != other_fields.keys():
        if isinstance(here, data.ArrayLayout) and isinstance(there, data.ArrayLayout):
            return f"{where} has {len(fields)} elements in the source and {len(other_fields)} in the sink"
        names = ", ".join(sorted(map(str, fields.keys() ^ other_fields.keys())))
        return f"only one side has {where} fields {names}"
    for name, field in fields.items():
        place = f"{where}[{name}]" if isinstance(name, int) else f"{where}.{name}"
        difference = _difference(field.shape, other_fields[name].shape, place)
        if difference:
            return difference
        if field.offset != other_fields[name].offset:
            other = other_fields[name].offset
            return f"{place} is at bit {field.offset} in the source and {other} in the sink"
    if here.size != there.size:
        return f"{where} has {here.size} bits in the source and {there.size} in the sink"
    return None


def _describe(shape: ShapeLike) -> str:
    return repr(shape) if _layout(shape) is not None else repr(Shape.cast(shape))
