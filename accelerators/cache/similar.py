"""The row of a KV cache whose key is most similar to a given one."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import beat_numbers, max_beats
from ..attention.rows import RowSplitter
from ..checks import check_int
from ..config import THRESHOLD_FRACTION, AcceleratorConfig
from ..numerics.chords import LOGARITHM_BITS, LOGARITHM_STAGES, logarithm
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .evict_scores import evict_slots

__all__ = ["THRESHOLD_BITS", "SimilarKey"]

THRESHOLD_BITS = THRESHOLD_FRACTION + 1


class SimilarKey(wiring.Component):
    """Finds the row whose key has the largest cosine with a candidate's, and whether that reaches a threshold (EMS, arXiv:2412.08521).

    Scales are positive, so the cosine of two stored keys is that of their elements. It is compared in logarithms, so that a row's is a
    number of its own (golden model: ``sim/golden/evict.py: most_similar``, ``reaches``; L: ``numerics/chords.py: logarithm``)::

        d_i = sum c_j k_ij    n_i = sum k_ij**2      s_i = 2 * L(d_i) - L(n_i)
        best: d_i > 0 and the largest s_i            it is similar: s >= 2 * (L(threshold) - 12) + L(n_c)

        i -> keys -> lanes: c*k, k*k -> sums -> d, then n (of a candidate threshold, n) -> leading zeros -> shift -> chord -> s -> o

    One logarithm per cycle, so two for each record: none has fewer beats. The next search begins while the last rows of one are in the
    pipeline.

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

    Latency: from the last row's last beat of K to ``o``. Interval: 1 cycle per beat, and one between two searches; of these, each
    takes 6 at least.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig, slots: int | None = None):
        slots = evict_slots(config) if slots is None else slots
        check_int("slots", slots, 2, min(4096, config.max_context - 1))
        if config.kv_bits != 8:
            raise ValueError(f"kv_bits must be 8, not {config.kv_bits}")
        self.config, self.slots = config, slots
        # Registers from a beat of K to the queue: operands, products, tree, sums; operand, logarithms, twice one; similarity, best.
        self.latency = 3 + (config.kv_lanes - 1).bit_length() + LOGARITHM_STAGES + 4 + CreditQueue.latency
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"rows": range(slots + 1), "skip": range(slots)}))),
            "i": In(stream.Signature(config.bus_bits)),
            "beats": In(16), "words": In(16), "threshold": In(THRESHOLD_BITS),
            "o": Out(stream.Signature(data.StructLayout({"slot": range(slots), "similar": 1}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "SimilarKey":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, bits = self.config, (self.config.max_head_dim << 14).bit_length()  # of a norm
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
        skip = Signal.like(self.i_command.p.skip)
        m.d.comb += [splitter.i_command.valid.eq(self.i_command.valid), self.i_command.ready.eq(splitter.i_command.ready)]
        beat, row, rows_begun = Signal(beat_numbers(config)), Signal(range(self.slots)), Signal()
        left, final, top = Signal.like(self.i_command.p.rows), Signal(), Signal.like(beat)
        m.submodules.candidate = candidate = memory.Memory(shape=config.kv_beat_bits, depth=max(2, max_beats(config)), init=[])
        write, read = candidate.write_port(), candidate.read_port(domain="comb")
        accepted, last = keys.valid & keys.ready, beat == top
        m.d.sync += top.eq(self.beats - 1)
        m.d.comb += [
            write.addr.eq(beat), write.data.eq(keys.p), write.en.eq(accepted & ~rows_begun), read.addr.eq(beat),
        ]
        with m.If(accepted):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last):
                m.d.sync += [beat.eq(0), rows_begun.eq(1), row.eq(row + rows_begun), left.eq(left - 1), final.eq(left == 1)]
        with m.If(self.i_command.valid & self.i_command.ready):
            rows = self.i_command.p.rows
            m.d.sync += [skip.eq(self.i_command.p.skip), rows_begun.eq(0), row.eq(0), left.eq(rows), final.eq(rows == 0)]

        # Sums of products: of each row two, of a candidate its norm.
        pipeline = Pipeline(m)
        register = pipeline.register
        m.submodules.results = results = CreditQueue(self.o.p.shape(), ROUND_TRIP)
        m.d.comb += [keys.ready.eq(results.credit | ~(last & final)), results.spend.eq(accepted & last & final)]
        ours, theirs = ([lane.as_signed() for lane in data.View(data.ArrayLayout(8, config.kv_lanes), register(beats))]
                        for beats in (read.data, keys.p))
        dot, levels = pipeline.add([register(a * b) for a, b in zip(ours, theirs, strict=True)])
        norm, _ = pipeline.add([register((b * b)[:15]) for b in theirs])
        delay = levels + 2
        dots, norms = Signal(signed(bits + 1), reset_less=True), Signal(bits, reset_less=True)
        valid, first = register(accepted, delay, reset=True), register(beat == 0, delay)
        with m.If(valid):
            m.d.sync += [dots.eq(Mux(first, 0, dots) + dot), norms.eq(Mux(first, 0, norms) + norm)]

        # Logarithms of dot product (or threshold) and, a cycle later, of the norm.
        ends = register(accepted & last, delay + 1, reset=True)
        begins, closes = (register(flag, delay + 1) for flag in (~rows_begun, final))
        counts = ~begins & ~dots[-1] & dots.any() & register(row != skip, delay + 1)
        threshold = Cat(self.threshold[0] | ~self.threshold.any(), self.threshold[1:])
        operand = register(Mux(ends, Mux(begins, threshold, dots[:bits]), norms))
        log = logarithm(m, pipeline, operand)
        twice = register(log << 1)
        whole = register(ends, LOGARITHM_STAGES + 2, reset=True)
        begins, closes, counts = (register(flag, LOGARITHM_STAGES + 2) for flag in (begins, closes, counts))

        # Similarity, the best one so far, and whether that is enough.
        wide = signed(len(twice) + 1)
        score, best, limit = (Signal(wide, name=name) for name in ("score", "best", "limit"))
        found, slot, best_slot = Signal(), Signal.like(row), Signal.like(row)
        compares, counts = register(whole & ~begins, reset=True), register(counts)
        m.d.sync += score.eq(twice - log)
        with m.If(compares):
            m.d.sync += slot.eq(slot + 1)
            with m.If(counts & (~found | (score > best))):
                m.d.sync += [found.eq(1), best.eq(score), best_slot.eq(slot)]
        with m.If(whole & begins):
            m.d.sync += [limit.eq(twice + log - (2 * THRESHOLD_FRACTION << LOGARITHM_BITS)), found.eq(0), slot.eq(0)]
        m.d.comb += [
            results.i.valid.eq(register(whole & closes, 2, reset=True)), results.i.p.slot.eq(best_slot),
            results.i.p.similar.eq(found & (best >= limit)),
        ]
        connect(m, results.o, wiring.flipped(self.o))
        return m
