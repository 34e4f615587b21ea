"""Pieces of pipelines, made of registers of a ``Pipeline``: products of wide numbers, shifts, maxima.

Each function takes the pipeline first and says how many registers its result comes after its operands.
Multipliers are split into limbs that fit one DSP block of the smallest kind (18 x 18), with a register after
each: open tools infer the block, and neither retime nor pipeline it.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Mux, Signal, Value, signed

from ..integers import ceil_div
from ..pipeline import Pipeline

__all__ = ["LIMB_BITS", "adder_tree", "left_justify", "magnitude", "maximum", "round_shift", "saturate",
           "signed_product", "unsigned_product"]

LIMB_BITS = 18
"""Operand width of the smallest DSP block, both for two unsigned and for two signed numbers."""


def magnitude(value: Value) -> Value:
    """``|value|`` of a signed number, unsigned, in as many bits."""
    return Mux(value[-1], -value, value)[:len(value)]


def adder_tree(values: Sequence[Value]) -> Value:
    """Sum in a balanced tree, each level one bit wider; combinational (``Pipeline.add`` has registers)."""
    if len(values) == 1:
        return values[0]
    middle = (len(values) + 1) // 2
    return adder_tree(values[:middle]) + adder_tree(values[middle:])


def saturate(value: Value, bits: int) -> tuple[Value, Value]:
    """``(value clamped to signed(bits), 1 if it was)``; combinational."""
    upper = value[bits - 1:]
    clamped = upper.any() & ~upper.all()
    extreme = Cat((~value[-1]).replicate(bits - 1), value[-1])
    return Mux(clamped, extreme, value[:bits]).as_signed(), clamped


def maximum(pipeline: Pipeline, values: Sequence[Value]) -> tuple[Value, int]:
    """``(largest value, latency)``: a binary tree with one register per level."""
    latency = 0
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        winners = [pipeline.register(Mux(a > b, a, b)) for a, b in pairs]
        if len(values) % 2:
            winners.append(pipeline.register(values[-1]))
        values = winners
        latency += 1
    return values[0], latency


def left_justify(pipeline: Pipeline, value: Value, amount: Value, keep: int, *, moving: bool = True) -> Value:
    """Upper ``keep`` bits of ``value << amount`` in ``len(value)`` bits, 2 registers later.

    ``amount`` goes along with the value, or stands still if not ``moving``.
    """
    width, levels = len(value), len(amount)
    for level in reversed(range(levels)):
        distance = min(1 << level, width)
        shifted = Cat(Const(0, distance), value[:width - distance])
        value = Mux(amount[level], shifted, value)
        if level == levels // 2:
            value = pipeline.register(value)
            amount = pipeline.register(amount) if moving else amount
    return pipeline.register(value[width - keep:])


def round_shift(pipeline: Pipeline, value: Value, shift: Value, *, moving: bool = True) -> Value:
    """``floor(value / 2**shift + 1/2)`` of a signed number, in its width, 3 registers later.

    ``shift`` of at most 6 bits goes along with the value, or stands still if not ``moving``.
    """
    doubled = Cat(Const(0, 1), value).as_signed()
    coarse = pipeline.register(doubled >> Cat(Const(0, 3), shift[3:]))
    fine = pipeline.register(coarse >> (pipeline.register(shift[:3]) if moving else shift[:3]))
    return pipeline.register(((fine + 1) >> 1)[:len(value)].as_signed())


def unsigned_product(pipeline: Pipeline, a: Value, b: Value, multiplier_bits: int = LIMB_BITS) -> tuple[Value, int]:
    """``(a * b, latency)``, unsigned, at most 36 bits each: latency 1, 2 or 3 for 1, 2 or 4 multipliers of 18 x 18.

    Where one operand of each multiplier may be wider (``AcceleratorConfig.multiplier_bits``), 2 of them do for 4 if an operand
    fits, at the same latency.
    """
    a_limbs, b_limbs = _limbs(a), _limbs(b)
    if len(a_limbs) == len(b_limbs) == 1:
        return pipeline.register(a * b), 1
    if len(a_limbs) == len(b_limbs) == 2:
        whole, split = sorted((a, b), key=len)
        if len(whole) < multiplier_bits > LIMB_BITS and len(split) < 2 * LIMB_BITS - 1:
            return pipeline.register(_limb_product(pipeline, whole, split)), 3
        partial = [[pipeline.register(x * y) for y in b_limbs] for x in a_limbs]
        outer = pipeline.register(Cat(partial[0][0], partial[1][1]))
        inner = pipeline.register((partial[0][1] << len(b_limbs[0])) + (partial[1][0] << len(a_limbs[0])))
        return pipeline.register((outer + inner)[:len(a) + len(b)]), 3
    return _limb_product(pipeline, *((b, a) if len(a_limbs) == 2 else (a, b))), 2


def _limb_product(pipeline: Pipeline, whole: Value, split: Value) -> Value:
    """Product of one limb and two, 2 registers later."""
    limbs = _limbs(split)
    low, high = (pipeline.register(whole * limb) for limb in limbs)
    shift = len(limbs[0])
    return pipeline.register(Cat(low[:shift], (low[shift:] + high)[:len(whole) + len(split) - shift]))


def _limbs(value: Value) -> list[Value]:
    if len(value) > 2 * LIMB_BITS:
        raise ValueError(f"value must have at most {2 * LIMB_BITS} bits, not {len(value)}")
    bits = ceil_div(len(value), ceil_div(len(value), LIMB_BITS))
    return [value[low:low + bits] for low in range(0, len(value), bits)]


def signed_product(pipeline: Pipeline, a: Value, b: Value) -> tuple[Value, int]:
    """``(a * b, latency)``, signed, at most 35 and 18 bits: latency 1 or 2 for 1 or 2 multipliers."""
    if len(a) > 2 * LIMB_BITS - 1 or len(b) > LIMB_BITS:
        raise ValueError(f"operands must have at most {2 * LIMB_BITS - 1} and {LIMB_BITS} bits, "
                         f"not {len(a)} and {len(b)}")
    if len(a) <= LIMB_BITS:
        return pipeline.register(a.as_signed() * b.as_signed()), 1
    bits = LIMB_BITS - 1  # a zero above the lower limb makes it a positive signed number
    low = pipeline.register(Cat(a[:bits], Const(0, 1)).as_signed() * b.as_signed())
    high = pipeline.register(a[bits:].as_signed() * b.as_signed())
    total = Signal(signed(len(a) + len(b)))
    pipeline.m.d.comb += total.eq(Cat(low[:bits], (low[bits:].as_signed() + high)))
    return pipeline.register(total), 2
