"""What was taken comes out, and when: addresses of rows, records."""

from amaranth.hdl import Assert, Assume, Mux, Signal, Value

from ...accelerators.cache.addresses import RowAddresses
from ...accelerators.cache.append import RecordPacker
from ...accelerators.config import AcceleratorConfig
from ...accelerators.presets import preset
from .contract import StreamContract

__all__ = ["RecordContract", "RowContract"]


class RowContract(StreamContract):
    """No command without rows; those of any rows that were taken come within ``within`` cycles, others before them or not, while nobody
    stalls."""

    def __init__(self, *, within: int, component: type[RowAddresses] = RowAddresses, **bounds):
        super().__init__(component(preset("tiny"), 1), narrow={"i__payload": 0}, **bounds)
        self.within = within

    def elaborate(self, platform):
        m = super().elaborate(platform)
        rows, follows = self.component, Signal()
        self.ports.append(follows)
        takes, gives = rows.i.valid & rows.i.ready, rows.o.valid & rows.o.ready
        inside, before, followed = Signal(4), Signal(4), Signal()
        m.d.sync += inside.eq(inside + takes - gives)
        m.d.comb += Assert(~rows.o.valid | (inside != 0))
        with m.If(followed):
            m.d.sync += [before.eq(before - gives), followed.eq(~(gives & (before == 0)))]
        with m.Elif(takes & follows):
            m.d.sync += [before.eq(inside - gives), followed.eq(1)]
        self._due(m, "rows", followed, gives & (before == 0), self.within)
        return m


class RecordContract(StreamContract):
    """Of vectors that are not too long, with elements and scales of zero: the last beat of a record leaves within ``within`` cycles of
    its last scale or word, whichever is later, or of the record before it, while nobody stalls; and not before both are there."""

    def __init__(self, config: AcceleratorConfig, *, within: int, component: type[RecordPacker] = RecordPacker, **bounds):
        super().__init__(component(config), awaited=("i", "i_scale"), narrow={"i_scale__payload": 0}, **bounds)
        self.within = within

    def elaborate(self, platform):
        m = super().elaborate(platform)
        packer, config = self.component, self.component.config
        words, scales, vectors = Signal(8), Signal(4), Signal(4)  # of the vector that goes in; of records that have not left
        takes, gets, gives = (port.valid & port.ready for port in (packer.i, packer.i_scale, packer.o))
        ends, leaves = takes & packer.i.p.last, gives & packer.o.p.last
        most = config.max_head_dim // config.vector_lanes
        m.d.sync += [
            words.eq(Mux(ends, 0, words + takes)), scales.eq(scales + gets - Mux(leaves, 2, 0)),
            vectors.eq(vectors + ends - Mux(leaves, 2, 0)),
        ]
        m.d.comb += [Assume(~packer.i.valid | packer.i.p.last | (words < most - 1)),
                     Assume(Value.cast(packer.i.p.q) == 0),
                     Assert(~(packer.o.valid & packer.o.p.last) | ((scales >= 2) & (vectors >= 2)))]
        self._due(m, "record", (scales >= 2) & (vectors >= 2), leaves, self.within)
        return m
