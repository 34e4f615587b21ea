"""Frozen configuration: the one description that drives Verilog, golden model, image, program and header.

``AcceleratorConfig`` says what a generated accelerator can do, as ``ModelShape`` (``model_shape.py``) says what a checkpoint is.
Both validate on construction (refused, never repaired; ``rules.py``), derive widths, and round-trip through JSON.
No Amaranth and no NumPy here, so every other package may import it.
"""

from dataclasses import dataclass, fields
from typing import Any

from .checks import Configuration, check_int
from .integers import bits_for_magnitude, ceil_div
from .kv_records import HEADER_BITS, record_beats
from .rules import UNIFIED_BITS, check_rules

__all__ = ["PART_BITS", "POSITION_BITS", "THRESHOLD_FRACTION", "TOKEN_BITS", "AcceleratorConfig", "block_count"]

PART_BITS = 64
"""Element of a partial result of attention in memory."""

TOKEN_BITS = 20
"""Width of token ids, and of positions and lengths in the registers."""

POSITION_BITS = 20
"""Width of a position in a text that may be longer than the cache."""

THRESHOLD_FRACTION = 12
"""Fraction bits of the cosine from which on two keys are similar."""


def block_count(config: "AcceleratorConfig", block_size: int, sequences: int) -> int:
    """Blocks of the pool that a configuration gets: half of what ``sequences`` contexts would take without sharing, and one
    context at least."""
    check_int("block_size", block_size, 1, 1024, power_of_two=True)
    each = ceil_div(config.max_context, block_size)
    return max(each, sequences * each // 2)


@dataclass(frozen=True)
class AcceleratorConfig(Configuration):
    """Everything that shapes the generated accelerator.

    Parameters
    ----------
    name : str
        Preset name, becomes part of file names.
    bus_bits : int
        Memory word, 32 to 512 (a descriptor of 64 bytes is whole bus words), a power of two.
    memory_ports : int
        AXI4 ports that share each memory word, a power of two; ``bus_bits / memory_ports`` is at least 32.
    vector_lanes : int
        Elements per cycle of the elementwise units; ``16 * vector_lanes`` divides ``bus_bits``.
    token_lanes : int
        Tokens that share one weight stream in prefill: a chunk.
    chunks : 1 or 2
        Chunks in flight: with 2, one is in the ternary engine while the other is in the elementwise units.
    group_size : int
        Trits per table index (TeLLMe's G), 1 to 5.
    tables : int
        Lookup tables per row and cycle (TeLLMe's T).
    table_rows : int
        Output rows per cycle (TeLLMe's Q).
    buffer_tokens : int
        Token lanes that share a memory of activations, where that fills the memory better; divides ``vector_lanes`` and
        ``group_size * tables``.
    multiplier_bits : 18 or 27
        Wider operand, signed, of the device's multipliers; the other one has 18 bits.
    query_lanes : int
        (token, head) pairs that share one K/V stream; at least the model's heads per KV head.
    row_cycles : int
        Beats of the shortest K/V rows with which attention keeps up, 2 to 64; 0: ``query_lanes``, and 3 at least, with the smallest
        hardware. Shorter rows take more (``docs/attention.md``, Cycles); not with ``cache = "evict"``.
    kv_bits, head_activation_bits : 8 or 16
        Quantized queries, keys and values, activations into the LM head.
    kv_storage : ``"int"`` or ``"int4"``
        Elements of K/V records: of ``kv_bits``, or, with ``kv_bits`` 8, rounded to 4 bits (``INT4_STEP``).
    head_bits : 4, 8 or 16
        LM head weights.
    embedding_bits : 16 or 32
        Stored embedding elements.
    logit_frac_bits : int
        Fraction bits of base-2 attention logits, 8 to 16.
    probability_bits : int
        Fraction bits of unnormalized probabilities, 12 to 26.
    exp_segments : int
        Segments of the piecewise-linear ``2^-x``, a power of two, 8 to 256.
    max_vector : int
        Longest vector into a ternary linear (hidden, intermediate, heads * head_dim), elements.
    max_block_rows : int
        Accumulators per token lane: output rows of one sweep, a multiple of ``table_rows``.
    vector_memory : int
        Elements of vector memory per token lane (residual, linear outputs, attention outputs).
    max_head_dim, max_heads, max_context, max_vocab : int
        Bounds of the models that the accelerator can run; ``max_heads`` is a power of two.
    prefetch_beats : int
        Depth of the weight prefetch queue, beats of ``bus_bits``, a power of two.
    data_beats : int
        Depth of the queue of all other data (gains, tables, embedding and K/V rows), beats, a power of two. While
        attention runs, half of it keeps K/V rows coming when a burst of weights is on the port.
    top_k : int
        Longest candidate list of the sampler.
    cache : ``"contiguous"``, ``"window"``, ``"paged"`` or ``"evict"``
        Controller of the KV cache: all positions; the first ones and the latest ones of a text of any length; several sequences that
        share blocks; a budget of rows per head for a text of any length, by score, what goes merged into what is similar.
    sequences, block_size : int
        With ``cache = "paged"``: sequences at a time, 2 to 64; positions of a block, a power of two (also of ``block_retrieval``).
    cache_heads : int
        With ``cache = "evict"``: K/V heads of all layers, 2 to 256.
    swap_slots : int
        With ``cache = "paged"``: blocks of a second region of memory, to which sequences leave the cache and from which they come back,
        2 to 2**16; 0: there is none.
    attention_modes : bool
        Attention also has a unified maximum and gives partial results (``docs/attention.md``); with ``cache = "window"`` and
        ``probability_bits`` of at least 23.
    selective_recompute : bool
        Programs may list the tokens of a reused text that are to be computed again (``docs/selection.md``); with
        ``cache = "contiguous"``.
    block_retrieval : bool
        Programs may choose the blocks of ``block_size`` positions that attention sees, by their mean keys (``docs/selection.md``); with
        ``cache = "contiguous"`` and without ``selective_recompute``.
    """

    name: str
    bus_bits: int
    vector_lanes: int
    token_lanes: int
    tables: int
    table_rows: int
    query_lanes: int
    max_vector: int
    max_block_rows: int
    vector_memory: int
    max_head_dim: int
    max_context: int
    max_vocab: int
    group_size: int = 3
    kv_bits: int = 8
    head_bits: int = 8
    head_activation_bits: int = 8
    embedding_bits: int = 16
    logit_frac_bits: int = 12
    probability_bits: int = 20
    exp_segments: int = 16
    prefetch_beats: int = 512
    top_k: int = 16
    max_heads: int = 16
    memory_ports: int = 1
    chunks: int = 1
    data_beats: int = 64
    buffer_tokens: int = 1
    multiplier_bits: int = 18
    cache: str = "contiguous"
    sequences: int = 4
    block_size: int = 16
    kv_storage: str = "int"
    attention_modes: bool = False
    cache_heads: int = 16
    swap_slots: int = 0
    selective_recompute: bool = False
    block_retrieval: bool = False
    row_cycles: int = 0

    def __post_init__(self) -> None:
        check_rules(self)

    def to_json(self) -> dict[str, Any]:
        """All parameters but those that came later and have their default, so that the hashes of older configurations stay."""
        return {name: value for name, value in super().to_json().items() if _LATER.get(name) != value}

    @property
    def attention_runs(self) -> bool:
        """Attention takes the rows of an operation in several runs, and lanes see any range of a run."""
        return self.cache in ("window", "paged") or self.block_retrieval

    @property
    def mix_lanes(self) -> int:
        """Query lanes that the value mix of attention serves at once: half of them, because K takes half of the beats."""
        return ceil_div(self.query_lanes, 2)

    @property
    def softmax_ways(self) -> int:
        """Query lanes of a row that go through the softmax side by side: so many that all take at most ``row_cycles`` cycles, and that
        ``mix_lanes`` are whole groups of them."""
        least = ceil_div(self.query_lanes, self.row_cycles) if self.row_cycles else 1
        return next(ways for ways in range(least, self.mix_lanes + 1) if self.mix_lanes % ways == 0)

    @property
    def least_row_cycles(self) -> int:
        """Cycles of a row, however few beats and lanes it has: until sums of the value mix can be added to again."""
        return 2 if self.row_cycles == 2 else 3

    @property
    def part_word_bits(self) -> int:
        """A word of weighted sums of a partial result in memory, ``vector_lanes`` of them; its state takes one more."""
        return self.vector_lanes * PART_BITS

    def part_beats(self, words: int) -> int:
        """Bus words of a lane's partial result of ``words`` words of weighted sums."""
        return ceil_div((1 + words) * self.part_word_bits, self.bus_bits)

    @property
    def unified_window(self) -> int:
        """How far below a unified maximum a lane may begin, in bits: ``UNIFIED_BITS`` fraction bits are left to it."""
        return self.probability_bits - UNIFIED_BITS

    @property
    def accumulator_bits(self) -> int:
        """Width of a sum of ``max_context`` weighted V elements."""
        return self.probability_bits + self.kv_bits + self.max_context.bit_length()

    @property
    def max_positions(self) -> int:
        """Positions of the longest text."""
        return (1 << POSITION_BITS) - 1 if self.cache in ("window", "evict") else self.max_context

    @property
    def max_budget(self) -> int:
        """Rows of a head that a cache with a budget has room for: a quarter of the context, a power of two, 4 at least."""
        return max(4, 1 << max(self.max_context // 4, 1).bit_length() - 1)

    @property
    def blocks(self) -> int:
        """Blocks of a paged KV cache."""
        return block_count(self, self.block_size, self.sequences)

    @property
    def swap_rows(self) -> int:
        """Rows of a head in the larger one of both regions of a cache that swaps."""
        return max(self.blocks, self.swap_slots) * self.block_size

    @property
    def bus_bytes(self) -> int:
        return self.bus_bits // 8

    @property
    def port_bits(self) -> int:
        """Width of each AXI4 port."""
        return self.bus_bits // self.memory_ports

    @property
    def token_slots(self) -> int:
        """Tokens in flight: vectors of slot ``chunk * token_lanes + lane``."""
        return self.chunks * self.token_lanes

    @property
    def tile_activations(self) -> int:
        """Activations that one table set covers: one K tile."""
        return self.group_size * self.tables

    @property
    def table_entries(self) -> int:
        """Non-negative half of all signed sums of a trit group, zero included: (3^G + 1) / 2."""
        return (3 ** self.group_size + 1) // 2

    @property
    def index_bits(self) -> int:
        """Sign and entry number of one trit group."""
        return 1 + (self.table_entries - 1).bit_length()

    @property
    def lane_bits(self) -> int:
        """Weight bits that the lookup lanes take per cycle."""
        return self.index_bits * self.tables * self.table_rows

    @property
    def sum_bits(self) -> int:
        """Accumulator of ``max_vector`` products of a trit and an activation in -127..127."""
        return bits_for_magnitude(127 * self.max_vector)

    @property
    def kv_lanes(self) -> int:
        """K/V elements in a bus word of a record: attention takes them in one cycle."""
        return self.bus_bits // self.stored_kv_bits

    @property
    def kv_beat_bits(self) -> int:
        """Bits that these elements are in attention; more than a bus word has where records hold them in fewer bits."""
        return self.kv_lanes * self.kv_bits

    @property
    def stored_kv_bits(self) -> int:
        """K/V element in a record."""
        return 4 if self.kv_storage == "int4" else self.kv_bits

    @property
    def header_words(self) -> int:
        """Words of ``vector_lanes`` elements that K's last beat may hold so that the record's header fits behind them;
        0: it never does."""
        word = self.vector_lanes * self.stored_kv_bits
        return max(0, (self.bus_bits - HEADER_BITS) // word)

    @property
    def max_record_beats(self) -> int:
        """Bus words of the longest K/V record, that of a head of ``max_head_dim``."""
        return record_beats(self.max_head_dim, kv_bits=self.stored_kv_bits, bus_bits=self.bus_bits)

    @property
    def head_sum_magnitude(self) -> int:
        """Largest dot product of one LM head row, whatever the weights and activations are."""
        lanes = self.bus_bits // self.head_bits
        elements = ceil_div(self.max_vector, lanes) * lanes
        return elements << (self.head_bits + self.head_activation_bits - 2)

    @property
    def head_shift(self) -> int:
        """Low bits dropped from dot product times 16-bit row scale so that every logit fits 48 bits."""
        return max(0, bits_for_magnitude(self.head_sum_magnitude * 0xFFFF) - 48)


_LATER = {field.name: field.default for field in fields(AcceleratorConfig)
          if field.name in ("cache", "sequences", "block_size", "kv_storage", "attention_modes", "cache_heads", "swap_slots",
                            "selective_recompute", "block_retrieval", "row_cycles")}
