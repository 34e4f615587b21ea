"""Scores of the rows of a KV cache with a budget: which row goes next."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import POSITION_BITS, AcceleratorConfig
from ..pipeline import Pipeline

__all__ = ["WEIGHT_FRACTION", "EvictScores", "ScoreCommand", "attention_weight_bits", "attention_weight_layout", "evict_slots",
           "score_command", "score_result"]

WEIGHT_FRACTION = 16
"""Fraction bits of an attention weight."""

GLOBAL_BITS = 32

DECAY, EMPHASIS = 4, 4


class ScoreCommand(IntEnum):
    """What is asked of the scores of ``head``."""

    UPDATE = 0
    """A packet of attention weights, row after row from row 0 on, adds to its scores; and VICTIM, as they are then."""
    VICTIM = 1
    """Which of its first ``rows`` rows has the smallest score, of those at positions from ``sinks`` to ``position - 1``?"""
    MERGE = 2
    """Row ``source`` is added to row ``slot``."""
    PLACE = 3
    """Row ``slot`` is that of a new token, the one at ``position``."""


def attention_weight_bits(config: AcceleratorConfig) -> int:
    """Width of the weight that the lanes of a group give a row together: ``query_lanes`` times 1 at most, but for rounding."""
    return WEIGHT_FRACTION + config.query_lanes.bit_length()


def attention_weight_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Weight of a row; ``last`` on the last one of an attention."""
    return data.StructLayout({"weight": attention_weight_bits(config), "last": 1})


def evict_slots(config: AcceleratorConfig) -> int:
    """Rows of a head that the units have room for by default."""
    return config.max_budget


def score_command(heads: int, slots: int) -> data.StructLayout:
    """``{command: ScoreCommand, head, slot, source, rows, position}``."""
    return data.StructLayout({"command": 2, "head": range(heads), "slot": range(slots), "source": range(slots),
                              "rows": range(slots + 1), "position": POSITION_BITS})


def score_result(slots: int, score_bits: int) -> data.StructLayout:
    """``{slot, tokens, score, found}``."""
    return data.StructLayout({"slot": range(slots), "tokens": POSITION_BITS, "score": score_bits, "found": 1})


class EvictScores(wiring.Component):
    """What an evict + merge cache knows of each row of each head beside its record (EMS, arXiv:2412.08521): a global and a local
    score, the position of its token, and how many tokens it stands for.

    With the attention weight w of a row, ``WEIGHT_FRACTION`` fraction bits (golden model: ``sim/golden/evict.py: Scores``)::

        global = min(global + w, 2**32 - 1)         everything since the token came (H2O, arXiv:2306.14048)
        local  = local - (local >> decay) + w       the last 2**decay attentions, roughly; below 2**(weight_bits + decay)
        score  = global + (local << emphasis)

        i_weights -> w -----------------------.
        rows, one per cycle -> entry (memory) -+-> scores --> entry
                                              '-> score, smallest --> o

    Parameters
    ----------
    heads : int
        2 to 256.
    slots : int
        Rows of a head, a power of two, 4 to 4096.
    weight_bits : int
        Width of an attention weight, 16 to 24.
    decay, emphasis : int
        1 to 8, 0 to 8.

    Members
    -------
    i_command : In(stream of score_command)
        One after another. ``MERGE`` saturates the scores; position stays that of ``slot``; ``tokens`` wrap at 2**20, which more tokens
        than positions would need. ``PLACE`` gives scores 0 and one token.
    i_weights : In(stream of {weight: weight_bits, last})
        A packet for each ``UPDATE``; what is beyond ``slots`` rows is dropped, rows without a weight stay as they are.
    o : Out(stream of score_result)
        For each ``VICTIM`` and ``UPDATE`` (``slot`` of the smallest score, of equal ones the first; ``found`` is 0 if no row may go, or
        one of the ``rows`` rows had no weight, and the rest does not matter) and ``MERGE`` (``slot`` before anything was added to it):
        its tokens and its score.
    sinks : In(20)
        First position that may go.

    Entries are not cleared by a reset: a row counts from its first ``PLACE`` on.

    Latency (a dictionary): ``victim`` from the command to ``o`` among ``slots`` rows, a cycle less for each row less; ``merge``;
    ``update`` from the last weight. Interval: 1 cycle more; 1 cycle per weight, 2 cycles for a ``PLACE``.
    """

    interval = None

    def __init__(self, heads: int, slots: int, weight_bits: int, decay: int = DECAY, emphasis: int = EMPHASIS):
        check_int("heads", heads, 2, 256)
        check_int("slots", slots, 4, 4096, power_of_two=True)
        check_int("weight_bits", weight_bits, 16, 24)
        check_int("decay", decay, 1, 8)
        check_int("emphasis", emphasis, 0, 8)
        self.heads, self.slots, self.weight_bits, self.decay, self.emphasis = heads, slots, weight_bits, decay, emphasis
        self.local_bits = weight_bits + decay
        self.score_bits = max(GLOBAL_BITS, self.local_bits + emphasis) + 1
        self.latency = {"victim": slots + 5, "merge": 6, "update": 5}
        super().__init__({
            "i_command": In(stream.Signature(score_command(heads, slots))),
            "i_weights": In(stream.Signature(data.StructLayout({"weight": weight_bits, "last": 1}))),
            "o": Out(stream.Signature(score_result(slots, self.score_bits))),
            "sinks": In(POSITION_BITS),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "EvictScores":
        """Of ``max_heads`` heads, a quarter of the context each."""
        return cls(config.max_heads, evict_slots(config), attention_weight_bits(config))

    def elaborate(self, platform):
        m = Module()
        shape = data.StructLayout({"global_score": GLOBAL_BITS, "local_score": self.local_bits, "position": POSITION_BITS,
                                   "tokens": POSITION_BITS})
        m.submodules.entries = entries = memory.Memory(shape=shape, depth=self.heads * self.slots, init=[])
        read, write = entries.read_port(), entries.write_port()
        register = Pipeline(m).register
        command, slot = Signal.like(self.i_command.p), Signal(range(self.slots + 1))
        updates, scans, merges, places = Signal(), Signal(), Signal(), Signal()
        settles, covers = Signal(2), Signal()  # whether each row that may go was looked at
        self._settles = settles  # for the proof of ``o``
        m.d.comb += read.addr.eq(Cat(slot[:-1], command.head))

        # An entry, two registers behind its address; then what it becomes; then the score of that.
        weight, where = register(Mux(updates, self.i_weights.p.weight, 0), 2), register(slot[:-1], 2)
        entry, before = Signal(shape), Signal(shape)
        m.d.sync += [entry.eq(read.data), before.eq(entry)]
        changes, adds, counts = (register(flag, 2, reset=True) for flag in (updates, merges, scans))
        becomes = Signal(shape)
        base = data.View(shape, Mux(adds, before.as_value(), entry.as_value()))
        overall = Signal(GLOBAL_BITS + 1)
        local = Signal(self.local_bits + 1)
        m.d.comb += [
            overall.eq(base.global_score + Mux(adds, entry.global_score, weight)),
            local.eq(base.local_score + Mux(adds, entry.local_score, weight - Mux(changes, entry.local_score >> self.decay, 0))),
        ]
        m.d.sync += [
            becomes.global_score.eq(Mux(overall[-1], Const(-1, GLOBAL_BITS), overall[:-1])),
            becomes.local_score.eq(Mux(local[-1], Const(-1, self.local_bits), local[:-1])),
            becomes.position.eq(base.position), becomes.tokens.eq(base.tokens + Mux(adds, entry.tokens, 0)),
        ]
        m.d.comb += [
            write.addr.eq(Cat(Mux(places | register(adds, reset=True), command.slot, register(where)), command.head)),
            write.en.eq(register(changes | adds, reset=True) | places),
            write.data.eq(becomes),
        ]
        with m.If(places):
            m.d.comb += write.data.eq(Cat(Const(0, GLOBAL_BITS + self.local_bits), command.position, Const(1, POSITION_BITS)))

        # MERGE asks for that of the entry before the one that it adds.
        score, tokens, number = Signal(self.score_bits), Signal(POSITION_BITS), register(where, 2)
        late = register(counts & (entry.position >= self.sinks) & (entry.position < command.position), 2, reset=True)
        m.d.sync += [score.eq(becomes.global_score + (becomes.local_score << self.emphasis)), tokens.eq(becomes.tokens)]
        result = self.o.p
        with m.If((late & (~result.found | (score < result.score))) | register(adds, reset=True)):
            m.d.sync += [result.slot.eq(number), result.tokens.eq(tokens), result.score.eq(score), result.found.eq(1)]

        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [command.eq(self.i_command.p), slot.eq(0), settles.eq(2), covers.eq(1)]
                with m.If(self.i_command.valid):
                    m.d.sync += result.found.eq(0)
                    with m.Switch(self.i_command.p.command):
                        with m.Case(ScoreCommand.UPDATE):
                            m.d.sync += [settles.eq(3), covers.eq(0)]
                            m.next = "UPDATE"
                        with m.Case(ScoreCommand.VICTIM):
                            m.next = "VICTIM"
                        with m.Case(ScoreCommand.MERGE):
                            m.d.sync += slot.eq(self.i_command.p.slot)
                            m.next = "MERGE"
                        with m.Case(ScoreCommand.PLACE):
                            m.next = "PLACE"
            with m.State("UPDATE"):
                m.d.comb += [self.i_weights.ready.eq(1), updates.eq(self.i_weights.valid & ~slot[-1]),
                             scans.eq(updates & (slot < command.rows))]
                m.d.sync += slot.eq(slot + updates)
                with m.If(scans & (slot + 1 == command.rows)):
                    m.d.sync += covers.eq(1)
                with m.If(self.i_weights.valid & self.i_weights.p.last):
                    m.next = "WAIT"
            with m.State("VICTIM"):
                m.d.comb += scans.eq(slot != command.rows)
                m.d.sync += slot.eq(slot + 1)
                with m.If(~scans):
                    m.next = "WAIT"
            with m.State("MERGE"):
                m.d.sync += slot.eq(command.source)
                m.next = "SOURCE"
            with m.State("SOURCE"):
                m.d.comb += merges.eq(1)
                m.next = "WAIT"
            with m.State("PLACE"):
                m.d.comb += places.eq(1)
                m.next = "COMMAND"
            with m.State("WAIT"):
                m.d.sync += settles.eq(settles - 1)
                with m.If(settles == 0):
                    with m.If(~covers):
                        m.d.sync += result.found.eq(0)
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "COMMAND"
        return m
