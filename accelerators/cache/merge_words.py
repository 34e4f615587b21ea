"""Elements of two records that are merged, word by word, twice: for the largest sum, and to be quantized."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory

from ..attention.formats import max_beats
from ..config import AcceleratorConfig
from ..numerics.pipelined import left_justify, magnitude, maximum
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .merge_numbers import QUANTIZE_SHIFT, MergeNumbers

__all__ = ["CANDIDATES", "KEPT", "MergeWords"]

CANDIDATES, KEPT = 4, 2
"""Records that there is room for, powers of two."""

SUM_STAGES = 5
"""Registers from the address of a word to its sums: beat (2: block memory is slow to give its data), elements, products, sums."""

QUANTIZE_STAGES = SUM_STAGES + 5
"""Registers to its quantized elements: shift (2), product (2), rounding more."""


class MergeWords:
    """Memory of records, and what is made of the elements of two: a word per cycle, key, value, key, value.

    ::

        beats --> records --> elements --> factor * element --> sums --.-> magnitude -> largest of a word -> peak     (first time)
                                                                       '-> shift -> * multiplier -> rounding -> words (second time)

    The second time a vector waits for its multiplier.

    Parameters
    ----------
    m : Module
        That of the component.
    config : AcceleratorConfig
    beats, words : Signal
        Of a vector.
    numbers : MergeNumbers
        Gives factors, multipliers and shifts; takes peaks.
    packed : stream of {q, last}
        Takes quantized words.

    Members
    -------
    writes : list of write ports
        Of candidates and of records kept; address: beat, K's first, and bank above it.
    begins : Signal
        Driven, if ``idle``: two records are merged.
    banks : list of Signal
        Driven: of the candidate and the record kept, from the cycle behind ``begins`` until ``idle``.
    idle : Signal
        Their elements have been read, their factors have been used.
    """

    def __init__(self, m: Module, config: AcceleratorConfig, beats: Value, words: Value, numbers: MergeNumbers, packed):
        self.begins, self.idle, self.banks = Signal(), Signal(init=1), [Signal(range(CANDIDATES)), Signal(range(KEPT))]
        self._m, self._config, self._numbers, self._register = m, config, numbers, Pipeline(m).register
        register = self._register
        m.submodules.results = results = CreditQueue(packed.p.shape(), QUANTIZE_STAGES + ROUND_TRIP)
        connect(m, results.o, packed)

        # Which word is read: of key, of value, and of both again.
        parts = config.kv_lanes // config.vector_lanes
        word, top, address = Signal(16), Signal(16), Signal(range(2 * max_beats(config)))
        running, again, value = Signal(), Signal(), Signal()
        part = word[:parts.bit_length() - 1] if parts > 1 else Const(0, 1)
        issues, final = Signal(), word == top
        m.d.comb += issues.eq(running & (~again | (results.credit & Mux(value, numbers.ready[1], numbers.ready[0]))))
        m.d.sync += top.eq(words - 1)
        with m.If(self.begins):
            m.d.sync += [running.eq(1), self.idle.eq(0)]
        with m.If(issues):
            m.d.sync += [word.eq(word + 1), address.eq(address + (part == parts - 1))]
            with m.If(final):
                m.d.sync += [word.eq(0), address.eq(Mux(value, 0, beats)), value.eq(~value), again.eq(again ^ value),
                             running.eq(~(again & value))]
        with m.If(register(issues & final & again & value, SUM_STAGES, reset=True)):
            m.d.sync += self.idle.eq(1)

        sums = self._sums(address, register(part, 2), register(value, 2))
        first_time = [register(issues & ~again & flag, SUM_STAGES + 1, reset=True) for flag in (1, word == 0, final)]
        self._largest(sums, first_time, register(value, SUM_STAGES + 1))
        m.d.comb += [
            results.spend.eq(issues & again), results.i.valid.eq(register(issues & again, QUANTIZE_STAGES, reset=True)),
            results.i.p.last.eq(register(final, QUANTIZE_STAGES)),
        ]
        self._quantize(sums, register(value, SUM_STAGES - 1), results.i.p.q)

    def _sums(self, address: Signal, part: Signal, value: Signal) -> list[Signal]:
        """Of the word at ``address``; ``part`` of its beat and ``value`` two cycles later."""
        m, config, register = self._m, self._config, self._register
        self.writes, sides, factors = [], [], []
        for number, (name, records) in enumerate((("candidate", CANDIDATES), ("kept", KEPT))):
            m.submodules[name] = bank = memory.Memory(shape=config.kv_beat_bits, depth=records << len(address), init=[])
            read, write = bank.read_port(), bank.write_port()
            self.writes.append(write)
            # Another bank is written: so Yosys sees that too, and adds no bypass.
            m.d.comb += [read.addr.eq(Cat(address, self.banks[number])),
                         read.en.eq(~write.en | (write.addr[len(address):] != self.banks[number]))]
            width = config.vector_lanes * config.kv_bits
            beat = register(read.data)
            chosen = beat.word_select(part, width) if config.kv_beat_bits > width else beat
            sides.append(data.View(data.ArrayLayout(signed(8), config.vector_lanes), register(chosen)))
            factors.append(register(Mux(value, *(factor[number] for factor in reversed(self._numbers.factors)))))
        products = [[register(factor * element) for factor, element in zip(factors, elements, strict=True)]
                    for elements in zip(*sides, strict=True)]
        return [register(a + b) for a, b in products]

    def _largest(self, sums: list[Signal], flags: list[Signal], value: Signal) -> None:
        """Of a vector. ``flags``: a word of it, the first one, the last one; they are a cycle behind the sums."""
        m, register, numbers = self._m, self._register, self._numbers
        counts, begins, ends = flags
        largest, levels = maximum(Pipeline(m), [register(magnitude(x)) for x in sums])
        peak = Signal(len(largest))
        with m.If(register(counts, levels, reset=True) & (register(begins, levels) | (largest > peak))):
            m.d.sync += peak.eq(largest)
        m.d.comb += [numbers.peak.eq(peak), numbers.peak_ends.eq(register(ends, levels + 1, reset=True)),
                     numbers.value.eq(register(value, levels + 1))]

    def _quantize(self, sums: list[Signal], value: Signal, elements) -> None:
        """Elements of the sums; ``value`` is a cycle before these."""
        pipeline, register, numbers = Pipeline(self._m), self._register, self._numbers
        shift = register(Mux(value, *reversed(numbers.shifts)))
        multiplier = register(Mux(register(value, 2), *reversed(numbers.multipliers)))
        for x, q in zip(sums, elements, strict=True):
            wide = Signal(signed(len(x) + 1))
            self._m.d.comb += wide.eq(x)
            moved = left_justify(pipeline, wide.as_unsigned(), shift, len(wide)).as_signed()
            product = pipeline.multiply(moved, multiplier)
            self._m.d.comb += q.eq(register(((product + (1 << QUANTIZE_SHIFT - 1)) >> QUANTIZE_SHIFT)[:8].as_signed()))
