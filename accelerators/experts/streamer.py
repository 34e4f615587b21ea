"""Weight streamer: reads a matrix row of memory after row of memory, and gives each row as often as there are tiles of tokens."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..streams import StreamBuffer, connect
from .bundle_controller import COUNTERS, BundleController, normal_data
from .config import SLOTS, ExpertConfig
from .dram_commands import command_pins, granule_bits
from .normal_path import normal_request

__all__ = ["WeightStreamer", "run_layout", "weight_layout"]


def run_layout(config: ExpertConfig) -> data.StructLayout:
    """``words`` words from the read command at ``column`` of ``row`` of ``bundle`` on, each stretch for ``tiles`` tiles."""
    return data.StructLayout({"bundle": range(config.bundles), "row": range(config.rows), "column": range(config.columns), "words": 24,
                              "tiles": range(config.tiles + 1)})


def weight_layout(config: ExpertConfig) -> data.StructLayout:
    """A word for a tile of tokens; ``end``: the last word of the stretch for this tile."""
    return data.StructLayout({"word": 8 * config.word_bytes, "tile": range(max(config.tiles, 2)), "end": 1})


class WeightStreamer(wiring.Component):
    """Streams weights from the bundles of a pseudo channel through a double buffer of two bundle rows (Duplex, arXiv:2409.01141,
    section 5: 8 KB rows).

    A run is cut into *stretches*: what lies of it in one bundle row. Of a stretch all words are given for tile 0, then all for tile 1,
    and so on; meanwhile the next one is read::

        i -> stretches -> BundleController -> memory
                |                               v
                '-------> half 0, half 1 of the buffer -> o

    A read command gives ``timing.ccd / 2`` words. A run begins at one and may end in the middle of one. Behind the last column of a row
    it goes on at column 0, with ``ping_pong`` of bundle ``b + 1`` in the same row if ``b`` is even, of bundle ``b - 1`` in the next
    row if it is odd; without, of the same bundle in the next row. Rows wrap around at ``rows``.

    Parameters
    ----------
    config : ExpertConfig
    normal : bool
        With the normal path, on which the xPU reads single banks of the same pseudo channel.

    Members
    -------
    i : In(stream of run_layout)
        Runs follow each other without a gap. One without words or tiles is dropped.
    o : Out(stream of weight_layout)
        A word per cycle; the first ones of a stretch before all of it is there.
    i_normal : In(stream of normal_request)
        Reads of single banks; see ``BundleController``.
    o_normal : Out(stream of normal_data, always_ready=True)
    command : Out(command_pins)
        The command slots of a logic cycle. Registers.
    data : In(word)
        The first word of an ``ALL_READ`` in the ``data_cycles(config)``-th cycle after that of the command, the others in the cycles
        behind it (in duplex: 11, and 2 words).
    normal_data : In(granule_bits)
        What a ``READ`` gives, as many cycles after it.
    counters : Out(COUNTERS)
        Since reset.

    Latency: 6 cycles more than the controller's, from a run to its first word. Interval: 1 cycle per word that is in the buffer.
    """

    latency = None
    interval = 1

    def __init__(self, config: ExpertConfig, *, normal: bool = True):
        self.config, self.normal = config, normal
        self._words = config.timing.ccd // SLOTS
        check_int("timing.ccd / 2", self._words, 1, 16, power_of_two=True)
        super().__init__({
            "i": In(stream.Signature(run_layout(config))),
            "o": Out(stream.Signature(weight_layout(config))),
            "command": Out(command_pins(config)),
            "data": In(8 * config.word_bytes),
            "counters": Out(COUNTERS),
            **({"i_normal": In(stream.Signature(normal_request(config))),
                "o_normal": Out(stream.Signature(normal_data(config), always_ready=True)),
                "normal_data": In(granule_bits(config))} if normal else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "WeightStreamer":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.controller = controller = BundleController(config, normal=self.normal)
        m.d.comb += [controller.slots.eq((1 << SLOTS) - 1), self.command.eq(controller.command), controller.data.eq(self.data),
                     self.counters.eq(controller.counters)]
        if self.normal:
            connect(m, wiring.flipped(self.i_normal), controller.i_normal)
            connect(m, controller.o_normal, wiring.flipped(self.o_normal))
            m.d.comb += controller.normal_data.eq(self.normal_data)

        # Both halves of the buffer: what is to be there, and whether it is.
        length = range(config.row_words + 1)
        part = data.StructLayout({"words": length, "come": length, "tiles": range(config.tiles + 1)})
        halves, given, whole = Array([Signal(part, name=f"half_{k}") for k in range(2)]), Signal(2), Signal(2)
        self._cut(m, controller, halves, given)

        # Words arrive.
        m.submodules.buffer = buffer = memory.Memory(shape=8 * config.word_bytes, depth=2 * config.row_words, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        filling, filled = Signal(), Signal(length)
        m.d.comb += [write.addr.eq(Cat(filled[:-1], filling)), write.data.eq(controller.o.p), write.en.eq(controller.o.valid)]
        with m.If(controller.o.valid):
            m.d.sync += filled.eq(filled + 1)
            with m.If(filled + 1 == halves[filling].come):
                m.d.sync += [filled.eq(0), filling.eq(~filling), whole.bit_select(filling, 1).eq(1)]

        # Words leave, tile after tile.
        m.submodules.output = output = StreamBuffer(weight_layout(config))
        connect(m, output.o, wiring.flipped(self.o))
        half, word, tile, fetched = Signal(), Signal(range(config.row_words)), Signal(range(max(config.tiles, 2))), Signal()
        label = Signal(data.StructLayout({"tile": tile.shape(), "end": 1}))
        end = word == halves[half].words - 1
        there = whole.bit_select(half, 1) | ((half == filling) & (word < filled))
        m.d.comb += [
            read.addr.eq(Cat(word, half)), read.en.eq(there & (output.i.ready | ~fetched)), output.i.valid.eq(fetched),
            output.i.p.word.eq(read.data), output.i.p.tile.eq(label.tile), output.i.p.end.eq(label.end),
        ]
        with m.If(output.i.ready | ~fetched):
            m.d.sync += [fetched.eq(there), label.tile.eq(tile), label.end.eq(end)]
        with m.If(read.en):
            m.d.sync += word.eq(word + 1)
            with m.If(end):
                m.d.sync += [word.eq(0), tile.eq(tile + 1)]
                with m.If(tile == halves[half].tiles - 1):
                    m.d.sync += [tile.eq(0), half.eq(~half), given.bit_select(half, 1).eq(0), whole.bit_select(half, 1).eq(0)]
        return m

    def _cut(self, m: Module, controller: BundleController, halves: Array, given: Signal) -> None:
        """Runs into stretches; one begins when a half of the buffer is free."""
        config, words = self.config, self._words
        run, target = Signal(run_layout(config)), Signal()
        stretch = controller.i.p
        room, here = Signal(range(config.row_words + 1)), Signal(range(config.row_words + 1))
        with m.FSM():
            with m.State("RUN"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += run.eq(self.i.p)
                with m.If(self.i.valid & (self.i.p.words != 0) & (self.i.p.tiles != 0)):
                    m.next = "ROOM"
            with m.State("ROOM"):
                m.d.sync += room.eq((config.columns - run.column) * words)
                m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += here.eq(Mux(run.words < room, run.words, room))
                m.next = "STRETCH"
            with m.State("STRETCH"):
                # The part of the words that needs a read of its own: all but what is left over of a read.
                reads = ceil_shift(here, words)
                free = ~given.bit_select(target, 1)
                m.d.comb += [controller.i.valid.eq(free), controller.starved.eq(~free), stretch.bundle.eq(run.bundle),
                             stretch.row.eq(run.row), stretch.column.eq(run.column), stretch.last.eq(run.column + reads - 1)]
                with m.If(free & controller.i.ready):
                    half = halves[target]
                    m.d.sync += [half.words.eq(here), half.come.eq(reads * words), half.tiles.eq(run.tiles), target.eq(~target),
                                 given.bit_select(target, 1).eq(1), run.words.eq(run.words - here), run.column.eq(0)]
                    with m.If(run.bundle[0] | (not config.ping_pong)):
                        m.d.sync += run.row.eq(run.row + 1)
                    if config.ping_pong:
                        m.d.sync += run.bundle.eq(run.bundle ^ 1)
                    m.next = "ROOM"
                    with m.If(run.words == here):
                        m.next = "RUN"


def ceil_shift(value: Value, divisor: int) -> Value:
    """``value / divisor``, rounded up; ``divisor`` is a power of two."""
    return (value + (divisor - 1))[divisor.bit_length() - 1:]
