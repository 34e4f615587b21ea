"""Registers of a pipeline that never stops, and an adder tree on them."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Signal, Value, ValueCastable
from amaranth.lib import data

__all__ = ["Pipeline"]

PART_BITS = 17


class Pipeline:
    """Adds registers without enable: every stage hands its contents to the next one in every cycle.

    Where its reader may be busy, an item has a place in a ``CreditQueue`` before it enters.
    """

    def __init__(self, m: Module):
        self.m = m

    def register(self, value: Any, stages: int = 1, *, reset: bool = False, name: str | None = None) -> Any:
        """``value``, ``stages`` registers later; ``reset`` for flags that must be 0 after reset."""
        for _ in range(stages):
            shape = value.shape() if isinstance(value, (data.View, Value)) else Value.cast(value).shape()
            later: Any = Signal(shape, reset_less=not reset, name=name or "stage")
            target = Value.cast(later) if isinstance(later, ValueCastable) else later
            self.m.d.sync += target.eq(Value.cast(value))
            value = later
        return value

    def add(self, terms: Sequence[Value]) -> tuple[Value, int]:
        """``(sum, latency)``: a binary tree with one register per level, each level one bit wider."""
        latency = 0
        while len(terms) > 1:
            pairs = [self.register(a + b) for a, b in zip(terms[0::2], terms[1::2], strict=False)]
            if len(terms) % 2:
                pairs.append(self.register(terms[-1]))
            terms = pairs
            latency += 1
        return terms[0], latency

    def multiply(self, a: Value, b: Value) -> Value:
        """``a * b``, two registers later: products of 17-bit parts of ``a``, then their sum.

        Wide factors take several multipliers; a register between them and the adder keeps the clock fast.
        ``b`` should fit 18 bits signed.
        """
        signed = a.shape().signed
        start, parts = 0, []
        while len(a) - start > PART_BITS + signed:
            parts.append(self.register(a[start:start + PART_BITS] * b).shift_left(start))
            start += PART_BITS
        rest = a[start:].as_signed() if signed else a[start:]
        parts.append(self.register(rest * b).shift_left(start))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        total = total[:len(a) + len(b)]
        return self.register(total.as_signed() if signed or b.shape().signed else total)
