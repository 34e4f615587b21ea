"""The row of a KV cache whose key is most similar to a given one."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import beat_numbers, max_beats
from ..attention.rows import RowSplitter
from ..checks import check_int
from ..config import THRESHOLD_FRACTION, AcceleratorConfig
from ..integers import ceil_div
from ..numerics.pipelined import LIMB_BITS, adder_tree, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue
from .evict_scores import evict_slots

__all__ = ["THRESHOLD_BITS", "SimilarKey"]

THRESHOLD_BITS = THRESHOLD_FRACTION + 1

BEHIND = 2
"""Registers from the digits of two norms to the sum: products, their difference."""

TAKE = 2
"""Cycles of a comparison beside those: take the row, decide."""


class SimilarKey(wiring.Component):
    """Finds the row whose key has the largest cosine with a candidate's, and whether that reaches a threshold (EMS, arXiv:2412.08521).

    Scales are positive, so the cosine of two stored keys is that of their elements; of rows i and b it is compared without division
    or root, exactly (golden model: ``sim/golden/evict.py: most_similar``, ``reaches``)::

        d_i = sum c_j k_ij    n_i = sum k_ij**2      i is better than b:  d_i > 0 and d_i**2 * n_b > d_b**2 * n_i
                                                     b is similar:        d_b**2 * 2**24 >= threshold**2 * n_c * n_b

        i -> keys -> lanes: c*k, k*k -> sums -> d**2, n -> queue -> comparison, a digit of both norms per cycle -> o

    Rows go into the queue with the candidate before them, so the next search begins while the last rows of one are compared.

    The two products of a comparison are never whole: from the highest digit of ``digit_bits`` on,
    ``sum = (sum << digit_bits) + digit(n_b) * d_i**2 - digit(n_i) * d_b**2``, and the sign decides. The digits are as narrow as the
    comparison then takes no longer than the longest record, if they can be.

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits`` (8), ``kv_storage``, ``max_head_dim``, ``max_context``, ``vector_lanes``.
    slots : int
        Most rows, 2 to 4096 and less than ``max_context``.

    Members
    -------
    i_command : In(stream of {rows: 0 .. slots, skip})
        Row ``skip`` is read, but does not count: the candidate's own one.
    i : In(stream of bus_bits)
        Records: the candidate's, then those of the rows.
    beats, words : In(16)
        Of a record: beats of K (= of V), K-words; see ``command_layout``. They stand while a command is under way.
    threshold : In(13)
        Of a cosine, 12 fraction bits; above 1 it is never reached. It stands while a command is under way.
    o : Out(stream of {slot, similar})
        The best row, of equal ones the first; without ``similar`` the slot does not matter.

    Latency: of the only row with a positive ``d``, from its last beat of K to ``o``, if the candidate came ``compare`` cycles before
    it; every further one that has not been compared yet takes ``compare`` cycles more. Interval: 1 cycle per beat; a row with a
    positive ``d`` takes ``compare`` cycles at least.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig, slots: int | None = None):
        slots = evict_slots(config) if slots is None else slots
        check_int("slots", slots, 2, min(4096, config.max_context - 1))
        if config.kv_bits != 8:
            raise ValueError(f"kv_bits must be 8, not {config.kv_bits}")
        self.config, self.slots = config, slots
        self.norm_bits = (config.max_head_dim << 14).bit_length()
        self.digit_bits = min(18, ceil_div(self.norm_bits, max(1, config.max_record_beats - BEHIND - TAKE)))
        self.steps = ceil_div(self.norm_bits, self.digit_bits)
        self.compare = self.steps + BEHIND + TAKE
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"rows": range(slots + 1), "skip": range(slots)}))),
            "i": In(stream.Signature(config.bus_bits)),
            "beats": In(16), "words": In(16), "threshold": In(THRESHOLD_BITS),
            "o": Out(stream.Signature(data.StructLayout({"slot": range(slots), "similar": 1}))),
        })
        # Registers from a beat of K to the queue: operands, products, tree, sums, positive part, square.
        self._depth = 4 + (config.kv_lanes - 1).bit_length() + (1 if self.norm_bits <= LIMB_BITS else 3)
        self.latency = self._depth + CreditQueue.latency + self.compare + 1

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "SimilarKey":
        return cls(config)

    def _product(self, digits: Signal, value: Signal) -> Value:
        """The highest digit times a value; a narrow one needs no multiplier."""
        digit = digits[-self.digit_bits:]
        if self.digit_bits > 3:
            return digit * value
        return adder_tree([Mux(bit, value << k, 0) for k, bit in enumerate(digit)])

    def elaborate(self, platform):
        m = Module()
        config, bits = self.config, self.norm_bits
        m.submodules.splitter = splitter = RowSplitter(config)
        keys = splitter.o_keys
        m.d.comb += [
            splitter.i.valid.eq(self.i.valid), splitter.i.p.eq(self.i.p), self.i.ready.eq(splitter.i.ready),
            splitter.o_header.ready.eq(1), splitter.o_values.ready.eq(1),
            splitter.i_command.p.rows.eq(self.i_command.p.rows + 1), splitter.i_command.p.beats.eq(self.beats),
            splitter.i_command.p.words.eq(self.words),
        ]
        if config.attention_runs:
            m.d.comb += [splitter.i_command.p.begins.eq(1), splitter.i_command.p.ends.eq(1)]

        # Which beat of which row comes, and the candidate's.
        command = Signal.like(self.i_command.p)
        m.d.comb += [splitter.i_command.valid.eq(self.i_command.valid), self.i_command.ready.eq(splitter.i_command.ready)]
        beat, row, rows_begun = Signal(beat_numbers(config)), Signal(range(self.slots)), Signal()
        m.submodules.candidate = candidate = memory.Memory(shape=config.kv_beat_bits, depth=max(2, max_beats(config)), init=[])
        write, read = candidate.write_port(), candidate.read_port(domain="comb")
        accepted, last = keys.valid & keys.ready, beat == self.beats - 1
        final = row + rows_begun == command.rows
        m.d.comb += [
            write.addr.eq(beat), write.data.eq(keys.p), write.en.eq(accepted & ~rows_begun), read.addr.eq(beat),
        ]
        with m.If(accepted):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last):
                m.d.sync += [beat.eq(0), rows_begun.eq(1), row.eq(row + rows_begun)]
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [command.eq(self.i_command.p), rows_begun.eq(0), row.eq(0)]

        # Sums of products; of the candidate its norm, of each row square and norm, and whether it counts.
        pipeline = Pipeline(m)
        register = pipeline.register
        item = data.StructLayout({"square": 2 * bits, "norm": bits, "slot": range(self.slots), "counts": 1, "begins": 1, "final": 1})
        m.submodules.rows = rows = CreditQueue(item, self._depth + ROUND_TRIP)
        m.d.comb += [keys.ready.eq(rows.credit | ~last), rows.spend.eq(accepted & last)]
        ours, theirs = ([lane.as_signed() for lane in data.View(data.ArrayLayout(8, config.kv_lanes), register(beats))]
                        for beats in (read.data, keys.p))
        dot, levels = pipeline.add([register(a * b) for a, b in zip(ours, theirs, strict=True)])
        norm, _ = pipeline.add([register((b * b)[:15]) for b in theirs])
        delay = levels + 2
        dots, norms = Signal(signed(bits + 1), reset_less=True), Signal(bits, reset_less=True)
        valid, first = register(accepted, delay, reset=True), register(beat == 0, delay)
        with m.If(valid):
            m.d.sync += [dots.eq(Mux(first, 0, dots) + dot), norms.eq(Mux(first, 0, norms) + norm)]
        ends = register(accepted & last, delay + 1, reset=True)
        counts = register(~dots[-1] & dots.any() & register(row != command.skip, delay + 1))
        square, product = unsigned_product(pipeline, register(dots[:bits]), register(dots[:bits]))
        m.d.comb += [
            rows.i.valid.eq(register(ends, product + 1, reset=True)), rows.i.p.square.eq(square),
            rows.i.p.norm.eq(register(norms, product + 1)), rows.i.p.counts.eq(register(counts, product)),
            *(rows.i.p[name].eq(register(value, delay + product + 2))
              for name, value in (("slot", row), ("begins", ~rows_begun), ("final", final))),
        ]

        # sum = (sum << digit_bits) + digit(u) * x - digit(v) * y
        wide = THRESHOLD_BITS + THRESHOLD_BITS + bits
        x, y = Signal(2 * max(bits, THRESHOLD_BITS)), Signal(max(2 * bits, wide))
        u, v = (Signal(self.steps * self.digit_bits, name=name) for name in ("u", "v"))
        total = Signal(signed(max(len(y) + bits, 2 * bits + 2 * THRESHOLD_FRACTION) + 2))
        step, runs = Signal(range(self.steps + BEHIND)), Signal()
        difference = register(register(self._product(u, x)) - register(self._product(v, y)))
        adds = register(runs, BEHIND, reset=True)
        with m.If(adds):
            m.d.sync += total.eq((total << self.digit_bits) + difference)

        best, current, row_end = Signal(item), Signal(item), rows.o.p
        limit, squared = Signal(wide), register(self.threshold * self.threshold)  # threshold**2 * n_c
        with m.FSM():
            with m.State("ROW"):
                m.d.comb += rows.o.ready.eq(1)
                m.d.sync += [current.eq(row_end), step.eq(0), total.eq(0), y.eq(best.square),
                             x.eq(Mux(row_end.begins, squared, row_end.square)), u.eq(Mux(row_end.begins, row_end.norm, best.norm)),
                             v.eq(Mux(row_end.begins, 0, row_end.norm))]
                with m.If(rows.o.valid):
                    with m.If(row_end.begins):
                        m.d.sync += best.counts.eq(0)
                        m.next = "THRESHOLD"
                    with m.Elif(row_end.counts & best.counts):
                        m.next = "COMPARE"
                    with m.Else():
                        with m.If(row_end.counts):
                            m.d.sync += best.eq(row_end)
                        with m.If(row_end.final):
                            m.next = "LAST"
            with m.State("LAST"):
                m.d.sync += [step.eq(0), total.eq(0), u.eq(0), v.eq(best.norm), y.eq(limit)]
                m.next = "BELOW"
                with m.If(~best.counts):
                    m.next = "RESULT"
            for state, following in (("COMPARE", "BETTER"), ("THRESHOLD", "LIMIT"), ("BELOW", "SIMILAR")):
                with m.State(state):
                    m.d.comb += runs.eq(step < self.steps)
                    m.d.sync += [u.eq(u << self.digit_bits), v.eq(v << self.digit_bits), step.eq(step + 1)]
                    with m.If(step == self.steps + BEHIND - 1):
                        m.next = following
            with m.State("BETTER"):
                with m.If(~total[-1] & total.any()):
                    m.d.sync += best.eq(current)
                m.next = "ROW"
                with m.If(current.final):
                    m.next = "LAST"
            with m.State("LIMIT"):
                m.d.sync += limit.eq(total)
                m.next = "ROW"
                with m.If(current.final):
                    m.next = "LAST"
            with m.State("SIMILAR"):
                m.d.sync += total.eq(total + (best.square << 2 * THRESHOLD_FRACTION))
                m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.slot.eq(best.slot), self.o.p.similar.eq(best.counts & ~total[-1])]
                with m.If(self.o.ready):
                    m.next = "ROW"
        return m
