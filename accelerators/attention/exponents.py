"""Exponents of a token's attention outputs: kept per head, turned into the shifts that align the heads."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig

__all__ = ["HeadExponents"]

LOWEST = -(1 << 15)


class HeadExponents(wiring.Component):
    """Stores one exponent per (token, head) and gives, word after word, the right shift to the token's largest exponent.

    Parameters
    ----------
    token_lanes : int
        Tokens of a chunk.
    heads : int
        Heads per token, a power of two.

    Members
    -------
    i : In(stream of {exponent: signed(16), token, head})
        Always taken.
    clear : In(1)
        Forgets the maxima: pulse before the first exponent of an operation.
    top : Out(token_lanes x signed(16))
        Largest exponent per token.
    restart : In(1)
        Pulse: the next word is the first of token 0.
    words : In(16)
        Words per head.
    word_taken, vector_end : In(1)
        The word at hand was consumed; it was the final one of a vector. Every vector comes twice, then the next token follows.
    shift : Out(6)
        ``min(top - exponent, 63)`` of the word at hand.

    Latency: a stored exponent counts two cycles later; ``shift`` follows ``word_taken`` in the next cycle. Interval: 1.
    """

    latency = 1
    interval = 1

    def __init__(self, token_lanes: int, heads: int):
        self.token_lanes, self.heads = token_lanes, heads
        tokens = range(max(token_lanes, 2))
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "exponent": signed(16), "token": tokens, "head": range(max(heads, 2))}))),
            "clear": In(1),
            "top": Out(data.ArrayLayout(signed(16), token_lanes)),
            "restart": In(1), "words": In(16), "word_taken": In(1), "vector_end": In(1),
            "shift": Out(6),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "HeadExponents":
        return cls(config.token_lanes, config.max_heads)

    def elaborate(self, platform):
        m = Module()
        m.submodules.exponents = exponents = memory.Memory(
            shape=signed(16), depth=max(self.token_lanes * self.heads, 2), init=[])
        write, read = exponents.write_port(), exponents.read_port(domain="comb")
        top = Array([Signal(signed(16), name=f"top_{i}", init=LOWEST) for i in range(self.token_lanes)])
        m.d.comb += [
            self.i.ready.eq(1), write.en.eq(self.i.valid), write.data.eq(self.i.p.exponent),
            write.addr.eq(self.i.p.token * self.heads + self.i.p.head),
            *(self.top[i].eq(top[i]) for i in range(self.token_lanes)),
        ]
        with m.If(self.i.valid & (self.i.p.exponent > top[self.i.p.token])):
            m.d.sync += top[self.i.p.token].eq(self.i.p.exponent)
        with m.If(self.clear):
            m.d.sync += [each.eq(LOWEST) for each in top]

        # What the next word needs comes into registers while this one is at hand.
        token, head, second = Signal.like(self.i.p.token), Signal.like(self.i.p.head), Signal()
        word, last_word = Signal(16), Signal()
        next_token, next_head = Signal.like(token), Signal.like(head)
        head_starts = self.restart | (self.word_taken & (last_word | self.vector_end))
        m.d.comb += [next_token.eq(token), next_head.eq(head)]
        with m.If(self.word_taken):
            with m.If(last_word):
                m.d.comb += next_head.eq(head + 1)
            with m.If(self.vector_end):
                m.d.comb += [next_head.eq(0), next_token.eq(token + second)]
                m.d.sync += second.eq(~second)
        with m.If(self.restart):
            m.d.comb += [next_token.eq(0), next_head.eq(0)]
            m.d.sync += second.eq(0)
        exponent, largest, difference = Signal(signed(16)), Signal(signed(16)), Signal(range(1 << 17))
        m.d.comb += [
            read.addr.eq(next_token * self.heads + next_head),
            difference.eq((largest - exponent)[:17]),
            self.shift.eq(Mux(difference > 63, 63, difference)),
        ]
        m.d.sync += [
            token.eq(next_token), head.eq(next_head), word.eq(Mux(head_starts, 0, word + self.word_taken)),
            last_word.eq(Mux(head_starts, self.words == 1, Mux(self.word_taken, word + 2 == self.words, word + 1 == self.words))),
            exponent.eq(read.data), largest.eq(top[next_token]),
        ]
        return m
