"""How the sums of a finished operation leave the value mix."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring

__all__ = ["AHEAD", "drain_sums"]

AHEAD = 2
"""Cycles from reading a V beat and its weights until the accumulators are read: the product takes them."""


def drain_sums(m: Module, mix: wiring.Component, command, bank: Signal, start: Signal, draining: Signal, issue: Signal,
           address, read_sums) -> None:
    """Reads the sums of a finished operation, lane after lane: a beat of all lanes at a time, of which the V-words of
    one lane leave."""
    config = mix.config
    lanes, parts = config.mix_lanes, config.kv_lanes // config.vector_lanes
    lane, position = Signal(range(config.query_lanes + 1)), Signal(range(max(lanes, 2)))
    part, left, last_word = Signal(range(max(parts, 2))), Signal(16), Signal()  # words left behind this one
    held = Signal.like(read_sums, reset_less=True)
    wait = Signal(range(AHEAD + 1))  # until the sums come that are read
    last_number, last_lane = Signal.like(left), Signal.like(lane)
    free = mix.o.ready | ~mix.o.valid
    with m.If(mix.o.ready):
        m.d.sync += mix.o.valid.eq(0)
    with m.FSM(name="drain"):
        with m.State("IDLE"):
            with m.If(start):
                m.d.sync += [last_number.eq(command.words - 1), last_lane.eq(command.lanes - 1),
                             draining.eq(1), lane.eq(0), position.eq(0),
                             address.beat.eq(0), address.second.eq(0), address.bank.eq(bank)]
                m.next = "FLUSH"
        with m.State("FLUSH"):  # HAZARD + 1 cycles from the last row to the first read
            m.d.sync += [left.eq(last_number), last_word.eq(last_number == 0)]
            m.next = "READ"
        with m.State("READ"):
            m.d.comb += issue.eq(1)
            m.d.sync += wait.eq(AHEAD)
            m.next = "HOLD"
        with m.State("HOLD"):
            m.d.sync += [wait.eq(wait - 1), held.eq(read_sums), part.eq(0)]
            with m.If(wait == 0):
                m.next = "WORDS"
        with m.State("WORDS"):
            with m.If(free):
                m.d.sync += [mix.o.valid.eq(1), mix.o.p.last.eq(last_word), part.eq(part + 1), left.eq(left - 1),
                             last_word.eq(left == 1)]
                with m.If(part == parts - 1):
                    m.d.sync += address.beat.eq(address.beat + 1)
                    m.next = "READ"
                with m.If(last_word):
                    m.d.sync += [left.eq(last_number), last_word.eq(last_number == 0), address.beat.eq(0), lane.eq(lane + 1),
                                 position.eq(position + 1)]
                    with m.If(position == lanes - 1):
                        m.d.sync += [position.eq(0), address.second.eq(1)]
                    m.next = "READ"
                    with m.If(lane == last_lane):
                        m.d.sync += draining.eq(0)
                        m.next = "IDLE"
    choice = Signal(mix.o.p.sums.shape())
    with m.Switch(Cat(part, position)):
        for k in range(lanes):
            for p in range(parts):
                with m.Case(p | k << len(part)):
                    m.d.comb += [choice[v].eq(held[k][p * config.vector_lanes + v])
                                 for v in range(config.vector_lanes)]
    with m.If(free):
        m.d.sync += mix.o.p.sums.eq(choice)
