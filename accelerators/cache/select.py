"""The positions with the largest scores: which tokens to compute again, which blocks to fetch."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig

__all__ = ["TopSelect"]


class TopSelect(wiring.Component):
    """Numbers of the ``count`` largest scores of a list, in rising order; of equal scores the earlier ones are taken.

    For CacheBlend (arXiv:2405.16444: the tokens whose values deviate most are computed again) and ReKV (arXiv:2503.00540: the blocks
    whose mean keys fit a query best are fetched). The smallest score that is taken is found bit by bit, the highest first: are there
    enough scores that are not below the bits found so far and a 1 here? So any share of a list can be asked for, with a counter
    instead of a sorted list::

        i -> scores --.-> a pass for each bit, counting -> threshold, scores above it
                      '-> last pass: those above, and the first ones of the equal that are missing -> o

    Parameters
    ----------
    depth : int
        Longest list, 2 to 2**16.
    bits : int
        Width of a score, unsigned, 1 to 48.

    Members
    -------
    i : In(stream of {score: bits, last})
        A list; scores behind the first ``depth`` are dropped.
    i_command : In(stream of {count})
        How many of the list that came before it, 0 to ``depth``; more than it has means all.
    o : Out(stream of {index, last})
        ``last`` on the final one. With a count of 0 nothing comes.

    Latency: of a list of n scores, ``(bits + 1) * (n + 4) + 1`` cycles from the command to the last score's index; the attribute is for
    n = ``depth``. Interval: 1 cycle per score; the next list is taken when the selection has left.
    """

    interval = 1

    PASS = 4
    """Cycles of a pass beside one for each score."""

    def __init__(self, depth: int, bits: int):
        check_int("depth", depth, 2, 1 << 16)
        check_int("bits", bits, 1, 48)
        self.depth, self.bits = depth, bits
        self.latency = (bits + 1) * (depth + self.PASS) + 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"score": bits, "last": 1}))),
            "i_command": In(stream.Signature(data.StructLayout({"count": range(depth + 1)}))),
            "o": Out(stream.Signature(data.StructLayout({"index": range(depth), "last": 1}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "TopSelect":
        """Of the positions of a context, by scores of 32 bits."""
        return cls(config.max_context, 32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.scores = scores = memory.Memory(shape=self.bits, depth=self.depth, init=[])
        read, write = scores.read_port(), scores.write_port()
        numbers = range(self.depth + 1)
        length, address, wanted, count, above_count = (Signal(numbers, name=name) for name in (
            "length", "address", "wanted", "count", "above_count"))
        threshold, bit, candidate = Signal(self.bits), Signal(self.bits), Signal(self.bits)

        # Three registers from an address to what is known of its score.
        moves, starts, running = Signal(), Signal(), Signal()
        reads, under_way = Signal(), Signal(3)
        score, indices = Signal(self.bits), [Signal(range(self.depth), name=f"index_{k}") for k in range(3)]
        enough, above, equal = Signal(), Signal(), Signal()
        m.d.comb += [
            moves.eq(self.o.ready | ~self.o.valid), candidate.eq(threshold | bit), reads.eq(running & (address != length)),
            read.addr.eq(address[:len(read.addr)]), read.en.eq(moves),
            write.addr.eq(length[:len(write.addr)]), write.data.eq(self.i.p.score),
        ]
        with m.If(moves):
            m.d.sync += [
                address.eq(address + reads), under_way.eq(Cat(reads, under_way)),
                *(later.eq(index) for later, index in zip(indices, (address, *indices), strict=False)),
                score.eq(read.data), enough.eq(score >= candidate), above.eq(score > threshold), equal.eq(score == threshold),
            ]
        done = (address == length) & ~under_way.any()
        takes = Signal()  # in the last pass, ``wanted`` goes down with what has left, ``count`` with the equal ones
        m.d.comb += takes.eq(under_way[2] & (above | (equal & (count != 0))))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("LIST"):
                m.d.comb += [self.i.ready.eq(1), write.en.eq(self.i.valid & (length != self.depth))]
                with m.If(self.i.valid):
                    m.d.sync += length.eq(length + write.en)
                    with m.If(self.i.p.last):
                        m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += [self.i_command.ready.eq(1), starts.eq(1)]
                m.d.sync += [threshold.eq(0), bit.eq(1 << (self.bits - 1)), above_count.eq(0),
                             wanted.eq(Mux(self.i_command.p.count < length, self.i_command.p.count, length))]
                with m.If(self.i_command.valid):
                    m.next = "COUNT"
                    with m.If(self.i_command.p.count == 0):
                        m.d.sync += length.eq(0)
                        m.next = "LIST"
            with m.State("COUNT"):
                m.d.comb += running.eq(1)
                m.d.sync += count.eq(count + (under_way[2] & enough))
                with m.If(done):
                    m.d.comb += starts.eq(1)
                    m.d.sync += bit.eq(bit >> 1)
                    with m.If(count >= wanted):
                        m.d.sync += threshold.eq(candidate)
                    with m.Else():
                        m.d.sync += above_count.eq(count)  # of the last one that is too high, threshold + 1
                    with m.If(bit[0]):
                        m.next = "QUOTA"
            with m.State("QUOTA"):
                m.d.sync += count.eq(wanted - above_count)
                m.next = "SELECT"
            with m.State("SELECT"):
                m.d.comb += running.eq(1)
                with m.If(moves & takes):
                    m.d.sync += [self.o.valid.eq(1), self.o.p.index.eq(indices[2]), self.o.p.last.eq(wanted == 1),
                                 wanted.eq(wanted - 1), count.eq(count - ~above)]
                with m.If(moves & done & ~self.o.valid):
                    m.d.comb += starts.eq(1)
                    m.d.sync += length.eq(0)
                    m.next = "LIST"
        with m.If(starts):  # stronger than what a pass counts
            m.d.sync += [address.eq(0), count.eq(0)]
        return m
