"""How a front end with several sequences begins a step: it reads the batch (``entries``), has the KV cache make room, and finds out of
every token of which sequence and where it is. States of the main machine."""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Array, Module, Mux, Signal, ValueLike
from amaranth.lib import data, stream

from ..cache.paged import PagedCache, SequenceCommand, SequenceError
from ..config import AcceleratorConfig
from .entries import COUNT_BITS, FEED, REFUSED, SAMPLE, SEQUENCE, SEQUENCE_BITS, EntryKind
from .errors import ErrorCause

__all__ = ["Batch", "batch_states"]

_FIELDS = data.StructLayout({"count": COUNT_BITS, "other": SEQUENCE - COUNT_BITS, "sequence": SEQUENCE_BITS, "kind": 2})


class Batch:
    """The tokens of a step.

    Members
    -------
    tokens, positions, sequences, ends : Array
        Per token: id, position, sequence, number of the token behind the last one of its entry.
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
        self.positions, self.ends = each("token_position", range(config.max_context + 1)), each("token_end", range(lanes + 1))
        self.sequences, self.latest = each("token_sequence", range(config.sequences)), each("latest", 32, config.sequences)
        self.samples, self.sampled, self.count = Signal(lanes), Signal(range(lanes)), Signal(range(lanes + 1))


@dataclass
class Words:
    """The list as it comes from memory: a word while ``valid``; ``take`` it. ``left`` words are still to come."""

    valid: Signal
    word: ValueLike
    take: Signal
    left: Signal


def batch_states(m: Module, batch: Batch, cache: PagedCache, config: AcceleratorConfig, words: Words, o_token: stream.Interface,
                 fail: Callable[[ErrorCause, ValueLike, ValueLike], None]) -> None:
    """ENTRY ... until the list has ended, then OPERATIONS, or DONE for a list without tokens.

    An entry that the cache refuses is told on ``o_token`` (``REFUSED``), and its tokens are left out; a list that is not one stops the
    front end.
    """
    lanes = config.token_lanes
    entry, todo, error = Signal(_FIELDS), Signal(COUNT_BITS), Signal(SequenceError)
    is_tokens, feeds, samples = Signal(), Signal(), Signal()
    row, position, end = Signal(range(lanes + 1)), Signal(range(config.max_context + 1)), Signal(range(lanes + 1))
    bits = (config.sequences - 1).bit_length()
    sequence, other = entry.sequence[:bits], entry.other[:bits]
    command, done = cache.i_command, cache.o_done
    m.d.comb += [
        is_tokens.eq(entry.kind == EntryKind.TOKENS), feeds.eq(is_tokens & entry.as_value()[FEED]),
        samples.eq(is_tokens & entry.as_value()[SAMPLE]),
        command.p.command.eq(Mux(is_tokens, SequenceCommand.EXTEND,
                                 Mux(entry.kind == EntryKind.FORK, SequenceCommand.FORK, SequenceCommand.FREE))),
        command.p.sequence.eq(sequence), command.p.other.eq(other), command.p.count.eq(entry.count),
    ]
    first: ValueLike = 0
    for k in reversed(range(lanes)):
        first = Mux(batch.samples[k], k, first)
    m.d.sync += batch.sampled.eq(first)  # a register late

    def next_word() -> None:
        m.next = "ENTRY"
        with m.If(words.left == 0):
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
        m.d.sync += [row.eq(batch.count), end.eq(row_end), todo.eq(Mux(feeds | ~is_tokens, 0, entry.count))]
        m.next = "ENTRY_COMMAND"
        tokens_fit = (entry.count != 0) & (row_end <= lanes) & (~feeds | (entry.count == 1))
        whole = (entry.count[:(config.block_size - 1).bit_length()] == 0) & (entry.count <= config.max_context)
        legal = (entry.sequence < config.sequences) & Mux(is_tokens, tokens_fit, Mux(
            entry.kind == EntryKind.FORK, (entry.other < config.sequences) & whole, entry.kind == EntryKind.FREE))
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
                m.next = "ENTRY_ROW"
            with m.If(done.p.error != SequenceError.NONE):
                m.next = "ENTRY_REFUSED"
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
                     position.eq(position + 1), row.eq(row + 1)]
        with m.If(feeds):
            m.d.sync += batch.tokens[row].eq(batch.latest[sequence])
        with m.If(row + 1 == end):
            m.d.sync += [row.eq(batch.count), batch.samples.bit_select(row, 1).eq(samples), batch.count.eq(end)]
            m.next = "ENTRY_TOKEN"
            with m.If(feeds):
                m.next = "ENTRY_END"
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
