"""Normalized attention weights of rows, for scores that say which rows of a KV cache matter."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..cache.evict_scores import WEIGHT_FRACTION, attention_weight_layout, evict_slots
from ..checks import check_int
from ..config import AcceleratorConfig
from ..numerics import Divider, Normalizer
from ..numerics.pipelined import round_shift
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .formats import row_sum_bits

__all__ = ["AttentionWeights", "probability_layout"]

RECIPROCAL_BITS = WEIGHT_FRACTION + 1

CLEAR = 31
"""A shift that clears every probability."""

SHIFT_STAGES = 4
"""Registers from the address of a probability to what it is at the final maximum: memory, its item, distance, shift."""

WEIGHT_STAGES = SHIFT_STAGES + 5
"""Registers to its row's weight: product, rounding (3), sum over lanes more."""


def probability_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Probability of a row in a lane, relative to the running maximum of logits at that row, as ``Softmax`` has them; ``last`` on the
    last item of an operation."""
    return data.StructLayout({"p": config.probability_bits + 1, "maximum": signed(13), "lane": range(max(config.query_lanes, 2)),
                              "last": 1})


class AttentionWeights(wiring.Component):
    """What part of an operation's attention each row got, summed over its lanes (golden model: ``sim/golden/weights.py``).

    ``Softmax`` never normalizes a probability: it is relative to the maximum so far. Here they wait for the operation's end; then, for
    lane k with final maximum M_k (integers, so that rescaling is a shift)::

        p'_jk = p_jk >> (M_k - m_jk)            row j, running maximum m_jk
        l_k   = sum of p'_jk over rows          R_k = min(2**(lb + 16) // l_k, 2**17 - 1),  lb = bit_length(l_k)
        w_j   = sum of round_shift(p'_jk * R_k, lb) over lanes                              16 fraction bits

        i -> bank, one fills --.-> lane by lane: shift, sum -> Divider -> R
             the other one ----'-> row by row: shift, * R, round, sum over lanes -> o

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``query_lanes``, ``probability_bits``, ``max_context``.
    rows : int
        Most rows of an operation, a power of two, 4 to 4096 and at most ``max_context``.

    Members
    -------
    i : In(stream of probability_layout)
        Row after row, all lanes of a row, lane 0 first. A row that a lane does not see has p = 0 there. Always taken, unless two
        operations wait.
    o : Out(stream of attention_weight_layout)
        A weight for each row. A lane's weights add up to 1 to within 2**-17 per row and 2**-16; those of one that sees no row are 0.

    Latency (a dictionary): of an operation of N rows and L = ``query_lanes`` lanes, ``L * (N + lane) + fixed`` cycles from its last
    item to its first weight, if the one before has been read. Interval: L cycles per weight. Bad input: rows beyond ``rows`` are
    dropped.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig, rows: int | None = None):
        rows = evict_slots(config) if rows is None else rows
        check_int("rows", rows, 4, min(4096, config.max_context), power_of_two=True)
        self.config, self.rows, self.sum_bits = config, rows, row_sum_bits(config)
        self._divider = Divider(self.sum_bits + WEIGHT_FRACTION + 1, self.sum_bits, RECIPROCAL_BITS + 1)
        self.latency = {"lane": SHIFT_STAGES + 2 + Normalizer.latency + self._divider.latency,
                        "fixed": 1 + config.query_lanes + WEIGHT_STAGES + CreditQueue.latency}
        super().__init__({
            "i": In(stream.Signature(probability_layout(config))),
            "o": Out(stream.Signature(attention_weight_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "AttentionWeights":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, lanes, rows = self.config, range(max(self.config.query_lanes, 2)), range(self.rows)
        m.submodules.normalizer = normalizer = Normalizer(self.sum_bits)
        m.submodules.divider = divider = self._divider
        m.submodules.results = results = CreditQueue(self.o.p.shape(), WEIGHT_STAGES + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        item = data.StructLayout({"p": config.probability_bits + 1, "maximum": signed(13)})
        lane_bits = (len(lanes) - 1).bit_length()
        m.submodules.items = items = memory.Memory(shape=item, depth=2 * self.rows << lane_bits, init=[])
        m.submodules.maxima = maxima = memory.Memory(shape=signed(13), depth=2 << lane_bits, init=[])
        factor = data.StructLayout({"reciprocal": RECIPROCAL_BITS, "length": range(self.sum_bits + 1)})
        m.submodules.factors = factors = memory.Memory(shape=factor, depth=max(2, 1 << lane_bits), init=[])

        # One bank fills: how many rows and lanes it has, and whether it is ready to be read.
        filling, reading = Signal(), Signal()
        full = Signal(2)
        counts = [Signal(data.StructLayout({"row": rows, "lane": lanes}), name=f"last_{bank}") for bank in range(2)]
        row_in, begun, room = Signal(rows), Signal(), Signal()
        row_now, over = Signal(range(self.rows + 1)), Signal()
        put, put_maximum = items.write_port(), maxima.write_port()
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            room.eq(~full.bit_select(filling, 1)), self.i.ready.eq(room),
            row_now.eq(row_in + (begun & (self.i.p.lane == 0))),
            put.addr.eq(Cat(self.i.p.lane, row_now[:-1], filling)), put.data.p.eq(self.i.p.p), put.data.maximum.eq(self.i.p.maximum),
            put.en.eq(accepted & ~row_now[-1] & ~over),
            put_maximum.addr.eq(Cat(self.i.p.lane, filling)), put_maximum.data.eq(self.i.p.maximum), put_maximum.en.eq(put.en),
        ]
        freed = Signal()
        m.d.sync += full.eq((full & ~(freed << reading)) | ((accepted & self.i.p.last) << filling))
        with m.If(accepted):
            m.d.sync += begun.eq(1)
            with m.If(row_now[-1]):
                m.d.sync += over.eq(1)
            with m.Else():
                m.d.sync += row_in.eq(row_now)
            with m.If(self.i.p.last):
                m.d.sync += [filling.eq(~filling), begun.eq(0), over.eq(0), row_in.eq(0)]
                for bank, count in enumerate(counts):
                    with m.If(filling == bank):
                        m.d.sync += [count.row.eq(Mux(row_now[-1], self.rows - 1, row_now)), count.lane.eq(self.i.p.lane)]

        # The other one is read: what a probability is at the final maximum.
        last = data.View(counts[0].shape(), Mux(reading, counts[1].as_value(), counts[0].as_value()))
        row, lane = Signal(rows), Signal(lanes)
        read, final = items.read_port(), maxima.read_port(domain="comb")
        weigh, store = factors.read_port(domain="comb"), factors.write_port()
        register = Pipeline(m).register
        sums, weighs = Signal(), Signal()
        found, away = register(read.data), Signal(signed(14))
        m.d.comb += [
            read.addr.eq(Cat(lane, row, reading)), final.addr.eq(Cat(register(lane, 2), reading)),
            away.eq(final.data - found.maximum),
        ]
        distance = register(Mux(away > CLEAR, CLEAR, away)[:5])
        shifted = register(register(found.p) >> distance)

        total, wait = Signal(self.sum_bits), Signal(range(SHIFT_STAGES + 1))
        adds = register(sums, SHIFT_STAGES, reset=True)
        with m.If(adds):
            m.d.sync += total.eq(total + shifted)

        m.d.comb += weigh.addr.eq(register(lane, SHIFT_STAGES))
        product = Signal(signed(config.probability_bits + RECIPROCAL_BITS + 2))
        m.d.sync += product.eq(shifted * weigh.data.reciprocal)
        rounded = round_shift(Pipeline(m), product, register(weigh.data.length))
        length = Signal.like(normalizer.o.p.length)
        starts, ends = register(lane == 0, WEIGHT_STAGES - 1), register(lane == last.lane, WEIGHT_STAGES - 1)
        weight = Signal.like(self.o.p.weight)
        m.d.comb += results.i.p.weight.eq(weight)
        m.d.sync += [
            weight.eq(Mux(starts, 0, weight) + rounded[:RECIPROCAL_BITS]),
            results.i.valid.eq(register(weighs, WEIGHT_STAGES - 1, reset=True) & ends),
            results.i.p.last.eq(register(row == last.row, WEIGHT_STAGES - 1)),
        ]
        m.d.comb += [
            results.spend.eq(weighs & (lane == last.lane)),
            normalizer.i.p.value.eq(total), divider.i.p.denominator.eq(normalizer.o.p.value),
            divider.i.p.numerator.eq(1 << self.sum_bits + WEIGHT_FRACTION), store.addr.eq(lane), store.data.length.eq(length),
            store.data.reciprocal.eq(Mux(divider.o.p.quotient[-1], (1 << RECIPROCAL_BITS) - 1, divider.o.p.quotient)),
        ]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(full.bit_select(reading, 1)):
                    m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += sums.eq(1)
                m.d.sync += [row.eq(row + 1), wait.eq(SHIFT_STAGES)]
                with m.If(row == last.row):
                    m.d.sync += row.eq(0)
                    m.next = "SUMMED"
            with m.State("SUMMED"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.next = "NORMALIZE"
            with m.State("NORMALIZE"):
                m.d.comb += normalizer.i.valid.eq(1)  # it is empty, and so is the divider
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += [divider.i.valid.eq(normalizer.o.valid), normalizer.o.ready.eq(1)]
                m.d.sync += length.eq(normalizer.o.p.length)
                with m.If(normalizer.o.valid):
                    m.next = "QUOTIENT"
            with m.State("QUOTIENT"):
                m.d.comb += [divider.o.ready.eq(1), store.en.eq(divider.o.valid)]
                with m.If(divider.o.valid):
                    m.d.sync += [total.eq(0), lane.eq(lane + 1)]
                    m.next = "SUM"
                    with m.If(lane == last.lane):
                        m.d.sync += lane.eq(0)
                        m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.comb += weighs.eq(results.credit)
                m.d.sync += wait.eq(SHIFT_STAGES)
                with m.If(weighs):
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane == last.lane):
                        m.d.sync += [lane.eq(0), row.eq(row + 1)]
                        with m.If(row == last.row):
                            m.d.sync += row.eq(0)
                            m.next = "READ"
            with m.State("READ"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.comb += freed.eq(1)
                    m.d.sync += reading.eq(~reading)
                    m.next = "IDLE"
        return m
