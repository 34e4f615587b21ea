"""Proofs of the paged cache: ghost tables follow what the pool answers, and say which blocks a sequence has."""

from collections.abc import Sequence

from amaranth.hdl import Array, Assert, Assume, Cat, Mux, Signal

from ...accelerators.cache.blocks import PoolCommand
from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.paged_formats import SequenceCommand
from ...accelerators.config import AcceleratorConfig
from .contract import StreamContract
from .controllers import RowTaker

__all__ = ["LookupContract", "PagedAnswerContract", "PagedContract"]


class _Begun(StreamContract):
    """Of a paged cache, with the commands that come first."""

    BLOCK_SIZE = 2

    def __init__(self, config: AcceleratorConfig, *, sequences: int = 2, blocks: int = 2,
                 begins: Sequence[tuple[SequenceCommand, int, int, int]] = (), component: type[PagedCache] = PagedCache,
                 lookups: bool = False):
        cache = component(config, sequences=sequences, block_size=self.BLOCK_SIZE, blocks=blocks, lookups=lookups)
        cache._rows = self.taker = RowTaker(cache._rows)
        super().__init__(cache)
        self.begins, self.begun = begins, Signal()

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self._free(m, self.taker.takes, "takes")
        # Each is offered at once, none stalled, and nothing else until they are done.
        cache = self.component
        number, done = (Signal(range(len(self.begins) + 1), name=name) for name in ("offered", "ended"))
        for k, values in enumerate(self.begins):
            offered = zip((cache.i_command.p[name] for name in ("command", "sequence", "other", "count")), values, strict=True)
            with m.If(number == k):
                m.d.comb += [Assume(cache.i_command.valid), *(Assume(field == value) for field, value in offered)]
        m.d.comb += self.begun.eq(done == len(self.begins))
        with m.If(~self.begun):
            m.d.comb += [Assume(~cache.i_request.valid), Assume(cache.o_done.ready), Assume(cache.o_copy.ready),
                         Assume(cache.i_request.p.as_value() == 0)]
            if cache.lookups:
                m.d.comb += Assume(~cache.i_look.valid)
            with m.If(number != len(self.begins)):
                m.d.sync += number.eq(number + (cache.i_command.valid & cache.i_command.ready))
            with m.Else():
                m.d.comb += [Assume(~cache.i_command.valid), Assume(cache.i_command.p.as_value() == 0)]
            m.d.sync += done.eq(done + cache.o_done.valid)
        return m


class PagedContract(_Begun):
    """With two positions per block:

    - counts never go below 0: the pool never has to refuse a RELEASE;
    - a block is never given out while a table refers to it, and three cycles behind each command's end every count is the number of
      references;
    - rows are only read and written in blocks of the sequence, those of its positions; only blocks without another owner are written;
    - a copy is offered only of a block that others have too, to the one given for it, which takes its place;
    - a request is refused only if it goes beyond the length, or would write to a block that others have too.

    What makes addresses of rows is left out. ``begins`` are the commands (with sequence, other and count) that come first, alone, so
    that few cycles behind them are what many are after reset.
    """

    def elaborate(self, platform):
        m = super().elaborate(platform)
        cache, pool, rows = self.component, self.component._pool, self.component._rows
        entries = -(-cache.config.max_context // self.BLOCK_SIZE)
        tables = Array([Array([Signal(range(cache.blocks), name=f"table_{s}_{k}") for k in range(entries)])
                        for s in range(cache.sequences)])
        held = Array([Signal(range(entries + 1), name=f"held_{s}") for s in range(cache.sequences)])
        length = Array([Signal(range(cache.config.max_context + 1), name=f"length_{s}") for s in range(cache.sequences)])
        owners = Array([Signal(4, name=f"owners_{b}") for b in range(cache.blocks)])
        self.tables, self.held, self.length, self.owners = tables, held, length, owners
        # Lookups change: whose RELEASE the pool decides; of a request's sequence, positions that it has in any case, and at most; and
        # which blocks others had too when the request came.
        self.looked, self.sure, self.most, self.left = Signal(), Signal.like(length[0]), Signal.like(length[0]), Signal(cache.blocks)

        # Commands and answers of the pool.
        command, asked, request = Signal.like(cache.i_command.p), Signal.like(pool.i.p), Signal.like(cache.i_request.p)
        busy, serving, told, decides = Signal(), Signal(), Signal(3), Signal()
        self.command, self.request, self.busy, self.serving, self.owes = command, request, busy, serving, Signal()
        takes, done = cache.i_command.valid & cache.i_command.ready, cache.o_done.valid & cache.o_done.ready
        with m.If(takes):
            m.d.sync += [command.eq(cache.i_command.p), busy.eq(1)]
        with m.If(cache.i_request.ready):  # the request before this one, if there is one, is done
            m.d.sync += serving.eq(0)
        with m.If(cache.i_request.valid & cache.i_request.ready):
            m.d.sync += [request.eq(cache.i_request.p), serving.eq(1)]
        answer, answered = pool.o.p, pool.o.valid & pool.o.ready
        does = {kind: answered & ~answer.refused & (asked.command == kind) for kind in PoolCommand}
        mine, its_held = tables[command.sequence], held[command.sequence]
        tail = length[command.sequence] >> 1
        replaces = length[command.sequence][0] & (owners[mine[tail]] > 1)  # the next block given is a copy of the last one
        of_extend = busy & (command.command == SequenceCommand.EXTEND)
        copy, copied, leaves = cache.o_copy, Signal.like(asked.block), Signal()
        with m.If(pool.i.valid & pool.i.ready):
            m.d.sync += [asked.eq(pool.i.p), leaves.eq(of_extend)]
        m.d.sync += decides.eq(pool.i.valid & pool.i.ready)  # then it changes; the answer may come behind that of the command
        m.d.comb += Assert(~copy.valid | (
            of_extend & replaces & pool.o.valid & ~answer.refused & (asked.command == PoolCommand.ALLOCATE)
            & (copy.p.source == mine[tail]) & (copy.p.target == answer.block) & (copy.p.rows == 1)))
        with m.If(does[PoolCommand.ALLOCATE]):
            m.d.sync += owners[answer.block].eq(1)
            m.d.comb += Assert(of_extend)
            with m.If(replaces):
                m.d.sync += [mine[tail].eq(answer.block), copied.eq(mine[tail]), self.owes.eq(1)]
            with m.Else():
                m.d.sync += [mine[its_held].eq(answer.block), its_held.eq(its_held + 1)]
        with m.If(does[PoolCommand.SHARE]):
            m.d.sync += [owners[answer.block].eq(owners[answer.block] + 1), mine[its_held].eq(answer.block),
                         its_held.eq(its_held + 1)]
            m.d.comb += Assert(answer.block == tables[command.other][its_held])
        with m.If(decides & (asked.command == PoolCommand.RELEASE)):
            m.d.sync += owners[asked.block].eq(owners[asked.block] - 1)
            with m.If(leaves & ~self.looked):
                m.d.sync += self.owes.eq(0)
                m.d.comb += Assert(asked.block == copied)
            with m.Elif(~self.looked):
                m.d.sync += its_held.eq(its_held - 1)
                m.d.comb += Assert((its_held != 0) & (asked.block == mine[(its_held - 1)[:len(its_held)]]))
        with m.If(cache.o_done.valid):
            m.d.sync += length[command.sequence].eq(cache.o_done.p.length)
        with m.If(done):
            m.d.sync += busy.eq(0)

        refers = [Cat((held[s] > k) & (tables[s][k] == b) for s in range(cache.sequences) for k in range(entries))
                  for b in range(cache.blocks)]
        counts = [sum(each for each in bits) for bits in refers]
        m.d.sync += told.eq(Cat(done, told[:2]))  # a block that was copied is given back with the command's answer
        m.d.comb += [
            Assert(~(answered & answer.refused & (asked.command == PoolCommand.RELEASE))),
            *(Assert(~(does[PoolCommand.ALLOCATE] & (answer.block == b)) | ((owners[b] == 0) & ~bits.any()))
              for b, bits in enumerate(refers)),
            *(Assert(~told[2] | (owners[b] == count)) for b, count in enumerate(counts)),
            Assert(~told[2] | (cache.free == sum(owners[b] == 0 for b in range(cache.blocks)))),
        ]

        # Rows.
        run, start = rows.i.p.passed, rows.i.p.position
        last, last_row = run.position + run.count - 1, start + run.count - 1
        theirs = tables[request.sequence]
        m.d.comb += [self.sure.eq(length[request.sequence]), self.most.eq(length[request.sequence])]
        refused = run.error & serving & (run.count == 0) & (rows.i.p.count == 0) & run.last & (
            (request.position + request.count > self.sure)
            | (request.write & Cat(((owners[theirs[k]] > 1) | self.left.bit_select(theirs[k], 1)) & (request.position < 2 * k + 2)
                                   & (request.position + request.count > 2 * k) for k in range(entries)).any()))
        m.d.comb += Assert(~rows.i.valid | refused | (
            ~run.error & serving & (run.count != 0) & (run.count == rows.i.p.count)
            & (run.position + run.count <= self.most)
            & (run.position >= request.position) & (last < request.position + request.count)
            & (rows.i.p.write == request.write) & (start[0] == run.position[0])
            & (start >> 1 == theirs[(run.position >> 1)[:1]]) & (last_row >> 1 == theirs[(last >> 1)[:1]])
            & (~request.write | ((owners[start >> 1] == 1) & (owners[last_row >> 1] == 1)))))
        return m


class LookupContract(PagedContract):
    """As PagedContract, with lookups at any time, one behind the other:

    - the answer has the block at that place of the sequence's table, and says whether others have it too; with ``release`` it is the
      last one, given back once, before the answer, and the sequence is as long as the blocks before it;
    - a request that comes meanwhile is refused only if it goes beyond the shorter length, or would write to a block that others had
      too when it came;
    - while nobody stalls, it is there within ``within`` cycles, and with ``release`` within ``given``, those in which a command is
      under way not counted, nor with ``release`` those in which a request about its sequence is offered or under way, or what a copy
      leaves; until then one command ends at most, and with ``release`` two behind the latest such request, beside those that leave a
      block that they copied.

    A lookup is of a block that the sequence has; from its offer to its answer there is no command about its sequence (of FORK and
    COMPARE, either one).
    """

    def __init__(self, config: AcceleratorConfig, *, within: int = 3, given: int = 5, **options):
        super().__init__(config, lookups=True, **options)
        self.within, self.given = within, given

    def elaborate(self, platform):
        m = super().elaborate(platform)
        cache, pool, offered, answer, comes = (
            self.component, self.component._pool.i, self.component.i_look, self.component.o_look, self.component.i_command)
        look, place, looking, gave, ended, waited = (
            Signal.like(offered.p), Signal.like(offered.p.index), Signal(), Signal(), Signal(range(4)), Signal())
        its, held, length = self.tables[look.sequence], self.held[look.sequence], self.length[look.sequence]
        has, releases, done = self.held[offered.p.sequence], looking & look.release, cache.o_done.valid & cache.o_done.ready
        of_request = look.sequence == self.request.sequence
        requested = (self.serving & of_request) | (cache.i_request.valid & (look.sequence == cache.i_request.p.sequence))
        with m.If(answer.valid & answer.ready):
            m.d.sync += looking.eq(0)
        with m.If(offered.valid & offered.ready):
            m.d.sync += [look.eq(offered.p), place.eq(Mux(offered.p.release, has - 1, offered.p.index)), looking.eq(1), gave.eq(0),
                         ended.eq(0)]
        with m.Elif(releases & requested):
            m.d.sync += ended.eq(0)
        with m.Elif(done & ~(releases & self.owes) & ~answer.valid & (ended != 3)):
            m.d.sync += ended.eq(ended + 1)

        def about(command, sequence):
            pair = command.command.matches(SequenceCommand.FORK, SequenceCommand.COMPARE)
            return (command.sequence == sequence) | (pair & (command.other == sequence))

        m.d.comb += [
            Assume(~offered.valid | ((offered.p.sequence < cache.sequences) & Mux(offered.p.release, has != 0, offered.p.index < has))),
            Assume(~offered.valid | ~((self.busy & about(self.command, offered.p.sequence))
                                      | (comes.valid & about(comes.p, offered.p.sequence)))),
            Assume(~(looking & comes.valid & about(comes.p, look.sequence))),
        ]

        # What is given back: the pool takes it between commands, or with the answer to one that leaves nothing itself.
        gives = pool.valid & pool.ready & (pool.p.command == PoolCommand.RELEASE) & (~self.busy | (done & ~self.owes))
        before = place << 1
        m.d.sync += self.looked.eq(gives)
        with m.If(gives):
            m.d.sync += gave.eq(1)
            m.d.comb += Assert(releases & ~gave & (pool.p.block == its[place]) & (held == place + 1))
        with m.If(cache.i_request.ready):
            m.d.sync += self.left.eq(0)
        with m.If(self.looked):
            m.d.sync += [held.eq(place), length.eq(before)]
            with m.If(self.owners[its[place]] > 1):
                m.d.sync += self.left.bit_select(its[place], 1).eq(1)
        with m.If(releases & of_request):
            m.d.comb += [self.sure.eq(Mux(length < before, length, before)), self.most.eq(Mux(length < before, before, length))]

        m.d.sync += waited.eq(answer.valid & ~answer.ready)
        m.d.comb += [
            Assert(~answer.valid | (looking & (answer.p.index == place) & (answer.p.block == its[place]) & (gave == look.release))),
            Assert(~answer.valid | waited | look.release | (answer.p.shared == (self.owners[answer.p.block] > 1))),
            Assert(~looking | (ended <= 1 + look.release)),
        ]
        self._due(m, "look", looking & ~look.release, answer.valid, self.within, waits=self.busy)
        self._due(m, "release", releases, answer.valid, self.given, waits=self.busy | self.owes | requested)
        return m


class PagedAnswerContract(_Begun):
    """Behind ``begins`` one command, one request, or both come, the first of them at once, and nobody stalls: the command is answered,
    and the rows of the request are given, within ``within`` cycles of the later one."""

    def __init__(self, config: AcceleratorConfig, *, within: int, **options):
        super().__init__(config, **options)
        self.within = within

    def elaborate(self, platform):
        m = super().elaborate(platform)
        cache, begun, busy, serving = self.component, Signal(), Signal(), Signal()
        takes, accepts = (port.valid & port.ready for port in (cache.i_command, cache.i_request))
        m.d.sync += [busy.eq((busy | takes) & ~cache.o_done.valid), serving.eq(accepts | (serving & ~cache.i_request.ready))]
        with m.If(self.begun):
            m.d.sync += begun.eq(1)
            m.d.comb += [Assume(self.taker.takes), Assume(cache.o_done.ready), Assume(cache.o_copy.ready),
                         Assume(begun | cache.i_command.valid | cache.i_request.valid)]
            for name, port in (("command", cache.i_command), ("request", cache.i_request)):
                came = Signal(name=f"{name}_came")
                m.d.sync += came.eq(came | (port.valid & port.ready))
                m.d.comb += Assume(~(came & port.valid))
        self._due(m, "answer", busy | serving, takes | accepts, self.within)
        return m
