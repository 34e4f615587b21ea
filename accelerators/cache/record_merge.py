"""Merges two K/V records into one."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import HEADER, max_beats
from ..attention.rows import RowSplitter
from ..config import AcceleratorConfig
from ..streams import connect, word_layout
from .append import RecordPacker
from .merge_numbers import MergeNumbers, merge_command
from .merge_words import CANDIDATES, MergeWords

__all__ = ["RecordMerge", "merge_command"]


class RecordMerge(wiring.Component):
    """Mean of two K/V records, weighted by the tokens that they stand for, quantized to int8 again (EMS, arXiv:2412.08521),
    from where ``RecordPacker`` rounds it as any record if these are of 4-bit elements.

    For key and value, with scales s and tokens t of both records a and b, in pseudo-floats, all truncated (golden model:
    ``sim/golden/evict.py: merged_vector``)::

        w = t * s                              f = upper 16 bits of w's mantissa, the smaller one moved to e, the larger exponent
        x_j = f_a * a_j + f_b * b_j            P = max |x_j|
        q_j = round_shift((x_j << 47 + r.exponent) * R, 33)       r = 1 / P,  R = 127 * r.mantissa >> 14
        scale = P * 2**(e + 8) * (1 / (127 * (t_a + t_b)))

        i -> RowSplitter -> headers --> MergeNumbers: f, R, scale
                         |                 ^---------------------.
                         '> elements --> MergeWords: x -.-> P ---'   (first time)
                                                        '-> x * R -> q -> RecordPacker -> o   (second time)

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits`` (8), ``kv_storage``, ``max_head_dim``, ``vector_lanes``, ``multiplier_bits``.

    Members
    -------
    i_kind : In(stream of {kept})
        Before each record of ``i``: a candidate, or the record kept that the oldest candidate without one is merged with. That comes
        before the fourth candidate behind its own.
    i : In(stream of bus_bits)
        Records. One that is kept waits until its candidate's command has been taken.
    i_command : In(stream of merge_command)
        One for each candidate, in order. Taken when its record is there, and no other merge is prepared.
    beats, words : In(16)
        Of a record: beats of K (= of V), K-words; see ``command_layout``. They stand while a record is in here.
    o : Out(stream of word_layout)
        The merged record, one packet. Nothing for a candidate that is dropped.

    Latency (a dictionary) to the first beat of ``o``: ``word`` cycles for each K-word, and the latest of ``command`` from the command,
    ``header`` from the header of the record kept, ``record`` from its last beat. Where headers can lie in a tail (``header_words``) the
    first beat follows the last word of K: that is later, by one more if K is a single beat that has it, and by one more for each word
    above ``31 + levels``, of a tree over ``vector_lanes``. Interval: ``between(words)``; a merge is prepared while the one before runs.
    Records of the next candidates come meanwhile, a beat per cycle and a cycle between two.

    Bad input: exponents wrap at 16 bits; no legal model comes near.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        if config.kv_bits != 8:
            raise ValueError(f"kv_bits must be 8, not {config.kv_bits}")
        self.config = config
        self._levels = (config.vector_lanes - 1).bit_length()
        more = self._levels + (19 if config.header_words else 0)
        self.latency = {"command": 53 + more, "header": 42 + more, "record": 28 + more, "word": 2}
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

    def passes(self, words: int) -> int:
        """Cycles from when a merge of so many K-words begins (``record`` before its first beat of ``o``, less ``word`` for each) to its
        last word: four passes, or the reciprocal of K's peak between them, or both."""
        return max(4 * words, 3 * words + 31 + self._levels, 2 * words + 47 + self._levels)

    def between(self, words: int) -> int:
        """Cycles from when a merge of so many K-words begins to when the next one can: the passes, or, of short vectors, the three
        reciprocals."""
        return max(words + 64 + self._levels, self.passes(words) + 6)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.splitter = splitter = RowSplitter(config)
        m.submodules.packer = packer = RecordPacker(config)
        connect(m, packer.o, wiring.flipped(self.o))
        m.d.comb += [
            splitter.i.valid.eq(self.i.valid), splitter.i.p.eq(self.i.p), self.i.ready.eq(splitter.i.ready),
            splitter.i_command.p.rows.eq(1), splitter.i_command.p.beats.eq(self.beats), splitter.i_command.p.words.eq(self.words),
            splitter.o_header.ready.eq(1), splitter.o_keys.ready.eq(1), splitter.o_values.ready.eq(1),
        ]
        if config.attention_runs:
            m.d.comb += [splitter.i_command.p.begins.eq(1), splitter.i_command.p.ends.eq(1)]

        # Banks of what comes, of what is prepared, of what is merged; waiting candidates are from ``first`` to ``into``.
        into, first, candidate, kept_bank = Signal(range(CANDIDATES)), Signal(range(CANDIDATES)), Signal(range(CANDIDATES)), Signal()
        prepares, comes, known, begins = Signal(), Signal(), Signal(), Signal()  # a merge; its record kept is not there, its header is
        headers = [Signal(HEADER, name=f"{name}_header") for name in ("candidate", "kept")]
        numbers = MergeNumbers(m, config, self.i_command.p, headers, packer.i_scale)
        words = MergeWords(m, config, self.beats, self.words, numbers, packer.i)

        # Records come: the next candidates while two others are merged.
        kept, beat, ends = Signal(), Signal(range(2 * max_beats(config))), Signal()
        keys, values = splitter.o_keys, splitter.o_values
        stores = keys.valid | values.valid
        m.d.comb += ends.eq(stores & (beat == (self.beats << 1) - 1))
        for number, (port, bank) in enumerate(zip(words.writes, (into, kept_bank), strict=True)):
            m.d.comb += [port.addr.eq(Cat(beat, bank)), port.data.eq(keys.p), port.en.eq(stores & (kept == number))]
        with m.If(stores):
            m.d.sync += beat.eq(Mux(ends, 0, beat + 1))
        free = ((into - first)[:len(into)] != CANDIDATES - 1) & (words.idle | (words.banks[0] != into))
        with m.FSM(name="intake"):
            with m.State("RECORD"):
                awaited = Mux(self.i_kind.p.kept, comes, free)
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

        m.submodules.waiting = waiting = memory.Memory(shape=HEADER, depth=CANDIDATES, init=[])  # headers of candidates
        put, get = waiting.write_port(), waiting.read_port(domain="comb")
        m.d.comb += [put.addr.eq(into), put.data.eq(splitter.o_header.p), put.en.eq(splitter.o_header.valid & ~kept),
                     get.addr.eq(first)]
        with m.If(splitter.o_header.valid & kept):
            m.d.sync += [headers[1].eq(splitter.o_header.p), known.eq(1)]

        # One merge is prepared while another one runs.
        m.d.comb += [
            self.i_command.ready.eq((into != first) & ~prepares),
            numbers.prepares.eq(self.i_command.valid & self.i_command.ready & self.i_command.p.merges), numbers.known.eq(known),
            begins.eq(prepares & ~comes & numbers.prepared & words.idle & numbers.scaled), numbers.begins.eq(begins),
            words.begins.eq(begins),
        ]
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [first.eq(first + 1), prepares.eq(self.i_command.p.merges), comes.eq(self.i_command.p.merges),
                         candidate.eq(first), headers[0].eq(get.data)]
        with m.If(begins):
            m.d.sync += [prepares.eq(0), known.eq(0), kept_bank.eq(~kept_bank), words.banks[0].eq(candidate),
                         words.banks[1].eq(kept_bank)]
        return m
