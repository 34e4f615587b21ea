"""Wide words to narrow ones."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from .words import word_layout

__all__ = ["Downsizer"]


class Downsizer(wiring.Component):
    """Splits every input word into ``in_bits / out_bits`` output words, lowest bits first.

    Parameters
    ----------
    in_bits, out_bits : int
        Word widths, 1 to 65536; ``in_bits`` is a multiple of ``out_bits``.

    Members
    -------
    i : In(stream.Signature({data: in_bits, last: 1}))
    o : Out(stream.Signature({data: out_bits, last: 1}))
        Registered. ``last`` is on the final part of an input word that had it.

    Latency: 1 cycle; an input word is taken together with its final part, so ``latency`` counts from there to
    that part's ``valid``. Interval: ``in_bits / out_bits`` cycles per input word, 1 per output word.
    ``i.ready`` depends on ``o.ready`` within the cycle.
    """

    latency = 1

    def __init__(self, in_bits: int, out_bits: int):
        check_int("out_bits", out_bits, 1, 1 << 16)
        check_int("in_bits", in_bits, 1, 1 << 16)
        if in_bits % out_bits:
            raise ValueError(f"in_bits must be a multiple of out_bits, not {in_bits} and {out_bits}")
        self.ratio = self.interval = in_bits // out_bits
        super().__init__({
            "i": In(stream.Signature(word_layout(in_bits))),
            "o": Out(stream.Signature(word_layout(out_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Downsizer":
        """Bus beats to words of two bytes."""
        return cls(config.bus_bits, 16)

    def elaborate(self, platform):
        m = Module()
        bits = len(self.o.p.data)
        part = Signal(range(max(self.ratio, 2)))
        word = self.i.p.data if self.ratio == 1 else self.i.p.data.word_select(part, bits)
        final = part == self.ratio - 1
        free = self.o.ready | ~self.o.valid
        m.d.comb += self.i.ready.eq(free & final)
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                self.o.p.data.eq(word),
                self.o.p.last.eq(self.i.p.last & final),
            ]
            with m.If(self.i.valid):
                m.d.sync += part.eq(part + 1)
                with m.If(final):
                    m.d.sync += part.eq(0)
        return m
