"""Operation controller: an expert's two matrices stream past its tokens."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Pipeline
from ..streams import Queue, connect
from .config import ExpertConfig
from .gemm import gemm_word
from .lanes import TokenLanes, group_write, lane_write
from .rounding import SCALE
from .softmax import SCALE_BITS
from .streamer import run_layout, weight_layout

__all__ = ["Operation", "address_layout", "bank_bits", "expert_layout", "row_layout"]


def address_layout(config: ExpertConfig) -> data.StructLayout:
    """Where a matrix begins; ``column`` is that of a read command."""
    return data.StructLayout({"bundle": range(config.bundles), "row": range(config.rows), "column": range(config.columns)})


def expert_layout(config: ExpertConfig) -> data.StructLayout:
    """An expert to be computed: its matrices and their dimensions. ``first``: a layer begins.

    ``scales``, of int8 only: of what gate and up give, of the activation's result, of what down gives.

    With ``config.attention`` instead, where ``attention`` is set, the decode attention of a K/V head: ``gate_up`` is K [positions,
    hidden], ``down`` V transposed [hidden, slice], of which the first ``positions`` of each row count; ``scales`` of the scores, of
    nothing, of what the mix gives. ``softmax_scale``: see ``GroupSoftmax``.
    """
    integers = {} if config.format.exponent_bits else {"scales": data.ArrayLayout(SCALE, 3)}
    attention = {"attention": 1, "positions": range(config.max_intermediate + 1), "softmax_scale": SCALE_BITS + 1}
    return data.StructLayout({
        "gate_up": address_layout(config), "down": address_layout(config),
        "hidden_words": range(config.max_hidden // config.lanes + 1), "slice_words": range(config.max_intermediate // config.lanes + 1),
        "first": 1, **integers, **(attention if config.attention else {})})


def bank_bits(config: ExpertConfig) -> int:
    """Of the token table: an expert's tokens are gathered while those of the one before it are in use; of attentions, of the two."""
    return 2 if config.attention else 1


def row_layout(config: ExpertConfig) -> data.StructLayout:
    """A row of weights that has met a tile. ``bank``: of the token table; ``end``: the operation's last; ``attention``: of a MIX."""
    rows = max(2 * config.max_intermediate, config.max_hidden)
    return data.StructLayout({"down": 1, "row": range(rows), "bank": bank_bits(config), "tokens": range(config.max_tokens + 1),
                              "end": 1, **({"attention": 1} if config.attention else {})})


class Operation(wiring.Component):
    """Walks an expert's matrices: GATE_UP (rows of gate and up in turn), then DOWN (Duplex, arXiv:2409.01141, section 5)::

        i, tokens -> run of GATE_UP, run of DOWN -> o_run
                        '-> queue -> position in the row of weights, per tile
                                          |
        i_words ----------------------> read x or h of all lanes -> o (to the GEMM module)
                                          '-> o_row: which results will come of it

    With ``config.attention`` also the two of decode attention: SCORES (K, in the place of GATE_UP), then MIX (V transposed, in that of
    DOWN). A row of V is read to its end, but words behind the last of ``positions`` go nowhere.

    Runs are asked for before the one in front is through, so memory does not wait for an operation's end. DOWN waits for the
    activations of all rows of GATE_UP (``complete``).

    The softmax of an attention takes a cycle per position between its SCORES and its MIX. So the MIX goes behind the SCORES of the
    attention that follows, and memory streams on: K0 K1 V0 K2 V1 ... Kn Vn-1 Vn. It does not wait for them longer than the softmax
    takes (``passed``), nor if an expert follows. (The alternatives: a softmax of several positions per cycle has as many more powers
    and still loses its latency of some 60 cycles per head; one with a running maximum, in step with the scores, loses it too, and has
    other numbers.)

    Parameters
    ----------
    config : ExpertConfig

    Members
    -------
    i : In(stream of expert_layout)
        Dimensions are from 1 to the configuration's.
    i_tokens : In(stream of {tokens})
        The expert's tokens are in the x lanes: how many, 1 or more.
    i_x, i_h : In(stream of lane_write, always_ready=True)
        Into the x lanes, and, by elements, into the h lanes.
    i_p : In(stream of group_write, always_ready=True)
        With ``config.attention``: into the h lanes, too.
    o_run : Out(stream of run_layout)
    i_words : In(stream of weight_layout)
    o : Out(stream of gemm_word)
    o_row : Out(stream of row_layout)
        One for each word with ``last``, in their order, not after it; none for words of SCORES.
    complete : In(1)
        All results of GATE_UP, or what became of those of SCORES, are in the h lanes, all of the DOWN or MIX before it in the output
        buffer.
    begun : Out(1)
        DOWN or MIX begins: the x lanes are free, or with ``config.attention`` those of its own (``freed``).
    bank : Out(bank_bits)
        Of the token table, for the next expert.
    scale, h_scale : Out(SCALE)
        Of int8 only; for the operation under way, whose sums are the only ones inside: GATE_UP waits for the DOWN before it.
    softmax_scale, score_scale : Out
        With ``config.attention``, the second of int8 only: of the last SCORES, which wait for the scores before them.
    freed : Out(1)
        With ``config.attention``: GATE_UP or SCORES is through, the x lanes are free.
    heard : In(1)
        With ``config.attention``, in one cycle: the last of the scores has come.
    passed : In(1)
        With ``config.attention``, in one cycle: the softmax of an attention is about to end. MIX waits for ``complete`` all the same.
    done : In(1)
        Of int8 only: in one cycle, all results of a DOWN are in the output buffer.
    starved, waiting, held : Out(1)
        An operation is there and no word enters: there is none; DOWN waits for activations, or what comes after it for results; results
        are not taken.

    Latency: 1 cycle from a word to ``o``. Interval: 1 cycle.
    """

    latency = 1
    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.hidden_words, self.slice_words = config.max_hidden // config.lanes, config.max_intermediate // config.lanes
        self.integers = not config.format.exponent_bits
        scales = {"scale": Out(SCALE), "h_scale": Out(SCALE), "done": In(1)} if self.integers else {}
        attention = {"i_p": In(stream.Signature(group_write(config), always_ready=True)), "softmax_scale": Out(SCALE_BITS + 1),
                     "freed": Out(1), "heard": In(1), "passed": In(1), **({"score_scale": Out(SCALE)} if self.integers else {})}
        super().__init__({
            "i": In(stream.Signature(expert_layout(config))),
            "i_tokens": In(stream.Signature(data.StructLayout({"tokens": range(config.max_tokens + 1)}))),
            "i_x": In(stream.Signature(lane_write(config, self.hidden_words, 1), always_ready=True)),
            "i_h": In(stream.Signature(lane_write(config, self.slice_words, config.lanes), always_ready=True)),
            "o_run": Out(stream.Signature(run_layout(config))),
            "i_words": In(stream.Signature(weight_layout(config))),
            "o": Out(stream.Signature(gemm_word(config))),
            "o_row": Out(stream.Signature(row_layout(config))),
            "complete": In(1), "begun": Out(1), "bank": Out(bank_bits(config)), "starved": Out(1), "waiting": Out(1), "held": Out(1),
            **scales, **(attention if config.attention else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "Operation":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        rows = self.o_row.p.row.shape().width
        words = range(max(self.hidden_words, self.slice_words))
        tasks = data.StructLayout({"down": 1, "bank": bank_bits(self.config), "tokens": self.i_tokens.p.tokens.shape(),
                                   "last_tile": self.i_words.p.tile.shape(), "last_row": rows, "last_word": words,
                                   **({"scale": SCALE, "h_scale": SCALE} if self.integers else {}),
                                   **({"attention": 1, "last_used": words, "softmax_scale": SCALE_BITS + 1}
                                      if self.config.attention else {})})
        m.submodules.queue = queue = Queue(tasks, 4)
        self._ask(m, queue.i)
        self._walk(m, queue.o)
        return m

    def _ask(self, m: Module, tasks) -> None:
        """Runs and tasks of an expert."""
        config, expert = self.config, self.i.p
        low = (config.lanes - 1).bit_length()
        bank, down = self.bank, Signal()
        self._down = down  # for the proof of ``o_run``
        # Words of a matrix: rows * words of a row = lanes * hidden_words * slice_words, twice for gate and up.
        blocks = Pipeline(m).multiply(expert.hidden_words, expert.slice_words)
        tiles = (self.i_tokens.p.tokens + (config.token_lanes - 1)) >> (config.token_lanes.bit_length() - 1)
        at = Mux(down, expert.down.as_value(), expert.gate_up.as_value())
        run, task, last_word = self.o_run.p, tasks.p, Mux(down, expert.slice_words, expert.hidden_words) - 1
        place = data.View(address_layout(config), at)
        m.d.comb += [
            run.bundle.eq(place.bundle), run.row.eq(place.row), run.column.eq(place.column), run.tiles.eq(tiles),
            run.words.eq(blocks << Mux(down, low, low + 1)),
            task.down.eq(down), task.bank.eq(bank), task.tokens.eq(self.i_tokens.p.tokens), task.last_tile.eq(tiles - 1),
            task.last_row.eq(Mux(down, expert.hidden_words, expert.slice_words << 1) * config.lanes - 1),
            task.last_word.eq(last_word),
        ]
        if self.integers:
            m.d.comb += [task.scale.eq(Mux(down, expert.scales[2].as_value(), expert.scales[0].as_value())),
                         task.h_scale.eq(expert.scales[1].as_value())]
        if config.attention:
            scores = Pipeline(m).multiply(expert.positions, expert.hidden_words)
            m.d.comb += [task.attention.eq(expert.attention), task.softmax_scale.eq(expert.softmax_scale),
                         task.last_used.eq(last_word)]  # not of task.last_word: always_comb does not wait for what it writes itself
            with m.If(expert.attention & down):
                m.d.comb += task.last_used.eq((expert.positions - 1)[low:])
            with m.Elif(expert.attention):
                m.d.comb += [run.words.eq(scores), task.last_row.eq(expert.positions - 1)]
        kept, due = Signal(), Signal()  # a MIX; its turn has come
        with m.FSM(name="ask"):
            with m.State("WAIT"):
                with m.If(self.i.valid & self.i_tokens.valid):
                    m.next = "WORDS"
                if config.attention:
                    with m.If(due):
                        m.next = "RUN_KEPT"
            with m.State("WORDS"):  # the product takes two cycles
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.o_run.valid.eq(1)
                with m.If(self.o_run.ready):
                    m.next = "TASK"
            with m.State("TASK"):
                m.d.comb += tasks.valid.eq(1)
                with m.If(tasks.ready):
                    m.d.sync += down.eq(~down)
                    m.next = "RUN"
                    with m.If(down):
                        m.d.comb += [self.i.ready.eq(1), self.i_tokens.ready.eq(1)]
                        m.d.sync += bank.eq(bank + 1 if config.attention else ~bank)
                        m.next = "WAIT"
                    if config.attention:
                        with m.If(~down & expert.attention):
                            m.next = "KEEP"
                            with m.If(kept):
                                m.next = "RUN_KEPT"
            if config.attention:
                self._keep(m, tasks, kept, due, down)

    def _keep(self, m: Module, tasks, kept: Signal, due: Signal, down: Signal) -> None:
        """States of ``_ask``: a MIX is kept, then asked for behind the SCORES of the next attention."""
        expert, run, task = self.i.p, self.o_run.p, tasks.p
        mix = Signal(data.StructLayout({"run": run.shape(), "task": task.shape()}))
        scores, going = Signal(), Signal(range(4))  # SCORES are asked for; as many have not been through the softmax
        m.d.comb += [scores.eq(tasks.valid & tasks.ready & task.attention & ~task.down),
                     due.eq(kept & ((going == 0) | (self.i.valid & self.i_tokens.valid & ~expert.attention)))]
        m.d.sync += going.eq(going + scores - self.passed)
        with m.State("RUN_KEPT"):
            m.d.comb += [self.o_run.valid.eq(1), run.eq(mix.run)]
            with m.If(self.o_run.ready):
                m.next = "TASK_KEPT"
        with m.State("TASK_KEPT"):
            m.d.comb += [tasks.valid.eq(1), task.eq(mix.task)]
            with m.If(tasks.ready):
                m.d.sync += kept.eq(0)
                m.next = "WAIT"
                with m.If(down):
                    m.next = "KEEP"
        with m.State("KEEP"):
            m.d.comb += [self.i.ready.eq(1), self.i_tokens.ready.eq(1)]
            m.d.sync += [mix.run.eq(run), mix.task.eq(task), kept.eq(1), down.eq(0), self.bank.eq(self.bank + 1)]
            m.next = "WAIT"

    def _walk(self, m: Module, tasks) -> None:
        """Each word with the activations of its tile."""
        config, given = self.config, self.i_words.p
        m.submodules.x_lanes = x = TokenLanes(config, self.hidden_words, by_element=False)
        m.submodules.h_lanes = h = TokenLanes(config, self.slice_words, by_element=True, together=config.attention)
        connect(m, wiring.flipped(self.i_x), x.i)
        connect(m, wiring.flipped(self.i_h), h.i)
        if config.attention:
            connect(m, wiring.flipped(self.i_p), h.i_group)

        task, running = Signal(tasks.p.shape()), Signal()
        place = data.StructLayout({"row": task.last_row.shape(), "word": task.last_word.shape()})
        now, following, begin = Signal(place), Signal(place), Signal(place)  # begin: of the stretch
        first, last, final = now.word == 0, now.word == task.last_word, now.row == task.last_row
        free, take, loaded = Signal(), Signal(), Signal()
        last_tile = given.tile == task.last_tile
        m.d.comb += [
            free.eq(~loaded | self.o.ready),
            self.i_words.ready.eq(running & free & (~last | self.o_row.ready)), take.eq(self.i_words.valid & self.i_words.ready),
            following.word.eq(Mux(last, 0, now.word + 1)), following.row.eq(now.row + last),
            self.o_row.valid.eq(running & self.i_words.valid & free & last),
            self.o_row.p.down.eq(task.down), self.o_row.p.row.eq(now.row), self.o_row.p.bank.eq(task.bank),
            self.o_row.p.tokens.eq(task.tokens), self.o_row.p.end.eq(final & last_tile),
            x.word.eq(now.word), x.tile.eq(given.tile), x.en.eq(free), h.word.eq(now.word), h.tile.eq(given.tile), h.en.eq(free),
            self.starved.eq(running & ~self.i_words.valid), self.held.eq(running & self.i_words.valid & ~self.i_words.ready),
        ]
        with m.If(take):
            # Each tile passes over the same stretch.
            m.d.sync += now.eq(following)
            with m.If(given.end):
                m.d.sync += now.eq(Mux(last_tile, following.as_value(), begin.as_value()))
                with m.If(last_tile):
                    m.d.sync += begin.eq(following)

        adding = Signal() if self.integers else Const(0, 1)  # results of a DOWN
        ready = Mux(tasks.p.down, self.complete, ~adding)
        if config.attention:
            scoring = Signal()
            ready = Mux(tasks.p.attention & ~tasks.p.down, ~scoring, ready)
        m.d.comb += [tasks.ready.eq(~running & ready), self.begun.eq(tasks.valid & tasks.ready & tasks.p.down),
                     self.waiting.eq(tasks.valid & ~running & ~ready)]
        with m.If(tasks.valid & tasks.ready):
            m.d.sync += [task.eq(tasks.p), running.eq(1), now.eq(0), begin.eq(0)]
        with m.Elif(take & last & final & last_tile):
            m.d.sync += running.eq(0)

        # With the lanes' words.
        word, tile, ends, down = (Signal.like(given.word), Signal.like(given.tile), Signal(2), Signal())
        with m.If(free):
            m.d.sync += [loaded.eq(take), word.eq(given.word), tile.eq(given.tile), ends.eq(Cat(first, last)), down.eq(task.down)]
        m.d.comb += [self.o.valid.eq(loaded), self.o.p.weights.eq(word), self.o.p.tile.eq(tile), self.o.p.first.eq(ends[0]),
                     self.o.p.last.eq(ends[1]), self.o.p.x.eq(Mux(down, h.o.as_value(), x.o.as_value()))]
        if config.attention:
            # A row ends with its last position; words of SCORES have no o_row.
            ending, score, end = now.word == task.last_used, Signal(), Signal()
            scores = task.attention & ~task.down
            m.d.comb += [
                self.i_words.ready.eq(running & free & (~ending | scores | self.o_row.ready)),
                self.o_row.valid.eq(running & self.i_words.valid & free & ending & ~scores),
                self.o_row.p.attention.eq(task.attention), self.o.p.score.eq(score), self.o.p.end.eq(end),
                self.freed.eq(take & last & final & last_tile & ~task.down),
            ]
            with m.If(free):
                m.d.sync += [loaded.eq(take & (now.word <= task.last_used)), ends.eq(Cat(first, ending)), score.eq(scores),
                             end.eq(final)]
            # The halves of the h lanes in turn, and what belongs to the scores.
            half, begins = Signal(), Signal()
            m.d.comb += begins.eq(tasks.valid & tasks.ready & tasks.p.attention & ~tasks.p.down)
            with m.If(task.attention):
                m.d.comb += h.tile.eq(half)
                m.d.sync += half.eq(half ^ (take & last & final & task.down))
            with m.If(begins):
                m.d.sync += [scoring.eq(1), self.softmax_scale.eq(tasks.p.softmax_scale)]
            with m.Elif(self.heard):
                m.d.sync += scoring.eq(0)
        if self.integers:
            with m.If(self.begun):
                m.d.sync += adding.eq(1)
            with m.Elif(self.done):
                m.d.sync += adding.eq(0)
            if not config.attention:
                m.d.comb += [self.scale.eq(task.scale), self.h_scale.eq(task.h_scale)]
                return
            # Sums of scores are inside together with those of a MIX or DOWN.
            m.d.comb += self.h_scale.eq(task.h_scale)
            with m.If(begins):
                m.d.sync += self.score_scale.eq(tasks.p.scale)
            with m.Elif(tasks.valid & tasks.ready):
                m.d.sync += self.scale.eq(tasks.p.scale)
