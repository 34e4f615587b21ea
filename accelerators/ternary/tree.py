"""Pipelined adder tree of signed terms that negates as few bits as it can: a sign costs no adder and, mostly, no LUT."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

__all__ = ["SignedTree", "delayed", "tree_levels", "tree_sum_bits"]


def _width(low: int, high: int) -> int:
    """Bits of a two's-complement number that holds ``low .. high``."""
    return max(high.bit_length(), (-low - 1).bit_length()) + 1


def _pairs(magnitudes: Sequence[int]) -> list[int]:
    return [sum(magnitudes[first:first + 2]) for first in range(0, len(magnitudes), 2)]


def tree_levels(terms: int) -> int:
    """Register stages of a tree."""
    return (terms - 1).bit_length()


def tree_sum_bits(terms: int, magnitude: int) -> int:
    """Bits of the sum of ``terms`` terms of up to ``magnitude``, before its last carry."""
    pairs = _pairs([magnitude] * terms)
    return _width(-sum(pairs) - len(pairs), sum(pairs) + len(pairs) - 1)


def delayed(m: Module, value: Value, name: str) -> Signal:
    """``value`` one cycle later."""
    register = Signal(value.shape(), name=name)
    m.d.sync += register.eq(value)
    return register


def _add(a: Value, b: Value, carry: Value) -> Value:
    """``a + b + carry`` with one adder."""
    return (Cat(carry, a).as_signed() + Cat(carry, b).as_signed())[1:].as_signed()


def _add_or_subtract(a: Value, b: Value, subtract: Value) -> Value:
    """``a - b`` where ``subtract``, else ``a + b``, with one adder.

    Written as a difference, because a sum commutes: Yosys may then take the operand behind the exclusive or for the one
    that a carry chain needs twice, which costs another LUT per bit. ``Const(1)`` borrows where ``subtract`` is not set.
    """
    return (Cat(subtract, a).as_signed() - Cat(Const(1, 1), _complement(b, ~subtract)).as_signed())[1:].as_signed()


def _complement(value: Value, where: Value) -> Value:
    """``value``, bit by bit inverted if ``where`` is set: -1 minus it."""
    return value ^ where.replicate(len(value)).as_signed()


class SignedTree:
    """Sums of terms of the same signs: what several trees have in common.

    The first level adds pairs up to the sign of their first term, so an adder subtracts where the signs differ; only the
    second level complements its operands, which are half as many. A two's complement lacks +1 then: each pair's is the
    carry input of one of the later adders, and the last one is left over, for the adder behind the tree::

        term 0 --> +- --> register --> complement --> + --> register --> + ... --> sum
        term 1 -----^     term 2, 3 -> complement ----^ carry            ^ carry       carry

    Parameters
    ----------
    m : Module
        Gets the registers.
    signs : sequence of Value
        1 is minus; a cycle before the terms.
    name : str
        Prefix of the names of registers.

    Members
    -------
    carry : Value
        To be added to every sum, in step with it.
    """

    def __init__(self, m: Module, signs: Sequence[Value], name: str):
        self._m, self._levels = m, tree_levels(len(signs))
        self._differ = [delayed(m, a ^ b, f"{name}_differ_{n}")
                        for n, (a, b) in enumerate(zip(signs[::2], signs[1::2], strict=False))]
        self._negative = [delayed(m, sign, f"{name}_sign_{n}") for n, sign in enumerate(signs[::2])]
        if self._levels:
            self._negative = [delayed(m, sign, f"{name}_negative_{n}") for n, sign in enumerate(self._negative)]
        # Each adder of a level takes a carry from the front.
        self._carries, carries, nodes = [], self._negative, len(self._negative)
        for level in range(1, self._levels):
            self._carries.append(carries)
            carries = [delayed(m, carry, f"{name}_carry_{level}_{n}") for n, carry in enumerate(carries[nodes // 2:])]
            nodes -= nodes // 2
        (self.carry,) = carries

    def sum(self, terms: Sequence[Value], magnitude: int, name: str) -> Value:
        """Sum, but for ``carry``, of ``terms`` in ``-magnitude .. magnitude``: ``tree_levels(len(terms))`` cycles later."""
        bounds = _pairs([magnitude] * len(terms))
        pairs = list(terms)
        if self._levels:
            pairs = []
            for n, bound in enumerate(bounds):
                value, *rest = terms[2 * n:2 * n + 2]
                for other in rest:
                    value = _add_or_subtract(value, other, self._differ[n])
                pairs.append(self._register(value, -bound, bound, f"{name}_pair_{n}"))
        nodes = [(_complement(pair, negative), -bound - 1, bound)
                 for pair, negative, bound in zip(pairs, self._negative, bounds, strict=True)]
        for level, carries in enumerate(self._carries, 1):
            sums = []
            for position in range(0, len(nodes), 2):
                (value, low, high), *rest = nodes[position:position + 2]
                for other, low_other, high_other in rest:
                    value = _add(value, other, carries[position // 2])
                    low, high = low + low_other, high + high_other + 1
                sums.append((self._register(value, low, high, f"{name}_{level}_{position // 2}"), low, high))
            nodes = sums
        return nodes[0][0]

    def _register(self, value, low, high, name):
        register = Signal(signed(_width(low, high)), name=name)
        self._m.d.sync += register.eq(value)
        return register
