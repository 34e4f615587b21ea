"""Dense bit stream from words of one width to words of another."""

from math import gcd

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..integers import ceil_div
from .words import word_layout

__all__ = ["Gearbox"]


class Gearbox(wiring.Component):
    """Repacks a bit stream, lowest bits first, from words of ``in_bits`` into words of ``out_bits``.

    ::

        i.data        |   word 0    |   word 1    |   word 2    | word 3, last  |
        bits          0            64            128           192             256     (64 -> 80)
        o.data        |    word 0      |    word 1      |  word 2, last  | tail |
                      0               80               160              240   dropped

    A packet is one matrix: it starts at bit 0 of an input word and ends with the input word marked
    ``last``. Every output word that is filled completely is given; the bits that are left over after
    ``last`` are dropped. So for ``in_bits <= out_bits``, N output words packed into
    ``ceil(N * out_bits / in_bits)`` input words give exactly N again. For ``in_bits > out_bits`` the tail
    may hold up to ``(in_bits - 1) // out_bits`` whole words of padding, which are given too: there the
    consumer counts, and discards what follows until ``last``.

    With ``unit = gcd(in_bits, out_bits)``, ``a = in_bits / unit`` and ``b = out_bits / unit``, an output
    word starts at one of ``a`` positions of the window (last ``b - 1`` units seen, input word). A shifter
    with a register after every binary digit of the position cuts it out: ``log2(a)`` two-input
    multiplexers and registers per output bit, and registers for ``b - 1`` units.

    Parameters
    ----------
    in_bits, out_bits : int
        Word widths, 1 to 65536.

    Members
    -------
    i : In(stream.Signature({data: in_bits, last: 1}))
    o : Out(stream.Signature({data: out_bits, last: 1}))
        Registered. ``last`` marks the final output word of the packet.

    Latency: ``max(1, ceil(log2(a)))`` cycles from the input word that completes an output word. Interval:
    1 cycle per input word for ``in_bits <= out_bits``, else 1 cycle per output word. ``i.ready`` depends on
    ``o.ready`` within the cycle. The shifter moves as a whole: gaps in it do not close while ``o`` waits.

    Bad input: a packet that ends before its first output word is full gives nothing, not even ``last``.
    """

    def __init__(self, in_bits: int, out_bits: int):
        check_int("in_bits", in_bits, 1, 1 << 16)
        check_int("out_bits", out_bits, 1, 1 << 16)
        self.in_bits, self.out_bits = in_bits, out_bits
        self.unit = gcd(in_bits, out_bits)
        self.latency = max(1, (in_bits // self.unit - 1).bit_length())
        self.interval = ceil_div(in_bits, out_bits)
        super().__init__({
            "i": In(stream.Signature(word_layout(in_bits))),
            "o": Out(stream.Signature(word_layout(out_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Gearbox":
        """Bus beats to lane words of the ternary engine."""
        return cls(config.bus_bits, config.lane_bits)

    def elaborate(self, platform):
        m = Module()
        unit, a, b = self.unit, self.in_bits // self.unit, self.out_bits // self.unit
        seen = Signal(max(1, b - 1) * unit)  # the b - 1 units before the input word
        window = Signal((a + b - 1) * unit)
        # Where the next output word starts in the window, in units; from a on it needs a further input word.
        start = Signal(range(max(a, b, 2)), init=b - 1)
        m.d.comb += window.eq(Cat(seen[:(b - 1) * unit], self.i.p.data))

        fills, exhausts = Signal(), Signal()  # the output word is complete; the input word is used up
        after = Signal(range(a + b))
        m.d.comb += [
            fills.eq(start < a),
            after.eq(Mux(fills, start + b, start)),
            exhausts.eq(after >= a),
        ]
        free = self.o.ready | ~self.o.valid  # the shifter moves, as a whole
        m.d.comb += self.i.ready.eq(exhausts & (free | ~fills))
        with m.If(self.i.valid & (free | ~fills)):
            m.d.sync += start.eq(after)
            with m.If(exhausts):
                m.d.sync += [
                    seen.eq(window[self.in_bits:]) if b > 1 else seen.eq(0),
                    start.eq(Mux(self.i.p.last, b - 1, after - a)),
                ]
        self._shift(m, window, start, self.i.p.last & exhausts, self.i.valid & fills, free)
        return m

    def _shift(self, m, value, start, last, valid, free):
        """Pipelined shifter: one binary digit of ``start`` per stage, highest first; ``o`` is the last."""
        for level in reversed(range(self.latency)):
            bits = self.out_bits + ((1 << level) - 1) * self.unit  # what the lower digits can still select
            final = level == 0
            next_value = self.o.p.data if final else Signal(bits, name=f"value_{level}")
            next_last = self.o.p.last if final else Signal(name=f"last_{level}")
            next_valid = self.o.valid if final else Signal(name=f"valid_{level}")
            digits = Signal(max(level, 1), name=f"digits_{level}")
            shifted = value if self.in_bits == self.unit else Mux(
                start.bit_select(level, 1), value[self.unit << level:], value)
            with m.If(free):
                m.d.sync += [
                    next_value.eq(shifted),
                    next_last.eq(last),
                    next_valid.eq(valid),
                    digits.eq(start),
                ]
            value, start, last, valid = next_value, digits, next_last, next_valid
