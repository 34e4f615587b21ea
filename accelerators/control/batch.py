"""How a front end with several sequences begins a step: it reads the batch (``entries``), has the KV cache make room, and finds out of
every token of which sequence and where it is. States of the main machine."""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Array, Module, Mux, Signal, ValueLike
from amaranth.lib import data, stream

from ..cache.paged import PagedCache
from ..cache.paged_formats import SequenceCommand, SequenceError
from ..cache.swap import SwapController
from ..cache.swap_formats import SwapCommand, SwapError
from ..config import AcceleratorConfig
from .entries import COUNT_BITS, FEED, REFUSED, SAMPLE, SEQUENCE, SEQUENCE_BITS, SWAP_IN, SWAP_OUT, EntryKind
from .errors import ErrorCause

__all__ = ["Batch", "batch_states"]

_FIELDS = data.StructLayout({"count": COUNT_BITS, "other": SEQUENCE - COUNT_BITS, "sequence": SEQUENCE_BITS, "kind": 2})


class Batch:
    """The tokens of a step.

    Members
    -------
    tokens, positions, sequences, ends : Array
        Per token: id, position, sequence, number of the token behind the last one of its entry.
    prefixes, stops : Array
        Per token: positions that its group has in common (0: it is in none), number of the token behind the last one that may share a
        tile with it: of its group, or its entry.
    samples : Signal
        Tokens whose logits give a new one and that are still to come; ``sampled`` is the first of them.
    count : Signal
        Tokens so far.
    latest : Array
        Per sequence, the token that it sampled last.
    """

    def __init__(self, config: AcceleratorConfig, tokens: Array):
        lanes = config.token_lanes

        def each(name: str, shape, count: int = lanes) -> Array:
            return Array([Signal(shape, name=f"{name}_{k}") for k in range(count)])
        self.tokens = tokens
        positions = range(config.max_context + 1)
        self.positions, self.prefixes = each("token_position", positions), each("token_prefix", positions)
        self.ends, self.stops = each("token_end", range(lanes + 1)), each("token_stop", range(lanes + 1))
        self.sequences, self.latest = each("token_sequence", range(config.sequences)), each("latest", 32, config.sequences)
        self.samples, self.sampled, self.count = Signal(lanes), Signal(range(lanes)), Signal(range(lanes + 1))


@dataclass
class Words:
    """The list as it comes from memory: a word while ``valid``; ``take`` it. ``left`` words are still to come."""

    valid: Signal
    word: ValueLike
    take: Signal
    left: Signal


def batch_states(m: Module, batch: Batch, cache: PagedCache | SwapController, config: AcceleratorConfig, words: Words,
                 o_token: stream.Interface, fail: Callable[[ErrorCause, ValueLike, ValueLike], None]) -> None:
    """ENTRY ... until the list has ended, then OPERATIONS, or DONE for a list without tokens.

    Of a group, the cache compares every sequence with the first one: they must have had what they are said to share. An entry that the
    cache refuses is told on ``o_token`` (``REFUSED``), and its tokens are left out; a list that is not one stops the
    front end. A swap has ended before the next entry is looked at.
    """
    lanes, swaps = config.token_lanes, bool(config.swap_slots)
    entry, todo, error = Signal(_FIELDS), Signal(COUNT_BITS), Signal(SwapError if swaps else SequenceError)
    is_tokens, feeds, samples = Signal(), Signal(), Signal()
    row, position, end = Signal(range(lanes + 1)), Signal(range(config.max_context + 1)), Signal(range(lanes + 1))
    # A group: entries that are still to come, what they share, the first entry that was taken and the number of its first token.
    members, prefix, first = Signal(SEQUENCE_BITS), Signal.like(position), Signal.like(row)
    leader, led, grouped = Signal(range(config.sequences)), Signal(), Signal()
    bits = (config.sequences - 1).bit_length()
    sequence, other = entry.sequence[:bits], entry.other[:bits]
    command, done = cache.i_command, cache.o_done
    freed = {SWAP_OUT: SwapCommand.SWAP_OUT, SWAP_IN: SwapCommand.SWAP_IN} if swaps else {}
    leaving: ValueLike = SequenceCommand.FREE
    for number, moves in freed.items():
        leaving = Mux(entry.other == number, moves, leaving)
    m.d.comb += [
        is_tokens.eq(entry.kind == EntryKind.TOKENS), feeds.eq(is_tokens & entry.as_value()[FEED]),
        samples.eq(is_tokens & entry.as_value()[SAMPLE]),
        command.p.command.eq(Mux(is_tokens, SequenceCommand.EXTEND,
                                 Mux(entry.kind == EntryKind.FORK, SequenceCommand.FORK, leaving))),
        command.p.sequence.eq(sequence), command.p.other.eq(other), command.p.count.eq(entry.count),
    ]
    sampled: ValueLike = 0
    for k in reversed(range(lanes)):
        sampled = Mux(batch.samples[k], k, sampled)
    m.d.sync += batch.sampled.eq(sampled)  # a register late

    def next_word() -> None:
        m.next = "ENTRY"
        with m.If(words.left == 0):
            m.d.sync += members.eq(0)
            m.next = "OPERATIONS"
            with m.If(batch.count == 0):
                m.next = "DONE"

    with m.State("ENTRY"):
        m.d.comb += words.take.eq(1)
        m.d.sync += entry.eq(words.word)
        with m.If(words.valid):
            m.next = "ENTRY_CHECK"
    with m.State("ENTRY_CHECK"):
        row_end = batch.count + entry.count
        m.d.sync += [row.eq(batch.count), end.eq(row_end), todo.eq(Mux(feeds | ~is_tokens, 0, entry.count)), grouped.eq(members != 0)]
        m.next = "ENTRY_COMMAND"
        with m.If(entry.kind == EntryKind.GROUP):
            m.d.sync += [members.eq(entry.other), prefix.eq(entry.count), led.eq(0)]
            next_word()
        tokens_fit = (entry.count != 0) & (row_end <= lanes) & (~feeds | (entry.count == 1))
        whole = entry.count[:(config.block_size - 1).bit_length()] == 0
        possible = entry.count <= config.max_context
        legal = (entry.sequence < config.sequences) & Mux(is_tokens, tokens_fit, Mux(
            entry.kind == EntryKind.FORK, (entry.other < config.sequences) & possible & (batch.count == 0), Mux(
                entry.kind == EntryKind.GROUP, 0 if swaps else (entry.count != 0) & possible & whole & (members == 0), 1)))
        fail(ErrorCause.ILLEGAL_BATCH, ~legal, entry.as_value())
    with m.State("ENTRY_COMMAND"):
        m.d.comb += command.valid.eq(1)
        with m.If(command.ready):
            m.next = "ENTRY_DONE"
    with m.State("ENTRY_DONE"):
        m.d.comb += done.ready.eq(1)
        m.d.sync += [position.eq(done.p.length - entry.count), error.eq(done.p.error)]
        with m.If(done.valid):
            next_word()
            with m.If(is_tokens):
                m.d.sync += members.eq(members - grouped)
                m.next = "ENTRY_ROW"
                with m.If(grouped & led):
                    m.next = "ENTRY_COMPARE"
                with m.Elif(done.p.error == SequenceError.NONE):
                    m.d.sync += [leader.eq(sequence), led.eq(1), first.eq(row)]
            if isinstance(cache, SwapController):
                with m.If((entry.kind == EntryKind.FREE) & ((entry.other == SWAP_OUT) | (entry.other == SWAP_IN))):
                    m.next = "ENTRY_MOVES"
            with m.If(done.p.error != SequenceError.NONE):
                m.next = "ENTRY_REFUSED"
    if isinstance(cache, SwapController):
        with m.State("ENTRY_MOVES"):
            m.d.comb += cache.o_swapped.ready.eq(1)
            with m.If(cache.o_swapped.valid):
                next_word()
    with m.State("ENTRY_COMPARE"):
        m.d.comb += [command.valid.eq(1), command.p.command.eq(SequenceCommand.COMPARE), command.p.other.eq(leader),
                     command.p.count.eq(prefix)]
        with m.If(command.ready):
            m.next = "ENTRY_COMPARED"
    with m.State("ENTRY_COMPARED"):
        m.d.comb += done.ready.eq(1)
        with m.If(done.valid):
            m.next = "ENTRY_ROW"
        fail(ErrorCause.ILLEGAL_BATCH, done.valid & (done.p.error != SequenceError.NONE), entry.as_value())
    with m.State("ENTRY_REFUSED"):
        m.d.comb += [o_token.valid.eq(1), o_token.p.token.eq(REFUSED | error << 16 | entry.sequence), o_token.p.value.eq(0),
                     o_token.p.last.eq(0)]
        with m.If(o_token.ready):
            next_word()
            with m.If(todo != 0):
                m.next = "ENTRY_TOKEN"
    with m.State("ENTRY_ROW"):
        # A row per cycle; a token that is fed is there already.
        m.d.sync += [batch.positions[row].eq(position), batch.sequences[row].eq(sequence), batch.ends[row].eq(end),
                     batch.prefixes[row].eq(Mux(grouped, prefix, 0)), position.eq(position + 1), row.eq(row + 1)]
        for k, stop in enumerate(batch.stops):  # also of the entries before it in the group
            with m.If(first <= k):
                m.d.sync += stop.eq(end)
        with m.If(feeds):
            m.d.sync += batch.tokens[row].eq(batch.latest[sequence])
        with m.If(row + 1 == end):
            m.d.sync += [row.eq(batch.count), batch.samples.bit_select(row, 1).eq(samples), batch.count.eq(end)]
            m.next = "ENTRY_TOKEN"
            with m.If(feeds):
                m.next = "ENTRY_END"
        fail(ErrorCause.ILLEGAL_BATCH, grouped & (position < prefix), entry.as_value())
    with m.State("ENTRY_TOKEN"):
        fail(ErrorCause.ILLEGAL_BATCH, (words.left == 0) & ~words.valid, entry.as_value())
        m.d.comb += words.take.eq(1)
        with m.If(words.valid):
            m.d.sync += [todo.eq(todo - 1), row.eq(row + 1)]
            with m.If(error == SequenceError.NONE):
                m.d.sync += batch.tokens[row].eq(words.word)
            with m.If(todo == 1):
                m.next = "ENTRY_END"
    with m.State("ENTRY_END"):
        next_word()
