"""Value mix: V rows times their weights, summed over the rows."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..pipeline import Pipeline
from .drain import AHEAD, drain_sums
from .formats import (
    beat_numbers,
    command_layout,
    max_beats,
    mixed_layout,
    side_by_side,
    ways_of,
    weight_drops,
    weight_layout,
)

__all__ = ["HAZARD", "Mix"]

ROW_SLOTS = 16
"""Rows whose weights can wait for their turn."""

LARGE_STEP = 4
"""Accumulators move down by 0, 1 or this many bits per pass: with the addend, six inputs per bit, one lookup table. With
``row_cycles``, where there is no cycle to spare, by this many or none before a register and by 0, 1 or 2 behind it."""

HAZARD = 2
"""Cycles from reading accumulators until the new ones are written. They can be read again one later, in the same one if what is being
written is forwarded."""


def extra_passes(config: AcceleratorConfig, shift):
    """Passes that move accumulators down by ``shift`` bits (5 bits of an unsigned value), beyond the first."""
    if config.row_cycles:
        large, small = shift[2:], shift[1] + shift[0]
        steps = Mux(large > small, large, small)
    else:
        steps = (shift >> 2) + (shift & 3)
    return Mux(steps == 0, 0, steps - 1)[:4]


def forwards(config: AcceleratorConfig) -> bool:
    """Accumulators that are being written are forwarded to a read, so that rows may take 2 cycles."""
    return config.least_row_cycles == HAZARD


class Mix(wiring.Component):
    """Weighted sums of V rows for up to L lanes::

        i_values -> V buffer ----.
        i_weights -> row slots -- x --> + --> accumulators (2 banks) --> o, lane after lane
                        '-- shift ----> >> <--------'

    V rows wait in the buffer until their weights are there. Half of the lanes are served at once and each V
    row is read twice: K takes as many beats as V, so this still keeps up with the port and halves
    multipliers and adders. The sums of one operation leave while the rows of the next are added up in the
    other bank.

    Rescaling is rare, so its shifter is small: accumulators move down by 0, 1 or 4 bits per pass over a row, and a
    row whose lanes move by more takes more passes, of which the last one adds the row. Floors of shifts add up. With ``row_cycles``
    they move by up to 6 bits per pass, but not by 3.

    Parameters
    ----------
    config : AcceleratorConfig
        Multipliers: ``ceil(query_lanes / 2) * kv_lanes``. Accumulators are exact:
        ``probability_bits + kv_bits + bit_length(max_context)`` bits.

    Members
    -------
    i_command : In(stream of command_layout)
    i_weights : In(stream of weight_layout, of lanes side by side)
        Row after row, lanes 0 .. lanes - 1, ``last`` on the last lane. The first row's shifts do not matter.
    i_values : In(stream of kv_beat_bits)
        Beats of V, row after row, element 0 in the lowest bits; signed ``kv_bits`` each.
    o : Out(stream of mixed_layout)
        Sums: V-words of lane 0, then of lane 1 ...; ``last`` on the last word of a lane.

    A row takes ``turns * beats`` cycles, at least ``least_row_cycles``, 3 or 2; ``turns`` is 2 if more than half of the lanes are in
    use, else 1. A turn of which a lane moves by s bits (s < 32) takes ``max(1, s // 4 + s % 4)`` passes of ``beats``
    cycles, at least so many each; with ``row_cycles`` ``max(1, s // 4, (s % 4 + 1) // 2)`` passes. An operation takes 2 cycles more,
    and ``lanes * beats`` in which sums are read.
    Latency: 9 + ``turns * beats`` cycles from a last row's last weight to the first sum; the attribute is for all
    lanes and one beat.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 9 + (2 if config.query_lanes > 1 else 1)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_weights": In(stream.Signature(side_by_side(config, weight_layout(config)))),
            "i_values": In(stream.Signature(config.kv_beat_bits)),
            "o": Out(stream.Signature(mixed_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Mix":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, runs = config.mix_lanes, config.attention_runs
        command = Signal(command_layout(config), init={"beats": 1})
        beat, second, bank = Signal(beat_numbers(config)), Signal(), Signal()
        step = Signal(4)  # passes of the turn that are done
        rows_done = Signal(range(config.max_context))
        issue, row_done, drain_issue, hazard = Signal(), Signal(), Signal(), Signal()
        drain = Signal(data.StructLayout({"beat": beat.shape(), "second": 1, "bank": 1}))

        turn_done, last_turn = Signal(), Signal()
        weights, weights_there, last_step = self._weights(m, second, last_turn, turn_done, row_done)
        values, values_there = self._values(m, beat, command.beats, row_done)
        ready = Signal()
        m.d.sync += ready.eq(weights_there & values_there)

        # Sequence of one operation: rows, then over to the drain.
        beat_number, row_number = Signal.like(beat), Signal.like(rows_done)  # the last ones
        last_beat, last_pass, last_row = beat == beat_number, step == last_step, Signal()
        m.d.sync += last_row.eq(rows_done == row_number)  # a row takes longer than that
        m.d.comb += last_turn.eq(second | (command.lanes <= lanes) if config.query_lanes > 1 else 1)
        draining, drain_start = Signal(), Signal()
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [command.eq(self.i_command.p), bank.eq(bank ^ self.i_command.p.begins if runs else ~bank),
                                 rows_done.eq(0),
                                 beat_number.eq(self.i_command.p.beats - 1), row_number.eq(self.i_command.p.rows - 1),
                                 last_row.eq(self.i_command.p.rows == 1)]
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += [
                    issue.eq(ready & ~hazard & ~drain_issue),
                    turn_done.eq(issue & last_beat & last_pass),
                    row_done.eq(turn_done & last_turn),
                ]
                with m.If(issue):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(last_beat):
                        m.d.sync += [beat.eq(0), step.eq(step + 1)]
                        with m.If(last_pass):
                            m.d.sync += [step.eq(0), second.eq(~last_turn)]
                with m.If(row_done):
                    m.d.sync += rows_done.eq(rows_done + 1)
                    with m.If(last_row):
                        m.next = "HAND_OVER"
                        if runs:
                            with m.If(~command.ends):
                                m.next = "IDLE"
            with m.State("HAND_OVER"):
                with m.If(~draining):
                    m.d.comb += drain_start.eq(1)
                    m.next = "IDLE"

        # Multiply; meanwhile read and shift; add, write.
        width = config.accumulator_bits
        shape = data.ArrayLayout(data.ArrayLayout(signed(width), config.kv_lanes), lanes)
        m.submodules.sums = sums = memory.Memory(shape=shape, depth=4 << len(beat), init=[])
        if forwards(config):
            write = sums.write_port()
            read = sums.read_port(transparent_for=[write])
        else:
            read, write = sums.read_port(), sums.write_port()
        pipeline = Pipeline(m)
        register = pipeline.register
        writes, addresses = [issue], [Cat(beat, second, bank)]
        for _ in range(AHEAD + HAZARD):
            writes.append(register(writes[-1], reset=True))
            addresses.append(register(addresses[-1]))
        m.d.comb += [
            hazard.eq(Cat(w & (a == addresses[0])
                          for w, a in zip(writes[1:config.least_row_cycles], addresses[1:], strict=False)).any()),
            read.addr.eq(Mux(register(drain_issue, AHEAD, reset=True), register(drain.as_value(), AHEAD), addresses[AHEAD])),
            write.addr.eq(addresses[-1]),
            write.en.eq(writes[-1]),
        ]
        first = register((rows_done == 0) & command.begins if runs else rows_done == 0)
        adds, step = register(last_pass), register(step)
        value = register(values)
        drops = weight_drops(config)
        for k in range(lanes):
            weight = weights[k]
            clears = register(first | weight.shift[5], AHEAD)
            moves_far = register(step < weight.shift[2:5])
            if config.row_cycles:
                moves_far = register(moves_far)
                moves_two = register(weight.shift[1] & (step == 0), 1 + HAZARD)
                moves_near = register(weight.shift[0] & (step == weight.shift[1]), 1 + HAZARD)
            else:
                steps = weight.shift[2:5] + weight.shift[:2]
                moves_near = register((step < steps) & ~(step < weight.shift[2:5]))
                moves_far, moves_near = register(moves_far, HAZARD), register(moves_near, HAZARD)
            factor, coarse = register(Mux(adds, weight.factor, 0)), register(weight.coarse, 2)
            for j in range(config.kv_lanes):
                product = register(value[j] * factor)
                moved = [product.shift_left(drop) for drop in drops]
                term = register(Mux(coarse[-1], moved[-1], Mux(coarse[0], moved[1], product) if drops[1:] else product))
                if config.row_cycles:
                    before = read.data[k][j]
                    old = register(Mux(clears, 0, Mux(moves_far, before >> LARGE_STEP, before)).as_signed())
                    kept = Mux(moves_two, old >> 2, Mux(moves_near, old >> 1, old))
                else:
                    old = register(Mux(clears, 0, read.data[k][j]).as_signed())
                    kept = Mux(moves_far, old >> LARGE_STEP, Mux(moves_near, old >> 1, old))
                m.d.comb += write.data[k][j].eq(term + kept)

        drain_sums(m, self, command, bank, drain_start, draining, drain_issue, drain, read.data)
        return m

    def _weights(self, m: Module, second: Signal, last_turn: Signal, turn_done: Signal, row_done: Signal):
        """Row slots: weights of the turn at hand (one cycle later), whether the row's will be there in the next
        cycle, and the number of the turn's last pass (a register, read one turn ahead)."""
        lanes, ways = self.config.mix_lanes, self.config.softmax_ways
        items = ways_of(self.config, self.i_weights.p)
        slots = range(ROW_SLOTS)
        row_in, row_out, ready = Signal(slots), Signal(slots), Signal(range(ROW_SLOTS + 1))
        position, half = Signal(range(max(lanes // ways, 2))), Signal()  # of a group
        accepted = self.i_weights.valid & self.i_weights.ready
        completes = accepted & items[0].last
        m.d.comb += self.i_weights.ready.eq(ready != ROW_SLOTS)
        with m.If(accepted):
            m.d.sync += position.eq(position + 1)
            with m.If(position == lanes // ways - 1):
                m.d.sync += [position.eq(0), half.eq(1)]
        with m.If(completes):
            m.d.sync += [position.eq(0), half.eq(0), row_in.eq(row_in + 1)]
        m.d.sync += [row_out.eq(row_out + row_done), ready.eq(ready + completes - row_done)]
        ports = []
        for k in range(lanes):
            m.submodules[f"weights_{k}"] = slot = memory.Memory(shape=weight_layout(self.config),
                                                                depth=2 * ROW_SLOTS, init=[])
            read, write = slot.read_port(), slot.write_port()
            m.d.comb += [
                write.addr.eq(Cat(half, row_in)), write.data.eq(items[k % ways]),
                write.en.eq(accepted & (position == k // ways)),
                read.addr.eq(Cat(second, row_out)),
            ]
            ports.append(read.data)

        # The most passes of the lanes of a half.
        m.submodules.passes = most = memory.Memory(shape=4, depth=2 * ROW_SLOTS, init=[])
        read, ahead, write = most.read_port(domain="comb"), most.read_port(domain="comb"), most.write_port()
        first = items[0]
        so_far, shift = Signal(4), first.shift
        needs = [Mux(shift[5], 0, extra_passes(self.config, shift[:5]))]
        needs += [Mux(item.shift[5], 0, extra_passes(self.config, item.shift[:5])) for item in items[1:]]
        needed = self._largest(m, needs)
        m.d.comb += [
            write.addr.eq(Cat(half, row_in)), write.en.eq(accepted),
            write.data.eq(Mux((position != 0) & (so_far > needed), so_far, needed)),
            read.addr.eq(Cat(second, row_out)),
            ahead.addr.eq(Cat(~last_turn, row_out + last_turn)),  # the turn after this one
        ]
        with m.If(accepted):
            m.d.sync += so_far.eq(write.data)
        # Chosen behind the registers: in front of them synthesis would make one read port of two, behind ``turn_done``.
        here, there, moved, last_step = Signal(4), Signal(4), Signal(), Signal(4)
        m.d.sync += [here.eq(read.data), there.eq(ahead.data), moved.eq(turn_done)]
        m.d.comb += last_step.eq(Mux(moved, there, here))
        return ports, Mux(row_done, ready > 1, ready != 0), last_step

    @staticmethod
    def _largest(m: Module, values: list[Value]) -> Value:
        """Of values of 4 bits."""
        while len(values) > 1:
            larger = [Signal(4) for _ in range(len(values) // 2)]
            m.d.comb += [most.eq(Mux(a > b, a, b)) for most, a, b in zip(larger, values[::2], values[1::2], strict=False)]
            values = larger + values[2 * len(larger):]
        return values[0]

    def _values(self, m: Module, beat: Signal, beats, row_done: Signal):
        """V buffer: the beat at hand (one cycle later), and whether the whole row will be there in the next cycle."""
        config = self.config
        # Cycles from a row's last K beat to its weights, and those in which the sums before are read; V beats come in half of them.
        delay = 35 + config.query_lanes * (1 + max_beats(config)) + config.kv_lanes.bit_length()
        bits = (3 * max_beats(config) + ceil_div(delay, 2) - 1).bit_length()
        m.submodules.values = values = memory.Memory(
            shape=data.ArrayLayout(signed(config.kv_bits), config.kv_lanes), depth=1 << bits, init=[])
        read, write = values.read_port(), values.write_port()
        base, end, level = Signal(bits), Signal(bits), Signal(bits + 1)
        accepted = self.i_values.valid & self.i_values.ready
        m.d.comb += [
            self.i_values.ready.eq(~level[-1]),
            write.addr.eq(end), write.data.eq(self.i_values.p), write.en.eq(accepted),
            read.addr.eq(base + beat),
        ]
        with m.If(row_done):
            m.d.sync += base.eq(base + beats)
        # ``level`` knows of the end of a row a cycle later, and ``beats`` still is that row's.
        counted = Signal()
        m.d.sync += [end.eq(end + accepted), counted.eq(row_done), level.eq(Mux(counted, level - beats, level) + accepted)]
        return read.data, Mux(row_done | counted, level >= beats << 1, level >= beats)
