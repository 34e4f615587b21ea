"""The parts of a core, and what runs in it."""

from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data

from ..attention.engine import Attention
from ..attention.exponents import HeadExponents
from ..attention.part_memory import PartPacker, PartUnpacker
from ..cache.append import RecordPacker
from ..cache.contiguous import ContiguousCache
from ..cache.evict_cache import EvictCache
from ..cache.means import BlockMeans
from ..cache.mover import RowMover
from ..cache.retrieval import BlockRetrieval
from ..cache.token_list import TokenList
from ..cache.window import WindowCache
from ..config import AcceleratorConfig
from ..control.batch_frontend import BatchFrontEnd
from ..control.executor import Executor
from ..control.frontend import FrontEnd
from ..control.isa import Flag, Opcode, opcodes
from ..control.operation import operation_layout
from ..elementwise.align import Align
from ..elementwise.embedding import Embedding
from ..elementwise.glu import Glu
from ..elementwise.head import HeadMatvec
from ..elementwise.norm_quantize import NormQuantize
from ..elementwise.residual import ResidualAdd
from ..elementwise.rope import Rope
from ..elementwise.sampler import Sampler
from ..integers import ceil_div
from ..memory.replay import ReplayBuffer
from ..memory.vector import VectorMemory
from ..reset import ResetChain
from ..streams import Gearbox, Queue
from ..ternary.engine import TernaryEngine

__all__ = ["COMMANDS", "OPERATIONS", "RESET_GROUPS", "Parts", "Running"]

COMMANDS = 4
"""Commands that wait in front of a unit."""

OPERATIONS = 16
"""Operations, and matrices, that the front end may be ahead of the executor."""

RESET_GROUPS = (("frontend",), ("executor",), ("memory",), ("engine",), ("norm_quantize", "align", "head_exponents", "gains"),
                ("rope", "rotary_table"), ("residual",), ("glu",), ("embedding",), ("attention", "part_packer", "part_unpacker"),
                ("packer", "cache", "mover", "token_list", "block_means", "block_retrieval"), ("head",), ("sampler",))
"""Names of submodules by the register that resets them."""


class Parts:
    """The submodules of a core: units, each with the reset of its group, and the queues between them.

    ``cache`` makes the addresses of records; with a paged cache (``None``) they come from the front end, and ``mover`` copies rows.
    ``tokens`` lists the tokens to compute again, with selective recompute; ``means`` makes the records of tables of means and
    ``retrieval`` the lists of blocks, with block retrieval. ``part_packer`` and ``part_unpacker`` are there where programs may split an
    attention.
    """

    def __init__(self, m: Module, config: AcceleratorConfig):
        lanes, queue_depth = config.vector_lanes, max(8, 2 * config.query_lanes)
        self.window, self.paged, self.evict = (config.cache == kind for kind in ("window", "paged", "evict"))
        self.frontend = BatchFrontEnd(config) if self.paged else FrontEnd(config)
        self.executor, self.vectors = Executor(config), VectorMemory(config)
        self.engine, self.norm = TernaryEngine(config), NormQuantize(config)
        self.attention, self.head = Attention(config), HeadMatvec(config)
        self.rope, self.residual, self.glu, self.embedding = Rope(config), ResidualAdd(config), Glu(config), Embedding(config)
        self.align, self.exponents = Align(config), HeadExponents(config.token_lanes, config.max_heads)
        self.packer, self.sampler = RecordPacker(config), Sampler(config)
        # Which members they have depends on the configuration.
        self.cache: Any = (None if self.paged else WindowCache(config) if self.window else
                           EvictCache(config, config.cache_heads) if self.evict else ContiguousCache(config))
        self.mover: Any = RowMover(config, config.swap_rows) if self.paged else None
        self.tokens: Any = TokenList(config) if config.selective_recompute else None
        self.means: Any = BlockMeans(config) if config.block_retrieval else None
        self.retrieval: Any = BlockRetrieval(config) if config.block_retrieval else None
        self.part_packer: Any = PartPacker(config) if config.attention_modes else None
        self.part_unpacker: Any = PartUnpacker(config) if config.attention_modes else None
        self.gains = ReplayBuffer(data.ArrayLayout(signed(16), lanes), ceil_div(config.max_vector, lanes))
        table_word = data.StructLayout({"cos": data.ArrayLayout(signed(16), lanes), "sin": data.ArrayLayout(signed(16), lanes)})
        self.table = ReplayBuffer(table_word, ceil_div(config.max_head_dim, 2 * lanes))
        units = {"frontend": self.frontend, "executor": self.executor, "memory": self.vectors, "engine": self.engine,
                 "norm_quantize": self.norm, "align": self.align, "head_exponents": self.exponents, "gains": self.gains,
                 "rope": self.rope, "rotary_table": self.table, "residual": self.residual, "glu": self.glu,
                 "embedding": self.embedding, "attention": self.attention, "packer": self.packer, "cache": self.cache,
                 "mover": self.mover, "token_list": self.tokens, "block_means": self.means, "block_retrieval": self.retrieval,
                 "part_packer": self.part_packer, "part_unpacker": self.part_unpacker, "head": self.head, "sampler": self.sampler}
        resets = ResetChain(m)
        for names in RESET_GROUPS:
            resets.add(**{name: part for name in names if (part := units[name]) is not None})

        executor = self.executor
        m.submodules.operations = self.operations = Queue(operation_layout(config), OPERATIONS)
        m.submodules.matrices = self.matrices = Queue(data.StructLayout({"head": 1}), OPERATIONS)
        m.submodules.reads = self.reads = Queue(executor.o_read.p.shape(), COMMANDS)
        m.submodules.writes = self.writes = Queue(executor.o_write.p.shape(), queue_depth)
        m.submodules.short_words = self.short_words = Gearbox(config.bus_bits, 16 * lanes)
        m.submodules.table_words = self.table_words = Gearbox(config.bus_bits, 32 * lanes)
        m.submodules.lane_words = self.lane_words = Gearbox(config.bus_bits, config.lane_bits)
        bounds = dict.fromkeys(("start", "limit") if config.attention_runs else ("limit",), range(config.max_context + 1))
        m.submodules.limits = self.limits = Queue(data.StructLayout(bounds), queue_depth)
        m.submodules.owners = self.owners = Queue(data.StructLayout({"token": range(max(config.token_lanes, 2)), "head": 8}),
                                                  2 * queue_depth)


class Running:
    """Which operation runs, a register late: ``op`` holds for its last event, and a word needs longer from a command than that.

    Attributes
    ----------
    op : dict of Opcode to Signal
    linear, quantizes, to_head : Signal or Value
        A matrix of the engine runs; an operation with quantized results; these go to the LM head.
    started, attends : Signal
        Pulses: an operation starts; an ATTEND does.
    """

    def __init__(self, m: Module, executor: Executor):
        self.op = op = {opcode: Signal(name=f"runs_{opcode.name.lower()}") for opcode in opcodes(executor.config)}
        self.linear = linear = Signal()
        started, attends = Signal(), Signal()
        self.started, self.attends = started, attends
        m.d.sync += [linear.eq(executor.linear), started.eq(executor.operation_start),
                     attends.eq(executor.operation_start & (executor.next_opcode == Opcode.ATTEND)),
                     *(signal.eq(executor.opcode == opcode) for opcode, signal in op.items())]
        self.to_head = to_head = Signal()
        m.d.comb += to_head.eq((executor.flags & Flag.TO_HEAD).any())
        self.quantizes = op[Opcode.NORM] | op[Opcode.APPEND] | op[Opcode.ATTEND]
        if Opcode.RETRIEVE in op:
            self.quantizes |= op[Opcode.RETRIEVE]
