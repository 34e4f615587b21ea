"""Activations of a batch beside the GEMM module: a bank per token lane, and what fills them from the input buffer."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from .config import ExpertConfig

__all__ = ["TokenGather", "TokenLanes", "group_write", "lane_write", "token_layout"]


def lane_write(config: ExpertConfig, words: int, elements: int) -> data.StructLayout:
    """A word, or with ``elements`` above 1 an element of it, of the token ``tile * token_lanes + lane``."""
    width = 8 * config.word_bytes
    return data.StructLayout({"lane": range(max(config.token_lanes, 2)), "tile": range(max(config.tiles, 2)),
                              "word": range(max(words, 2)), **({"element": range(elements)} if elements > 1 else {}),
                              "value": width // elements})


def group_write(config: ExpertConfig) -> data.StructLayout:
    """An element for each lane, of tile 0 or 1, the ``half``. That of element 0 makes the others of its word 0."""
    return data.StructLayout({"half": 1, "word": range(max(config.max_intermediate // config.lanes, 2)), "element": range(config.lanes),
                              "values": data.ArrayLayout(config.format.storage_bits, config.token_lanes)})


def token_layout(config: ExpertConfig) -> data.StructLayout:
    """A token of an expert, and its weight."""
    return data.StructLayout({"token": range(config.max_tokens), "weight": config.result_format.storage_bits, "last": 1})


class TokenLanes(wiring.Component):
    """A memory bank per token lane: words of all lanes are read together.

    Parameters
    ----------
    config : ExpertConfig
        ``word_bytes``, ``element``, ``token_lanes``, ``max_tokens``.
    words : int
        Words per token, 1 to 2**16.
    by_element : bool
        An element is written at a time; else a word.
    together : bool
        With ``i_group``; only with ``by_element``, and ``words`` those of ``max_intermediate``.

    Members
    -------
    i : In(stream of lane_write, always_ready=True)
    i_group : In(stream of group_write, always_ready=True)
        Into all lanes at a time, and not together with ``i``.
    word, tile, en : In
        Read address, and whether it is taken.
    o : Out(words of all lanes)
        One cycle later; stands still without ``en``.
    """

    def __init__(self, config: ExpertConfig, words: int, by_element: bool, together: bool = False):
        check_int("words", words, 1, 1 << 16)
        self.config, self.words, self.by_element, self.together = config, words, by_element, together
        self.elements = config.lanes if by_element else 1
        width = 8 * config.word_bytes
        super().__init__({
            "i": In(stream.Signature(lane_write(config, words, self.elements), always_ready=True)),
            "word": In(range(max(words, 2))), "tile": In(range(max(config.tiles, 2))), "en": In(1),
            "o": Out(data.ArrayLayout(width, config.token_lanes)),
            **({"i_group": In(stream.Signature(group_write(config), always_ready=True))} if together else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, item = self.config, self.i.p
        width, tiles = 8 * config.word_bytes, max(config.tiles, 2)
        for lane in range(config.token_lanes):
            m.submodules[f"lane_{lane}"] = bank = memory.Memory(shape=width, depth=self.words * tiles, init=[])
            write, read = bank.write_port(granularity=width // self.elements), bank.read_port()
            here = self.i.valid & (item.lane == lane)
            m.d.comb += [
                write.addr.eq(Cat(item.tile, item.word)), write.data.eq(Cat(item.value for _ in range(self.elements))),
                write.en.eq(Mux(here, 1 << item.element if self.by_element else 1, 0)),
                read.addr.eq(Cat(self.tile, self.word)), read.en.eq(self.en), self.o[lane].eq(read.data),
            ]
            if self.together:
                group = self.i_group.p
                with m.If(self.i_group.valid):
                    tile = Cat(group.half, Const(0, len(item.tile) - 1))
                    m.d.comb += [write.addr.eq(Cat(tile, group.word)), write.en.eq(1 << group.element),
                                 write.data.eq(group.values[lane].replicate(self.elements))]
                    with m.If(group.element == 0):
                        m.d.comb += [write.en.eq(-1), write.data.eq(group.values[lane])]
        return m


class TokenGather(wiring.Component):
    """Copies the activations of an expert's tokens from the input buffer into the token lanes, a word per cycle::

        i_x -> input buffer -> o       (token n of the list: lane n % token_lanes, tile n // token_lanes)
        i_tokens -> token ------> o_token

    Parameters
    ----------
    config : ExpertConfig
        ``word_bytes``, ``element``, ``token_lanes``, ``max_tokens``, ``max_hidden``.

    Members
    -------
    i_x : In(stream of {token, word, value}, always ready)
        A word of a token's activations for the input buffer; not while a layer that needs its old value runs.
    i : In(stream of {words, first})
        Gather the next list, ``words`` (1 or more) words per token. ``first``: a layer begins, no token has an output yet.
    i_tokens : In(stream of token_layout)
        Lists of tokens in ascending order.
    o : Out(stream of lane_write, always_ready=True)
    o_token : Out(stream of {position, token, weight, fresh}, always_ready=True)
        ``fresh``: the token's first expert of this layer.
    o_done : Out(stream of {tokens, error})
        After all of a list. ``error``: its tokens did not ascend; what came behind is dropped up to ``last``.
    seen : Out(max_tokens)
        Tokens that have had an expert of this layer.
    undo : In(1)
        With ``config.attention``: the last list is refused, ``seen`` is what it was before.

    Latency: ``words + 2`` cycles per token. A list takes ``tokens * (words + 1) + 2`` cycles.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.words = config.max_hidden // config.lanes
        token, width = range(config.max_tokens), 8 * config.word_bytes
        counts = range(config.max_tokens + 1)
        super().__init__({
            "i_x": In(stream.Signature(data.StructLayout({"token": token, "word": range(max(self.words, 2)), "value": width}),
                                       always_ready=True)),
            "i": In(stream.Signature(data.StructLayout({"words": range(self.words + 1), "first": 1}))),
            "i_tokens": In(stream.Signature(token_layout(config))),
            "o": Out(stream.Signature(lane_write(config, self.words, 1), always_ready=True)),
            "o_token": Out(stream.Signature(data.StructLayout({
                "position": token, "token": token, "weight": config.result_format.storage_bits, "fresh": 1}), always_ready=True)),
            "o_done": Out(stream.Signature(data.StructLayout({"tokens": counts, "error": 1}))),
            "seen": Out(config.max_tokens),
            **({"undo": In(1)} if config.attention else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, item = self.config, self.i_tokens.p
        m.submodules.inputs = inputs = memory.Memory(shape=8 * config.word_bytes, depth=self.words * config.max_tokens, init=[])
        write, read = inputs.write_port(), inputs.read_port()
        words, word, position = Signal.like(self.i.p.words), Signal.like(self.i.p.words), Signal(range(config.max_tokens + 1))
        error, above = Signal(), Signal(range(config.max_tokens + 1))  # the next token is at least this one
        copying, lanes = Signal(), Signal(range(max(config.token_lanes, 2)))
        wrong = item.token < above
        m.d.comb += [
            write.addr.eq(Cat(self.i_x.p.token, self.i_x.p.word)), write.data.eq(self.i_x.p.value), write.en.eq(self.i_x.valid),
            read.addr.eq(Cat(item.token, word)),
            lanes.eq(position & (config.token_lanes - 1)), self.o.valid.eq(copying), self.o.p.value.eq(read.data),
            self.o_token.p.position.eq(position), self.o_token.p.token.eq(item.token), self.o_token.p.weight.eq(item.weight),
            self.o_token.p.fresh.eq(~self.seen.bit_select(item.token, 1)),
            self.o_done.p.tokens.eq(position), self.o_done.p.error.eq(error),
        ]
        m.d.sync += [copying.eq(0), self.o.p.lane.eq(lanes), self.o.p.tile.eq(position >> (config.token_lanes.bit_length() - 1)),
                     self.o.p.word.eq(word)]
        with m.FSM():
            with m.State("LIST"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [words.eq(self.i.p.words), position.eq(0), error.eq(0), above.eq(0), word.eq(0)]
                    with m.If(self.i.p.first):
                        m.d.sync += self.seen.eq(0)
                    m.next = "COPY"
            with m.State("COPY"):
                with m.If(self.i_tokens.valid & (error | wrong)):
                    m.d.comb += self.i_tokens.ready.eq(1)
                    m.d.sync += error.eq(1)
                    with m.If(item.last):
                        m.next = "DONE"
                with m.Elif(self.i_tokens.valid):
                    m.d.sync += [copying.eq(1), word.eq(word + 1)]
                    with m.If(word + 1 == words):
                        m.d.comb += [self.i_tokens.ready.eq(1), self.o_token.valid.eq(1)]
                        m.d.sync += [word.eq(0), position.eq(position + 1), above.eq(item.token + 1),
                                     self.seen.eq(self.seen | (1 << item.token))]
                        with m.If(item.last):
                            m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.o_done.valid.eq(1)
                with m.If(self.o_done.ready):
                    m.next = "LIST"
        if config.attention:
            before = Signal.like(self.seen)
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += before.eq(self.seen)
            with m.If(self.undo):
                m.d.sync += self.seen.eq(before)
        return m
