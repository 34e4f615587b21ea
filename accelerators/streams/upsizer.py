"""Narrow words to wide ones."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from .words import word_layout

__all__ = ["Upsizer"]


class Upsizer(wiring.Component):
    """Packs ``out_bits / in_bits`` input words into one output word, lowest bits first.

    A packet starts at bit 0 of an output word; ``last`` completes the word, its free parts are zero.
    (A ``Gearbox`` would drop it.)

    Parameters
    ----------
    in_bits, out_bits : int
        Word widths, 1 to 65536; ``out_bits`` is a multiple of ``in_bits``.

    Members
    -------
    i : In(stream.Signature({data: in_bits, last: 1}))
    o : Out(stream.Signature({data: out_bits, last: 1}))
        Registered. ``last`` marks the final word of a packet.

    Latency: 1 cycle from the input word that completes an output word. Interval: 1 cycle per input word.
    ``i.ready`` depends on ``o.ready`` within the cycle.
    """

    latency = 1
    interval = 1

    def __init__(self, in_bits: int, out_bits: int):
        check_int("in_bits", in_bits, 1, 1 << 16)
        check_int("out_bits", out_bits, 1, 1 << 16)
        if out_bits % in_bits:
            raise ValueError(f"out_bits must be a multiple of in_bits, not {out_bits} and {in_bits}")
        self.ratio = out_bits // in_bits
        super().__init__({
            "i": In(stream.Signature(word_layout(in_bits))),
            "o": Out(stream.Signature(word_layout(out_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Upsizer":
        """Words of K/V elements to bus beats."""
        return cls(config.vector_lanes * config.kv_bits, config.bus_bits)

    def elaborate(self, platform):
        m = Module()
        width = len(self.i.p.data)
        held = Signal(max(self.ratio - 1, 1) * width)  # parts before this one; zero from the current part on
        part = Signal(range(max(self.ratio, 2)))
        completes = Signal()
        free = self.o.ready | ~self.o.valid
        m.d.comb += [
            completes.eq(self.i.p.last | (part == self.ratio - 1)),
            self.i.ready.eq(free | ~completes),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(self.i.valid & completes),
                self.o.p.last.eq(self.i.p.last),
                self.o.p.data.eq(held),
            ]
            for k in range(self.ratio):
                with m.If(part == k):
                    m.d.sync += self.o.p.data[k * width:(k + 1) * width].eq(self.i.p.data)
        with m.If(self.i.valid & self.i.ready):
            with m.If(completes):
                m.d.sync += [part.eq(0), held.eq(0)]
            with m.Else():
                m.d.sync += part.eq(part + 1)
                for k in range(self.ratio - 1):
                    with m.If(part == k):
                        m.d.sync += held[k * width:(k + 1) * width].eq(self.i.p.data)
        return m
