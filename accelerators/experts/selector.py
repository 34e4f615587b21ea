"""Selector: does a layer run on Logic-PIM or on the xPU?"""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ExpertConfig

__all__ = ["OPB_FRACTION_BITS", "USE_BITS", "OpSelector"]

USE_BITS, ITEM_BITS = 16, 10
OPB_FRACTION_BITS = 4
"""Of the threshold."""


class OpSelector(wiring.Component):
    """Compares the operations per byte (Op/B) of a layer with a threshold: below it memory bounds, and Logic-PIM has four times the
    bandwidth (Duplex, arXiv:2409.01141, section 4)::

        i (uses of a matrix) -> sum of uses, matrices that are used -.
        threshold ---------------------------------------------------* -> compare -> o

    A weight that is loaded once for n tokens makes 2 n operations, so Op/B is 2 n over the bytes of an element: n in fp16 and bf16, 2 n
    in int8. Items are the experts of a layer with their tokens, or the sequences of decode attention with the query heads of a K/V head
    (its group) times their tokens, or one dense matrix with its tokens. Without a token an expert is not loaded.

    Parameters
    ----------
    config : ExpertConfig
        ``element`` matters.

    Members
    -------
    i : In(stream of {uses: 16, last})
        Tokens that use what is loaded once, for each item of a layer; sums of more than 1024 items may overflow. ``last`` on the last.
    threshold : In(16)
        Op/B in 1/16; stands still while a layer is decided.
    o : Out(stream of {pim: 1, uses: 26, loaded: 11})
        ``pim``: Op/B is at most the threshold. The sums that were compared.

    Latency: 3 cycles from ``last``. Interval: 1 cycle per item, and 3 more per layer.
    """

    latency = 3
    interval = None

    def __init__(self, config: ExpertConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"uses": USE_BITS, "last": 1}))),
            "threshold": In(16),
            "o": Out(stream.Signature(data.StructLayout({"pim": 1, "uses": USE_BITS + ITEM_BITS, "loaded": ITEM_BITS + 1}))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "OpSelector":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        result, limit = self.o.p, Signal(16 + ITEM_BITS + 1)
        operations = result.uses << OPB_FRACTION_BITS + (self.config.format.storage_bits == 8)
        with m.FSM():
            with m.State("SUM"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [result.uses.eq(result.uses + self.i.p.uses), result.loaded.eq(result.loaded + (self.i.p.uses != 0))]
                    with m.If(self.i.p.last):
                        m.next = "LIMIT"
            with m.State("LIMIT"):
                m.d.sync += limit.eq(self.threshold * result.loaded)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += result.pim.eq(operations <= limit)
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [result.uses.eq(0), result.loaded.eq(0)]
                    m.next = "SUM"
        return m
