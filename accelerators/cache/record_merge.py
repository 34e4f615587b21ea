"""Merges two K/V records into one."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import HEADER, max_beats
from ..attention.rows import RowSplitter
from ..config import POSITION_BITS, AcceleratorConfig
from ..numerics import SCALAR, Normalizer, ScalarOp, ScalarUnit
from ..numerics.pipelined import left_justify, magnitude, maximum
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect, word_layout
from .append import STORED_EXPONENT_OFFSET, RecordPacker

__all__ = ["RecordMerge", "merge_command"]

LEVEL_BITS = 7
"""Quantized elements reach 127, which is ``2**7 - 1``."""

FACTOR_BITS, RECIPROCAL_DROP = 16, 14

SUM_STAGES = 4
"""Registers from the address of a word to its sums: beat, elements, products, sums."""

QUANTIZE_STAGES = SUM_STAGES + 5
"""Registers to its quantized elements: shift (2), product (2), rounding more."""

QUANTIZE_SHIFT = 33
"""Sums go left before the product so that what follows is a right shift by this."""


BANKS = 4
"""Candidates that there is room for, a power of two: one that is merged, and others that wait."""


class Step(IntEnum):
    """Operations of the scalar unit: one for both vectors, four for each; of a normalized integer, and of a scale."""

    TOTAL = 0
    CANDIDATE = 1
    KEPT = 2
    PEAK = 3
    SCALE = 4


def merge_command() -> data.StructLayout:
    """Whether the candidate is merged (else it is dropped), and the tokens that either record stands for, at least 1."""
    return data.StructLayout({"merges": 1, "kept": POSITION_BITS, "candidate": POSITION_BITS})


class RecordMerge(wiring.Component):
    """Mean of two K/V records, weighted by the tokens that they stand for, quantized to int8 again (EMS, arXiv:2412.08521),
    from where ``RecordPacker`` rounds it as any record if these are of 4-bit elements.

    For key and value, with scales s and tokens t of both records a and b, in pseudo-floats, all truncated (golden model:
    ``sim/golden/evict.py: merged_vector``)::

        w = t * s                              f = upper 16 bits of w's mantissa, the smaller one moved to e, the larger exponent
        x_j = f_a * a_j + f_b * b_j            P = max |x_j|
        q_j = round_shift((x_j << 47 + r.exponent) * R, 33)       r = 1 / P,  R = 127 * r.mantissa >> 14
        scale = P * 2**(e + 8) * (1 / (127 * (t_a + t_b)))

        i -> RowSplitter -> headers -> ScalarUnit, a few operations ---> f, R, scale
                         '> elements of both, read twice --> x ---> P   (first time)
                                                            '---> x * R -> q -> RecordPacker -> o   (second time)

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits`` (8), ``kv_storage``, ``max_head_dim``, ``vector_lanes``.

    Members
    -------
    i_kind : In(stream of {kept})
        Before each record of ``i``: a candidate, or the record kept that the oldest candidate without one is merged with. That comes
        before the fourth candidate behind its own.
    i : In(stream of bus_bits)
        Records. One that is kept waits until its candidate's command has been taken.
    i_command : In(stream of merge_command)
        One for each candidate, in order. Taken when its record is there, and no other two are merged.
    beats, words : In(16)
        Of a record: beats of K (= of V), K-words; see ``command_layout``. They stand while a record is in here.
    o : Out(stream of word_layout)
        The merged record, one packet. Nothing for a candidate that is dropped.

    Latency (a dictionary): ``fixed`` cycles from the last beat of the record kept, or ``ahead`` cycles after the command if that is
    later, to the first beat of ``o``, and ``word`` for each K-word. Interval: ``ahead`` and that, and again about half as long for V;
    the next candidates come meanwhile, a beat per cycle and a cycle between two records. Bad input: exponents wrap at 16 bits; no
    legal model comes near.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        if config.kv_bits != 8:
            raise ValueError(f"kv_bits must be 8, not {config.kv_bits}")
        self.config = config
        ahead = ScalarUnit.latency["reciprocal"] + ScalarUnit.latency["multiply"]
        behind = 2 * ScalarUnit.latency["reciprocal"] + 5 * ScalarUnit.latency["multiply"]
        self.latency = {"ahead": ahead + 9, "fixed": behind + 64, "word": 3}
        super().__init__({
            "i_kind": In(stream.Signature(data.StructLayout({"kept": 1}))),
            "i": In(stream.Signature(config.bus_bits)),
            "i_command": In(stream.Signature(merge_command())),
            "beats": In(16), "words": In(16),
            "o": Out(stream.Signature(word_layout(config.bus_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RecordMerge":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.splitter = splitter = RowSplitter(config)
        m.submodules.packer = packer = RecordPacker(config)
        m.submodules.normalizer = normalizer = Normalizer(POSITION_BITS + LEVEL_BITS)
        m.submodules.unit = unit = ScalarUnit()
        connect(m, packer.o, wiring.flipped(self.o))
        kept, value = Signal(), Signal()  # which record comes; which vector is at hand
        into, first, merged = (Signal(range(BANKS), name=name) for name in ("into", "first", "merged"))  # banks of candidates
        starts, quantizes, settled = Signal(), Signal(), Signal()
        factors = [Signal(FACTOR_BITS, name=name) for name in ("candidate_factor", "kept_factor")]
        multiplier, shift = Signal(LEVEL_BITS + 24 - RECIPROCAL_DROP), Signal(5)
        ends, peak = self._words(m, splitter, packer, kept, into, merged, value, starts, quantizes, factors, multiplier, shift, settled)

        headers = [Signal(HEADER, name=name) for name in ("candidate_header", "kept_header")]
        m.submodules.waiting = waiting = memory.Memory(shape=HEADER, depth=BANKS, init=[])  # of candidates
        put, get = waiting.write_port(), waiting.read_port(domain="comb")
        m.d.comb += [
            splitter.i.valid.eq(self.i.valid), splitter.i.p.eq(self.i.p), self.i.ready.eq(splitter.i.ready),
            splitter.i_command.p.rows.eq(1), splitter.i_command.p.beats.eq(self.beats), splitter.i_command.p.words.eq(self.words),
            splitter.o_header.ready.eq(1),
        ]
        if config.attention_runs:
            m.d.comb += [splitter.i_command.p.begins.eq(1), splitter.i_command.p.ends.eq(1)]
        m.d.comb += [put.addr.eq(into), put.data.eq(splitter.o_header.p), put.en.eq(splitter.o_header.valid & ~kept),
                     get.addr.eq(first)]
        with m.If(splitter.o_header.valid & kept):
            m.d.sync += headers[1].eq(splitter.o_header.p)

        # Numbers and what is made of them.
        command, step = Signal(merge_command()), Signal(Step)
        both, total = Signal(POSITION_BITS), Signal(POSITION_BITS + LEVEL_BITS)
        exponent = Signal(signed(16))
        number, inverse = Signal(SCALAR), Signal(SCALAR)
        parts = [Signal(SCALAR, name=name) for name in ("candidate_part", "kept_part")]
        distances = [Signal(5, name=name) for name in ("candidate_distance", "kept_distance")]
        scales = [Mux(value, header.value.as_value(), header.key.as_value()) for header in headers]
        a, b, op = unit.i.p.a, unit.i.p.b, unit.i.p.op
        m.d.comb += [a.eq(number), op.eq(ScalarOp.MULTIPLY), normalizer.o.ready.eq(1)]
        with m.Switch(step):
            with m.Case(Step.TOTAL):
                m.d.comb += [normalizer.i.p.value.eq(total), op.eq(ScalarOp.RECIPROCAL)]
            for case, tokens, scale in ((Step.KEPT, command.kept, scales[1]), (Step.CANDIDATE, command.candidate, scales[0])):
                with m.Case(case):
                    m.d.comb += [
                        normalizer.i.p.value.eq(tokens), b.mantissa.eq(scale[:16] << STORED_EXPONENT_OFFSET),
                        b.exponent.eq(scale[16:].as_signed() - STORED_EXPONENT_OFFSET),
                    ]
            with m.Case(Step.PEAK):
                m.d.comb += [normalizer.i.p.value.eq(peak), op.eq(ScalarOp.RECIPROCAL)]
            with m.Case(Step.SCALE):
                m.d.comb += [b.eq(inverse), a.exponent.eq(number.exponent + exponent + (24 - FACTOR_BITS))]
        result = unit.o.p
        m.d.comb += packer.i_scale.p.scale.eq(result)
        m.d.sync += total.eq((both << LEVEL_BITS) - both)

        # Records come: the next candidates while two others are merged.
        idle, comes, whole = Signal(), Signal(), Signal()  # nothing is merged; the record kept is not there yet; a candidate is
        takes = self.i_command.valid & self.i_command.ready
        m.d.comb += [whole.eq(into != first), self.i_command.ready.eq(idle & whole)]
        with m.FSM(name="intake"):
            with m.State("RECORD"):
                awaited = Mux(self.i_kind.p.kept, comes, (into - first)[:len(into)] != BANKS - 1)
                m.d.comb += [splitter.i_command.valid.eq(self.i_kind.valid & awaited),
                             self.i_kind.ready.eq(splitter.i_command.ready & awaited)]
                m.d.sync += kept.eq(self.i_kind.p.kept)
                with m.If(self.i_kind.valid & self.i_kind.ready):
                    m.next = "BEATS"
            with m.State("BEATS"):
                with m.If(ends):
                    m.d.sync += into.eq(into + ~kept)
                    m.next = "RECORD"
                    with m.If(kept):
                        m.d.sync += comes.eq(0)
        with m.If(takes):
            m.d.sync += [first.eq(first + 1), comes.eq(self.i_command.p.merges)]
        with m.FSM(name="merging"):
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                m.d.sync += [command.eq(self.i_command.p), both.eq(self.i_command.p.kept + self.i_command.p.candidate),
                             headers[0].eq(get.data), merged.eq(first), value.eq(0), step.eq(Step.TOTAL)]
                with m.If(takes & self.i_command.p.merges):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.next = "NORMALIZE"
            with m.State("NORMALIZE"):
                m.d.comb += normalizer.i.valid.eq(1)  # it is empty
                m.next = "NORMALIZED"
                with m.If(comes & (step == Step.KEPT)):
                    m.d.comb += normalizer.i.valid.eq(0)
                    m.next = "NORMALIZE"
            with m.State("NORMALIZED"):
                m.d.sync += [number.mantissa.eq(normalizer.o.p.value[-24:]), number.exponent.eq(normalizer.o.p.length - 24)]
                with m.If(normalizer.o.valid):
                    m.next = "OPERATION"
            with m.State("OPERATION"):
                m.d.comb += unit.i.valid.eq(1)
                with m.If(unit.i.ready):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [packer.i_scale.valid.eq(unit.o.valid & (step == Step.SCALE)),
                             unit.o.ready.eq(packer.i_scale.ready | (step != Step.SCALE))]
                with m.If(unit.o.valid & unit.o.ready):
                    m.d.sync += step.eq(step + 1)
                    m.next = "NORMALIZE"
                    with m.Switch(step):
                        with m.Case(Step.TOTAL):
                            m.d.sync += inverse.eq(result)
                        with m.Case(Step.CANDIDATE):
                            m.d.sync += parts[0].eq(result)
                        with m.Case(Step.KEPT):
                            m.d.sync += parts[1].eq(result)
                            m.next = "EXPONENT"
                        with m.Case(Step.PEAK):
                            m.d.sync += [
                                multiplier.eq(((result.mantissa << LEVEL_BITS) - result.mantissa) >> RECIPROCAL_DROP),
                                shift.eq(QUANTIZE_SHIFT + RECIPROCAL_DROP + result.exponent),
                            ]
                            m.next = "OPERATION"
                        with m.Case(Step.SCALE):
                            m.next = "QUANTIZE"
            with m.State("EXPONENT"):
                keeps = (parts[0].mantissa == 0) | ((parts[1].mantissa != 0) & (parts[1].exponent > parts[0].exponent))
                m.d.sync += exponent.eq(Mux(keeps, parts[1].exponent, parts[0].exponent))
                m.next = "DISTANCES"
            with m.State("DISTANCES"):
                for distance, part in zip(distances, parts, strict=True):
                    away = exponent - part.exponent
                    m.d.sync += distance.eq(Mux(away > FACTOR_BITS, FACTOR_BITS, away))
                m.next = "FACTORS"
            with m.State("FACTORS"):
                m.d.comb += starts.eq(1)
                m.d.sync += [factor.eq(part.mantissa[24 - FACTOR_BITS:] >> distance)
                             for factor, part, distance in zip(factors, parts, distances, strict=True)]
                m.next = "PEAK"
            with m.State("PEAK"):
                with m.If(settled):
                    m.next = "NORMALIZE"
            with m.State("QUANTIZE"):
                m.d.comb += [starts.eq(1), quantizes.eq(1)]
                m.next = "QUANTIZED"
            with m.State("QUANTIZED"):
                m.d.comb += quantizes.eq(1)
                with m.If(settled):
                    m.d.sync += [value.eq(1), step.eq(Step.CANDIDATE)]
                    m.next = "NORMALIZE"
                    with m.If(value):
                        m.next = "IDLE"
        return m

    def _words(self, m: Module, splitter: RowSplitter, packer: RecordPacker, kept: Signal, into: Signal, merged: Signal,
               value: Signal, starts: Signal, quantizes: Signal, factors, multiplier: Signal, shift: Signal, settled: Signal):
        """Elements of both records, and passes over those of the vector at hand: ``starts`` begins one, ``settled`` ends it. A
        candidate goes to bank ``into``, the one that is merged is in ``merged``. Returns whether a record's last beat comes, and the
        largest magnitude of the sums."""
        config, pipeline = self.config, Pipeline(m)
        register = pipeline.register
        depth, parts = 2 * max_beats(config), config.kv_lanes // config.vector_lanes
        beat, address = Signal(range(depth)), Signal(range(depth))
        keys, values = splitter.o_keys, splitter.o_values
        comes, ends = keys.valid | values.valid, Signal()
        m.d.comb += [keys.ready.eq(1), values.ready.eq(1), ends.eq(comes & (beat == (self.beats << 1) - 1))]
        with m.If(comes):
            m.d.sync += beat.eq(Mux(ends, 0, beat + 1))

        word, running, final, issues = Signal(16), Signal(), Signal(), Signal()
        m.submodules.results = results = CreditQueue(packer.i.p.shape(), QUANTIZE_STAGES + ROUND_TRIP)
        connect(m, results.o, packer.i)
        part = word[:parts.bit_length() - 1] if parts > 1 else Const(0, 1)
        m.d.comb += [issues.eq(running & (results.credit | ~quantizes)), final.eq(word == self.words - 1)]
        with m.If(issues):
            m.d.sync += [word.eq(word + 1), address.eq(address + (part == parts - 1)), running.eq(~final)]
        with m.If(starts):
            m.d.sync += [running.eq(1), word.eq(0), address.eq(Mux(value, self.beats, 0))]

        sides = []
        chosen_part = register(part)
        for number, name in enumerate(("candidate", "kept")):
            banks = 1 if number else BANKS
            m.submodules[name] = records = memory.Memory(shape=config.kv_beat_bits, depth=banks << len(beat), init=[])
            write, read = records.write_port(), records.read_port()
            m.d.comb += [write.addr.eq(Cat(beat, into)[:len(write.addr)]), read.addr.eq(Cat(address, merged)[:len(read.addr)]),
                         write.data.eq(keys.p), write.en.eq(comes & (kept == number))]
            chosen = read.data.word_select(chosen_part, config.vector_lanes * config.kv_bits) if parts > 1 else read.data
            sides.append(data.View(data.ArrayLayout(signed(8), config.vector_lanes), register(chosen)))
        sums = []
        for elements in zip(*sides, strict=True):
            products = [register(factor * element) for factor, element in zip(factors, elements, strict=True)]
            sums.append(register(products[0] + products[1]))

        largest, levels = maximum(pipeline, [register(magnitude(x)) for x in sums])
        peak = Signal(len(largest))
        under_way = [issues]
        for _ in range(max(SUM_STAGES + 1 + levels, QUANTIZE_STAGES)):
            under_way.append(register(under_way[-1], reset=True))
        with m.If(under_way[SUM_STAGES + 1 + levels] & ~quantizes & (largest > peak)):
            m.d.sync += peak.eq(largest)
        with m.If(starts & ~quantizes):
            m.d.sync += peak.eq(0)
        m.d.sync += settled.eq(~starts & ~running & ~Cat(under_way).any())

        m.d.comb += [
            results.spend.eq(issues & quantizes), results.i.valid.eq(register(issues & quantizes, QUANTIZE_STAGES, reset=True)),
            results.i.p.last.eq(register(final, QUANTIZE_STAGES)),
        ]
        for x, q in zip(sums, results.i.p.q, strict=True):
            wide = Signal(signed(len(x) + 1))
            m.d.comb += wide.eq(x)
            moved = left_justify(pipeline, wide.as_unsigned(), shift, len(wide), moving=False).as_signed()
            product = pipeline.multiply(moved, multiplier)
            m.d.comb += q.eq(register(((product + (1 << QUANTIZE_SHIFT - 1)) >> QUANTIZE_SHIFT)[:8].as_signed()))
        return ends, peak
