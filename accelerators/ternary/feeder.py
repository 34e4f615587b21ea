"""Activation buffers of the ternary engine, and the order in which K tiles are fed to the table builder."""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div

__all__ = ["ActivationFeeder", "activation_word", "command_layout", "tile_layout"]


def activation_word(config: AcceleratorConfig) -> data.StructLayout:
    """``vector_lanes`` activations of one token; ``last`` ends the token's vector."""
    return data.StructLayout({"token": range(config.token_lanes),
                              "q": data.ArrayLayout(signed(8), config.vector_lanes), "last": 1})


def command_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One matrix: K tiles, row groups of a full block, row groups in all, tokens."""
    return data.StructLayout({
        "tiles": range(ceil_div(config.max_vector, config.tile_activations) + 1),
        "block_rows": range(config.max_block_rows // config.table_rows + 1),
        "rows": range(config.vector_memory // config.table_rows + 1),
        "tokens": range(config.token_lanes + 1)})


def tile_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One sweep: its row groups - 1, first and last K tile of a block, last sweep of a matrix."""
    return data.StructLayout({"last_row": range(config.max_block_rows // config.table_rows),
                              "first": 1, "emit": 1, "last": 1})


class ActivationFeeder(wiring.Component):
    """Activation buffers and K-tile order.

    Each token has ``chunks`` buffers of one vector, which are filled and used in turn. A command uses one vector of each
    of its tokens, and uses it up: vectors wait at ``i_activations`` until their token has a free buffer (with one
    chunk also while anything is fed), a command waits until its vectors are in. So commands and vectors may be sent
    ahead and in any order relative to each other; the vectors of a command must be sent token by token before
    those of the next command. With two chunks the vectors of the next command go in while this one is fed. The K tiles of
    a matrix are fed once per block of rows, one behind the other, so a tile may start inside a word.

    A word of a token lasts for ``vector_lanes`` activations. ``buffer_tokens`` lanes share a memory and are read in turn, and
    all but the last wait for it in a register.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes``, ``token_lanes``, ``chunks``, ``buffer_tokens``, ``group_size``, ``tables``, ``table_rows``,
        ``max_vector``, ``max_block_rows`` and ``vector_memory`` (bound of ``rows``) matter here.

    Members
    -------
    i_activations : In(stream): ``{token, q: vector_lanes x signed(8), last}``
        Fills the next buffer of ``token`` from element 0; ``last`` completes it. Elements of the last K tile that are not
        sent are whatever lies there (behind element ``max_vector - 1`` comes element 0): their trits must be 0. Words
        for a token that does not exist are dropped; a vector longer than ``max_vector`` spoils itself.
    i_command : In(stream): ``{tiles, block_rows, rows, tokens}``
        Taken when the previous command has been fed. One with a zero in any field is dropped.
    o : Out(stream): ``{x: token_lanes x signed(8)}``
        One activation of every token lane, column by column; undefined (but driven) for lanes beyond ``tokens``.
    o_tiles : Out(stream): ``{last_row, first, emit, last}``
        One item per tile that is fed, offered with its first activation.

    Attributes: ``latency`` from a command (its vectors being in) to the first activation: 3 + ``buffer_tokens``.
    ``interval`` 1: an activation per cycle; 2 cycles between commands.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 3 + config.buffer_tokens
        self.words = config.max_vector // config.vector_lanes
        super().__init__({
            "i_activations": In(stream.Signature(activation_word(config))),
            "i_command": In(stream.Signature(command_layout(config))),
            "o": Out(stream.Signature(data.StructLayout({"x": data.ArrayLayout(signed(8), config.token_lanes)}))),
            "o_tiles": Out(stream.Signature(tile_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ActivationFeeder":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, words = self.config, self.words
        tokens, lanes = config.token_lanes, config.vector_lanes
        command = Signal(command_layout(config))
        used_up, feeding = Signal(), Signal()
        needed = Cat(command.tokens > lane for lane in range(tokens))

        # Vectors in: a word is taken, then written.
        token = self.i_activations.p.token if tokens > 1 else 0
        word_in, write_word, write_enable = Signal(range(words)), Signal(range(words)), Signal(tokens)
        write_data = Signal.like(self.i_activations.p.q)
        no_room, filled, taken = Signal(tokens), Signal(tokens), Signal()
        m.d.comb += [
            self.i_activations.ready.eq(~(no_room.bit_select(token, 1) if tokens > 1 else no_room)
                                        & (~feeding if config.chunks == 1 else 1)),
            taken.eq(self.i_activations.valid & self.i_activations.ready),
        ]
        m.d.sync += [write_word.eq(word_in), write_data.eq(self.i_activations.p.q)]
        fill_banks, feed_banks = [], []
        for lane in range(tokens):
            takes = taken & (token == lane)
            fills, empties = takes & self.i_activations.p.last, used_up & needed[lane]
            fill_banks.append(fill := self._turn(m, fills, f"fill_bank_{lane}"))
            feed_banks.append(feed := self._turn(m, empties, f"feed_bank_{lane}"))
            full = Signal(config.chunks, name=f"full_{lane}")
            m.d.comb += [no_room[lane].eq(full.bit_select(fill, 1)), filled[lane].eq(full.bit_select(feed, 1))]
            m.d.sync += write_enable[lane].eq(takes)
            with m.If(empties):
                m.d.sync += full.bit_select(feed, 1).eq(0)
            with m.If(fills):
                m.d.sync += full.bit_select(fill, 1).eq(1)
        with m.If(taken):
            self._count(m, word_in, words)
            with m.If(self.i_activations.p.last):
                m.d.sync += word_in.eq(0)

        # Order of tiles. Elements are counted over words and, beside, over tiles.
        word, element = Signal(range(words)), Signal(range(lanes))
        tile_element, tiles_left = Signal(range(config.tile_activations)), Signal.like(command.tiles)
        issue, advance = Signal(), Signal()
        first_tile, last_tile, last_block = Signal(), Signal(), Signal()
        announces, tile_ends = Signal(), Signal()
        m.d.comb += last_tile.eq(tiles_left == 1)
        m.d.sync += last_block.eq(command.rows <= command.block_rows)
        with m.FSM() as order:
            m.d.comb += feeding.eq(order.ongoing("FEED"))
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [command.eq(self.i_command.p), tiles_left.eq(self.i_command.p.tiles), first_tile.eq(1)]
                zero = [self.i_command.p[name] == 0 for name in ("tiles", "block_rows", "rows", "tokens")]
                with m.If(self.i_command.valid & ~Cat(zero).any()):
                    m.next = "WAIT"
            with m.State("WAIT"), m.If((filled | ~needed).all()):
                m.next = "FEED"
            with m.State("FEED"):
                m.d.comb += issue.eq(advance & (~announces | ~self.o_tiles.valid | self.o_tiles.ready))
                with m.If(issue & tile_ends & last_tile & last_block):
                    m.d.comb += used_up.eq(1)
                    m.next = "IDLE"
        with m.If(issue):
            m.d.sync += [
                element.eq(element + 1), tile_element.eq(tile_element + 1),
                # A tile is announced with its second activation: by then last_block is known.
                announces.eq(tile_element == 0), tile_ends.eq(tile_element == config.tile_activations - 2),
            ]
            with m.If(element == lanes - 1):
                self._count(m, word, words)
            with m.If(tile_ends):
                m.d.sync += [tile_element.eq(0), tiles_left.eq(tiles_left - 1), first_tile.eq(0)]
                with m.If(last_tile):
                    m.d.sync += [tiles_left.eq(command.tiles), first_tile.eq(1), word.eq(0), element.eq(0),
                                 command.rows.eq(command.rows - command.block_rows)]
        with m.If(self.o_tiles.ready):
            m.d.sync += self.o_tiles.valid.eq(0)
        with m.If(issue & announces):
            m.d.sync += [
                self.o_tiles.valid.eq(1),
                self.o_tiles.p.last_row.eq(Mux(last_block, command.rows, command.block_rows) - 1),
                self.o_tiles.p.first.eq(first_tile),
                self.o_tiles.p.emit.eq(last_tile),
                self.o_tiles.p.last.eq(last_tile & last_block),
            ]

        # Read: memory, register, selection of one activation. The first activation of a word begins the reads of all lanes.
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        share = config.buffer_tokens
        place, fetched_place = self._number(share, "place"), self._number(share, "fetched_place")
        begins, fetching, fetched = Signal(), Signal(), Signal()
        valid, element_out = Signal(share), Signal.like(element)
        elements = [element, *(Signal.like(element, name=f"element_{k}") for k in range(share)), element_out]
        m.d.comb += [begins.eq(issue & (element == 0)), fetching.eq(begins | (place != 0))]
        with m.If(advance):
            m.d.sync += [Cat(valid, self.o.valid).eq(Cat(issue, valid)), fetched.eq(fetching), fetched_place.eq(place)]
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(elements)]
            if share > 1:
                with m.If(fetching):
                    m.d.sync += place.eq(Mux(place == share - 1, 0, place + 1))
        for first in range(0, tokens, share):
            self._buffer(m, range(first, min(first + share, tokens)), fill_banks, feed_banks,
                         (write_enable, write_word, write_data), (advance, word, place), (fetched, fetched_place), element_out)
        return m

    def _buffer(self, m, lanes, fill_banks, feed_banks, write_signals, read_signals, arrives, element):
        """Memory of the activations of ``lanes``, and a word of each. Addresses are made of word, bank and lane."""
        config = self.config
        write_enable, write_word, write_data = write_signals
        advance, word, place = read_signals
        fetched, fetched_place = arrives
        lane_bits, last = (len(lanes) - 1).bit_length(), config.buffer_tokens - 1
        regions = len(lanes) << (config.chunks - 1)
        m.submodules[f"buffer_{lanes[0]}"] = buffer = Memory(
            shape=8 * config.vector_lanes, depth=((regions - 1) << len(word)) + self.words, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        write_region, read_region = (self._number(regions, f"{port}_region_{lanes[0]}") for port in ("write", "read"))
        m.d.comb += [
            # A buffer is written or fed, never both. Saying so spares the bypass that block memory would need. What
            # is read without an issue is not used.
            write.en.eq(Cat(write_enable[lane] for lane in lanes).any()),
            write.addr.eq(Cat(write_word, write_region)),
            write.data.eq(write_data),
            read.en.eq(advance & ~(write.en & (write_region == read_region))),
            read.addr.eq(Cat(word, read_region)),
        ]
        for number, lane in enumerate(lanes):
            filled = fill_banks[lane]
            if config.chunks > 1:
                filled = Signal(name=f"filled_bank_{lane}")
                m.d.sync += filled.eq(fill_banks[lane])
            with m.If(write_enable[lane]):
                m.d.comb += write_region.eq(Cat(filled, Const(number, lane_bits)))
            with m.If(place == number):
                m.d.comb += read_region.eq(Cat(feed_banks[lane], Const(number, lane_bits)))

            # Words of a memory that come before the last one wait for it.
            activations = Signal(8 * config.vector_lanes, name=f"activations_{lane}", reset_less=True)
            arriving = read.data
            if number < last:
                arriving = Signal.like(activations, name=f"waiting_{lane}")
                with m.If(advance & fetched & (fetched_place == number)):
                    m.d.sync += arriving.eq(read.data)
            with m.If(advance & fetched & (fetched_place == last)):
                m.d.sync += activations.eq(arriving)
            m.d.comb += self.o.p.x[lane].eq(activations.word_select(element, 8).as_signed())

    def _turn(self, m, step, name):
        """Number of a buffer, the other one after ``step``; of no bits if there is only one."""
        if self.config.chunks == 1:
            return Const(0, 0)
        bank = Signal(name=name)
        m.d.sync += bank.eq(bank ^ step)
        return bank

    def _number(self, count, name):
        """Signal for one of ``count``: a bit (of 0) if there is only one, because Verilog has no signals of no bits."""
        return Signal(range(max(count, 2)), name=name)

    def _count(self, m, word, words):
        """Next word of a buffer; behind the last one comes the first."""
        m.d.sync += word.eq(word + 1)
        if words & (words - 1):
            with m.If(word == words - 1):
                m.d.sync += word.eq(0)
