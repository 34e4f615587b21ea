"""Value mix: V rows times their weights, summed over the rows."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, ceil_div
from ..pipeline import Pipeline
from ..streams import Queue, connect
from .formats import (
    WEIGHT_BITS,
    accumulator_bits,
    command_layout,
    max_beats,
    mix_lanes,
    mixed_layout,
    weight_layout,
)

__all__ = ["Mix"]

ROW_SLOTS = 8
"""Rows whose weights can wait for their turn."""

HAZARD = 4
"""Cycles from reading accumulators until the new ones are in memory."""

DRAIN_QUEUE = 8


class Mix(wiring.Component):
    """Weighted sums of V rows for up to L lanes::

        i_values -> V buffer ----.
        i_weights -> row slots -- x --> + --> accumulators (2 banks) --> o, lane after lane
                        '-- shift ----> >> <--------'

    V rows wait in the buffer until their weights are there. Half of the lanes are served at once and each V
    row is read twice: K takes as many beats as V, so this still keeps up with the port and halves
    multipliers and shifters. The sums of one operation leave while the rows of the next are added up in the
    other bank.

    Parameters
    ----------
    config : AcceleratorConfig
        Multipliers: ``ceil(query_lanes / 2) * bus_bits / kv_bits``. Accumulators are exact:
        ``probability_bits + kv_bits + bit_length(max_context)`` bits.

    Members
    -------
    i_command : In(stream of command_layout)
    i_weights : In(stream of weight_layout)
        Row after row, lanes 0 .. lanes - 1, ``last`` on the last lane. The first row's shifts do not matter.
    i_values : In(stream of bus_bits)
        Beats of V, row after row, element 0 in the lowest bits; signed ``kv_bits`` each.
    o : Out(stream of mixed_layout)
        Sums: V-words of lane 0, then of lane 1 ...; ``last`` on the last word of a lane.

    A row takes ``turns * beats`` cycles, at least 5; ``turns`` is 2 if more than half of the lanes are in
    use, else 1. Latency: 11 + ``turns * beats`` cycles from a last row's last weight to the first sum; the
    attribute is for all lanes and one beat.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 11 + (2 if config.query_lanes > 1 else 1)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_weights": In(stream.Signature(weight_layout(config))),
            "i_values": In(stream.Signature(config.bus_bits)),
            "o": Out(stream.Signature(mixed_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Mix":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = mix_lanes(config)
        command = Signal(command_layout(config))
        beat, second, bank = Signal(range(max_beats(config))), Signal(), Signal()
        rows_done = Signal(range(config.max_context))
        issue, row_done, drain_issue, hazard = Signal(), Signal(), Signal(), Signal()
        drain = Signal(data.StructLayout({"beat": beat.shape(), "second": 1, "bank": 1}))

        weights, weights_ready = self._weights(m, second, row_done)
        values, values_level = self._values(m, beat, command.beats, row_done)

        # Sequence of one operation: rows, flush, hand over to the drain.
        last_beat = beat == command.beats - 1
        last_turn = second | (command.lanes <= lanes) if config.query_lanes > 1 else Const(1)
        draining, drain_start = Signal(), Signal()
        flush = Signal(range(HAZARD + 2))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [command.eq(self.i_command.p), bank.eq(~bank), rows_done.eq(0)]
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += [
                    issue.eq(weights_ready & (values_level > beat) & ~hazard & ~drain_issue),
                    row_done.eq(issue & last_beat & last_turn),
                ]
                with m.If(issue):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(last_beat):
                        m.d.sync += [beat.eq(0), second.eq(~last_turn)]
                with m.If(row_done):
                    m.d.sync += [rows_done.eq(rows_done + 1), flush.eq(HAZARD)]
                    with m.If(rows_done == command.rows - 1):
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.sync += flush.eq(Mux(flush == 0, 0, flush - 1))
                with m.If((flush == 0) & ~draining):
                    m.d.comb += drain_start.eq(1)
                    m.next = "IDLE"

        # Read, multiply and shift, add, write.
        width = accumulator_bits(config)
        shape = data.ArrayLayout(data.ArrayLayout(signed(width), config.kv_lanes), lanes)
        m.submodules.sums = sums = memory.Memory(shape=shape, depth=4 << len(beat), init=[])
        read, write = sums.read_port(), sums.write_port()
        pipeline = Pipeline(m, Const(1))
        register = pipeline.register
        address = Cat(beat, second, bank)
        m.d.comb += read.addr.eq(Mux(drain_issue, drain.as_value(), address))
        writes, addresses = [issue], [address]
        for _ in range(HAZARD):
            writes.append(register(writes[-1], reset=True))
            addresses.append(register(addresses[-1]))
        m.d.comb += [
            hazard.eq(Cat(w & (a == address) for w, a in zip(writes[1:], addresses[1:], strict=True)).any()),
            write.addr.eq(addresses[-1]),
            write.en.eq(writes[-1]),
        ]
        first = register(rows_done == 0, 2)
        old, value = register(read.data), register(values)
        drop = max(0, config.probability_bits - WEIGHT_BITS + 1)
        for k in range(lanes):
            weight = register(weights[k])
            shift = register(weight.shift)
            clears, coarse = register(first | weight.shift[5]), register(weight.coarse)
            for j in range(config.kv_lanes):
                product = register(value[j] * weight.factor)
                coarse_shifted = register(old[k][j] >> (weight.shift[:5] & 0x18))
                term = register(Mux(coarse, product.shift_left(drop), product))
                kept = register(Mux(clears, 0, coarse_shifted >> shift[:3]))
                m.d.comb += write.data[k][j].eq(kept + term)

        self._drain(m, command, bank, drain_start, draining, drain_issue, drain, old)
        return m

    def _weights(self, m: Module, second: Signal, row_done: Signal):
        """Row slots: weights of the row at hand (one cycle later), and whether they are complete."""
        lanes = mix_lanes(self.config)
        slots = range(ROW_SLOTS)
        row_in, row_out, ready = Signal(slots), Signal(slots), Signal(range(ROW_SLOTS + 1))
        position, half = Signal(range(max(lanes, 2))), Signal()
        accepted = self.i_weights.valid & self.i_weights.ready
        completes = accepted & self.i_weights.p.last
        m.d.comb += self.i_weights.ready.eq(ready != ROW_SLOTS)
        with m.If(accepted):
            m.d.sync += position.eq(position + 1)
            with m.If(position == lanes - 1):
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
                write.addr.eq(Cat(half, row_in)), write.data.eq(self.i_weights.p),
                write.en.eq(accepted & (position == k)),
                read.addr.eq(Cat(second, row_out)),
            ]
            ports.append(read.data)
        return ports, ready != 0

    def _values(self, m: Module, beat: Signal, beats, row_done: Signal):
        """V buffer: the beat at hand (one cycle later), and how many beats there are from the row's first
        on."""
        config = self.config
        # Cycles from a row's last K beat to its weights; V beats come in half of them.
        delay = 32 + config.query_lanes + config.kv_lanes.bit_length()
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
        used = Mux(row_done, beats, 0)
        m.d.sync += [end.eq(end + accepted), base.eq(base + used), level.eq(level + accepted - used)]
        return read.data, level

    def _drain(self, m: Module, command, bank: Signal, start: Signal, draining: Signal, issue: Signal,
               address, read_sums) -> None:
        """Reads the sums of a finished operation, lane after lane, a V-word at a time, through a queue."""
        config = self.config
        lanes, parts = mix_lanes(config), config.kv_lanes // config.vector_lanes
        operation = Signal(command_layout(config))
        lane = Signal(range(config.query_lanes + 1))
        place = Signal(data.StructLayout({"part": range(max(parts, 2)), "position": range(max(lanes, 2)),
                                          "last": 1}))
        word = Signal(16)
        held = Signal(range(DRAIN_QUEUE + 1))
        m.submodules.queue = queue = Queue(mixed_layout(config), DRAIN_QUEUE)
        connect(m, queue.o, wiring.flipped(self.o))
        m.d.comb += [issue.eq(draining & (held != DRAIN_QUEUE)), place.last.eq(word == operation.words - 1)]
        m.d.sync += held.eq(held + issue - (self.o.valid & self.o.ready))
        with m.If(issue):
            m.d.sync += [word.eq(word + 1), place.part.eq(place.part + 1)]
            with m.If(place.part == parts - 1):
                m.d.sync += [place.part.eq(0), address.beat.eq(address.beat + 1)]
            with m.If(place.last):
                m.d.sync += [word.eq(0), place.part.eq(0), address.beat.eq(0), lane.eq(lane + 1),
                             place.position.eq(place.position + 1)]
                with m.If(place.position == lanes - 1):
                    m.d.sync += [place.position.eq(0), address.second.eq(1)]
                with m.If(lane == operation.lanes - 1):
                    m.d.sync += draining.eq(0)
        with m.If(start):
            m.d.sync += [operation.eq(command), draining.eq(1), address.bank.eq(bank), address.second.eq(0),
                         lane.eq(0), place.position.eq(0)]
        pipeline = Pipeline(m, Const(1))
        place = pipeline.register(place, 2)
        choice = Signal(mixed_layout(config))
        m.d.comb += choice.last.eq(place.last)
        with m.Switch(Cat(place.part, place.position)):
            for k in range(lanes):
                for part in range(parts):
                    with m.Case(part | k << len(place.part)):
                        m.d.comb += [choice.sums[v].eq(read_sums[k][part * config.vector_lanes + v])
                                     for v in range(config.vector_lanes)]
        m.d.comb += [
            queue.i.valid.eq(pipeline.register(issue, 3, reset=True)),
            queue.i.p.eq(pipeline.register(choice)),
        ]
