"""The front end of several sequences."""

from dataclasses import replace

from amaranth.hdl import Module, Signal

from ..cache.paged import PagedCache
from ..cache.swap import SwapController
from ..config import TOKEN_BITS, AcceleratorConfig
from .batch import Batch, Words, batch_states
from .errors import ErrorCause
from .frontend import FrontEnd
from .rows import RowReads

__all__ = ["BatchFrontEnd"]


class BatchFrontEnd(FrontEnd):
    """Sequencer of several sequences: a ``FrontEnd`` with ``cache = "paged"``.

    A start is a step. The prompt is a batch (``entries``): for each entry the paged cache makes room, shares or gives back blocks;
    the tokens of all entries, each with its sequence and position, go through the program together. The program's tail, from its
    first operation for the last chunk on, runs once for every token that is sampled, in the order of the batch; the token goes out
    and is kept for an entry that feeds it. A step without tokens to be sampled ends when the executor has come to the program's end.
    An entry that the cache refuses is told on ``o_token`` (``entries.REFUSED``), its tokens are left out, and all others go on.
    With ``swap_slots`` the cache is a ``SwapController``, and entries also tell sequences to leave and to come back.

    Members that ``FrontEnd`` has for other caches alone (``start_position``, ``max_new_tokens``, ``eos_token``, ``ignore_eos``,
    ``stop``, ``kv_capacity``, ``position``) mean nothing. Attention's tiles end with an entry, or with a group of entries whose
    sequences share a prefix: then the prefix's rows are read once for the tile (``paged_rows``).

    Latency: 2 cycles from ``start`` to the command for the batch. Interval: as ``FrontEnd``; an entry takes what ``PagedCache`` takes
    for its command (in a group, for a COMPARE as well), the copy that it may cause, and 4 cycles and 2 per token more; a record of
    APPEND what a request takes; a tile of ATTEND 2 cycles and for each of its parts 2 more.
    """

    latency = None
    interval = None

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BatchFrontEnd":
        return cls(config if config.cache == "paged" else replace(config, cache="paged"))

    def _batch_states(self, m: Module, batch: Batch, cache: PagedCache | SwapController, command: Signal, collects: Signal, fail
                      ) -> None:
        """States that read a batch and prepare its tokens."""
        words = Words(self.i_program.valid, self.i_program.p.data[:32], Signal(name="take_word"), Signal(TOKEN_BITS, name="words_left"))
        m.d.comb += collects.eq(words.take)
        m.d.sync += words.left.eq(words.left - (words.take & words.valid))
        with m.State("PROMPT_COMMAND"):
            m.d.comb += command.eq(1)
            m.d.sync += [words.left.eq(self.prompt_length), batch.count.eq(0), batch.samples.eq(0)]
            with m.If(self.o_program.ready):
                m.next = "ENTRY"
        batch_states(m, batch, cache, self.config, words, self.o_token, fail)
        with m.State("DONE"):
            m.d.sync += self.done.eq(1)
            m.next = "IDLE"

    def _record_states(self, m: Module, x: RowReads, batch: Batch, row: Signal, cache: PagedCache | SwapController) -> None:
        """States that give the writes of APPEND: token after token, head after head."""
        request = cache.i_request
        with m.State("RECORD"):
            m.d.comb += [request.valid.eq(1), request.p.write.eq(1), request.p.sequence.eq(batch.sequences[row]),
                         request.p.position.eq(batch.positions[row]), request.p.count.eq(1)]
            with m.If(request.ready):
                m.next = "RECORD_COMMAND"
        with m.State("RECORD_COMMAND"):
            record, refused = cache.o_write, cache.o_write.p.error
            m.d.comb += [self.o_record.valid.eq(record.valid & ~refused), record.ready.eq(self.o_record.ready | refused),
                         *(self.o_record.p[name].eq(record.p[name]) for name in ("address", "beats"))]
            x.fail(ErrorCause.CACHE_FULL, record.valid & refused, x.length)
            with m.If(record.valid & ~refused & self.o_record.ready):
                m.d.sync += x.head.eq(x.head + 1)
                m.next = "RECORD"
                with m.If(x.head + 1 == x.heads):
                    m.d.sync += [x.head.eq(0), row.eq(row + 1)]
                    with m.If(row + 1 == x.count):
                        m.next = "DECODE"
