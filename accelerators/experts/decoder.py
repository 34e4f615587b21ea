"""Instruction queue and decoder: the host's descriptors become operations, or errors with a cause."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..control.isa import CHECK_SEED
from ..pipeline import Pipeline
from ..streams import Queue, connect
from .config import ExpertConfig
from .errors import ERROR_BITS, ExpertError
from .instructions import DESCRIPTOR_WORDS, FIELDS, KIND_BITS, SCALES, Kind
from .operation import address_layout
from .rounding import SCALE
from .softmax import SCALE_BITS

__all__ = ["InstructionDecoder", "operation_layout"]

RUN_BITS = 24
"""Words of a matrix."""


def operation_layout(config: ExpertConfig) -> data.StructLayout:
    """What a descriptor asks for, or with ``cause`` (``ExpertError``) why it is refused: then only ``tag`` counts beside it.

    ``scales``, of int8 only: of what the first matrix gives, of the activation's result, of what the second gives.
    """
    attention = {"positions": range(config.max_intermediate + 1), "softmax_scale": SCALE_BITS + 1,
                 "query": range(config.max_tokens), "group": range(config.token_lanes + 1)}
    return data.StructLayout({
        "kind": KIND_BITS, "cause": ERROR_BITS, "tag": FIELDS["tag"][2], "expert": range(config.experts), "begin": 1,
        "gate_up": address_layout(config), "down": address_layout(config),
        "hidden_words": range(config.max_hidden // config.lanes + 1), "slice_words": range(config.max_intermediate // config.lanes + 1),
        **({} if config.format.exponent_bits else {"scales": data.ArrayLayout(SCALE, 3)}), **(attention if config.attention else {})})


class InstructionDecoder(wiring.Component):
    """Queue of descriptors (``instructions.py``) and the checks on them (Duplex, arXiv:2409.01141, section 5: the instruction queue)::

        i -> queue -> words of a descriptor -> checks -> o

    A refused descriptor leaves those behind it alone. Causes (``ExpertError``), the first one in this order: ``CHECK_WORD`` (also: not
    16 words), ``KIND`` (ATTENTION without ``config.attention``, too), ``EXPERT``, ``DIMENSIONS`` (0, too large, no whole words; of an
    attention also more positions than a row of V has, or more query heads than lanes), ``TOKEN`` (a query head behind the last token),
    ``ADDRESS`` (an offset that is not that of a read command), ``SPACE`` (a matrix begins or ends beyond its bundle, or with
    ``ping_pong`` beyond the pair of bundles), ``SCALE`` (int8: a mantissa of 0; a softmax scale of more than 26 bits). What a kind has
    no use for is not looked at.

    Parameters
    ----------
    config : ExpertConfig
    depth : int
        Descriptors that can wait, 1 to 64.

    Members
    -------
    i : In(stream of {word: 32, last})
        Word 0 first; ``last`` on a descriptor's last word, wherever it may be.
    o : Out(stream of operation_layout)
        One for each descriptor, in their order. Of a damaged one the tag may be anything.

    Latency: ``latency`` cycles from a descriptor's last word to ``o``. Interval: 1 cycle per word, and 7 more per descriptor.
    """

    interval = None

    def __init__(self, config: ExpertConfig, depth: int = 8):
        check_int("depth", depth, 1, 64)
        check_int("timing.ccd / 2", config.timing.ccd // 2, 1, 16, power_of_two=True)
        self.config = config
        self.integers = not config.format.exponent_bits
        self._queue = Queue(data.StructLayout({"word": 32, "last": 1}), DESCRIPTOR_WORDS * depth)
        self.latency = self._queue.latency + 7
        super().__init__({
            "i": In(stream.Signature(self._queue.i.p.shape())),
            "o": Out(stream.Signature(operation_layout(config))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "InstructionDecoder":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = self._queue
        connect(m, wiring.flipped(self.i), queue.i)
        item = queue.o.p
        used = 1 + (FIELDS["group"][0] if self.config.attention else SCALES[-1] if self.integers else FIELDS["second_row"][0])
        words = [Signal(32, name=f"word_{k}") for k in range(used)]
        number, check, step = Signal(range(DESCRIPTOR_WORDS + 1)), Signal(32, init=CHECK_SEED), Signal(range(6))

        field = {name: words[word][low:low + width] for name, (word, low, width) in FIELDS.items() if word < used}
        checks = self._checks(m, field, words)
        damaged, result = Signal(), self.o.p
        with m.FSM():
            with m.State("WORDS"):
                m.d.comb += queue.o.ready.eq(1)
                m.d.sync += step.eq(0)
                with m.If(queue.o.valid):
                    m.d.sync += [number.eq(Mux(number == DESCRIPTOR_WORDS, number, number + 1)), check.eq(check ^ item.word)]
                    for k, word in enumerate(words):
                        with m.If(number == k):
                            m.d.sync += word.eq(item.word)
                    with m.If(item.last):
                        m.d.sync += damaged.eq((check != item.word) | (number != DESCRIPTOR_WORDS - 1))
                        m.next = "CHECKS"
            with m.State("CHECKS"):
                m.d.sync += [step.eq(step + 1), number.eq(0), check.eq(CHECK_SEED), result.cause.eq(ExpertError.NONE)]
                for cause, wrong in reversed([(ExpertError.CHECK_WORD, damaged), *checks]):
                    with m.If(wrong):
                        m.d.sync += result.cause.eq(cause)
                with m.If(step == 5):
                    m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "WORDS"

        low = (self.config.lanes - 1).bit_length()
        for name, start in (("first", result.gate_up), ("second", result.down)):
            m.d.comb += [start.bundle.eq(field[f"{name}_bundle"]), start.row.eq(field[f"{name}_row"]),
                         start.column.eq(field[f"{name}_offset"] >> self._read_bits)]
        m.d.comb += [
            result.kind.eq(field["kind"]), result.tag.eq(field["tag"]), result.expert.eq(field["expert"]),
            result.begin.eq(field["begin"]),
            result.hidden_words.eq(field["hidden"] >> low), result.slice_words.eq(field["intermediate"] >> low),
        ]
        if self.config.attention:
            m.d.comb += [result[name].eq(field[name]) for name in ("positions", "softmax_scale", "query", "group")]
        if self.integers:
            for k, word in enumerate(SCALES):
                m.d.comb += [result.scales[k].mantissa.eq(words[word][:16]), result.scales[k].exponent.eq(words[word][16:24])]
        return m

    @property
    def _read_bits(self) -> int:
        """Of a byte in what a read command gives."""
        return (self.config.word_bytes * self.config.timing.ccd // 2 - 1).bit_length()

    def _checks(self, m: Module, field: dict[str, Value], words: list[Signal]) -> list[tuple[ExpertError, Value]]:
        """``(cause, wrong)``, the first that counts first; right from the fifth cycle after the words on."""
        config, register = self.config, Pipeline(m).register
        low, kind = (config.lanes - 1).bit_length(), field["kind"]
        expert, layer, attention = (register(kind == each) for each in (Kind.EXPERT, Kind.LAYER, Kind.ATTENTION))

        def dimension(value: Value, most: int) -> Value:
            return register((value == 0) | (value > most) | value[:low].any())
        # Words of a matrix: rows * words of a row.
        rows, row_words = field["intermediate"][:17], field["hidden"][low:17]
        size = Pipeline(m).multiply(rows, row_words)
        amounts = {"first": size << 1, "second": size}
        sizes = dimension(field["hidden"], config.max_hidden) | dimension(field["intermediate"], config.max_intermediate)
        if config.attention:
            positions, query, group = (field[name] for name in ("positions", "query", "group"))
            amounts["first"] = Mux(attention, Pipeline(m).multiply(positions[:17], row_words), size << 1)
            sizes |= attention & register((positions == 0) | (positions > field["intermediate"]) | (group == 0)
                                          | (group > config.token_lanes))
        turns, address, space = 2 if config.ping_pong else 1, [], []
        capacity = turns * config.rows * config.row_words
        for name, size in amounts.items():
            bundle, row, offset = (field[f"{name}_{part}"] for part in ("bundle", "row", "offset"))
            stretch, amount = Cat(bundle[0], row) if config.ping_pong else row, register(size)
            place = register(stretch * config.row_words + (offset >> (config.word_bytes - 1).bit_length()))
            end = register(place + amount)
            beyond = (bundle >= config.bundles) | (row >= config.rows) | (offset >= config.row_words * config.word_bytes)
            space.append(register(register(beyond) | (end > capacity) | amount[RUN_BITS:].any()))
            address.append(register(offset[:self._read_bits].any()))
        checks = [(ExpertError.KIND, ~(expert | layer | (attention if config.attention else 0))),
                  (ExpertError.EXPERT, expert & register(field["expert"] >= config.experts)),
                  (ExpertError.DIMENSIONS, ~layer & sizes)]
        if config.attention:
            checks.append((ExpertError.TOKEN, attention & register(query + group > config.max_tokens)))
        checks += [(ExpertError.ADDRESS, ~layer & Cat(address).any()), (ExpertError.SPACE, ~layer & Cat(space).any())]
        wrong = Const(0, 1)
        if self.integers:
            none = [register(words[word][:16] == 0) for word in SCALES]
            wrong = ~layer & (none[0] | none[2] | (expert & none[1]))
        if config.attention:
            wrong = wrong | (attention & register(field["softmax_scale"][SCALE_BITS + 1:].any()))
        return [*checks, *([(ExpertError.SCALE, wrong)] if self.integers or config.attention else [])]
