"""Frozen configuration: the one description that drives Verilog, golden model, image, program and header.

``ModelShape`` says what a checkpoint is; ``AcceleratorConfig`` says what a generated accelerator can do.
Both validate on construction (refused, never repaired), derive widths, and round-trip through JSON.
No Amaranth and no NumPy here, so every other package may import it.
"""

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["CACHES", "HEADER_BITS", "INT4_STEP", "KV_STORAGES", "PART_BITS", "POSITION_BITS", "THRESHOLD_FRACTION",
           "AcceleratorConfig", "Configuration", "ModelShape", "bits_for_magnitude", "block_count", "ceil_div", "check_int",
           "check_name", "fp16_record_beats", "header_in_tail", "record_beats"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

HEADER_BITS = 64
"""Header of a K/V record: the scales of key and value."""

CACHES = ("contiguous", "window", "paged", "evict")
"""Controllers of the KV cache that an accelerator can have."""

KV_STORAGES = ("int", "int4")
"""How K/V records of an accelerator hold their elements: as attention has them, or in 4 bits."""

INT4_STEP = 18
"""Steps of the 8-bit quantization between two 4-bit elements: -7 .. 7 times 18 reach to 126, and no element of -127 .. 127 is more
than half of it away."""

ACCUMULATOR_BITS = 57
"""Widest sums of attention: what models in 64 bits hold with their shifts."""

UNIFIED_BITS = 23
"""Probability bits that a unified maximum leaves: it is as exact as a running maximum with so many."""

PART_BITS = 64
"""Element of a partial result of attention in memory."""

TOKEN_BITS = 20
"""Width of token ids, and of positions and lengths in the registers."""

POSITION_BITS = 20
"""Width of a position in a text that may be longer than the cache."""

THRESHOLD_FRACTION = 12
"""Fraction bits of the cosine from which on two keys are similar."""


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below ``a / b``."""
    return -(-a // b)


def bits_for_magnitude(magnitude: int) -> int:
    """Width of a two's-complement number that holds ``-magnitude .. magnitude``."""
    return magnitude.bit_length() + 1


def header_in_tail(head_dim: int, *, kv_bits: int, bus_bits: int) -> bool:
    """Whether the header of a K/V record lies in the top bits of K's last bus word, because K leaves them free."""
    return -(head_dim * kv_bits) % bus_bits >= HEADER_BITS


def record_beats(head_dim: int, *, kv_bits: int, bus_bits: int) -> int:
    """Bus words of a K/V record: K and V, each padded to whole words, and the header in front unless it lies in K's tail.

    Never fewer for a larger ``head_dim``.
    """
    header = 0 if header_in_tail(head_dim, kv_bits=kv_bits, bus_bits=bus_bits) else ceil_div(HEADER_BITS, bus_bits)
    return header + 2 * ceil_div(head_dim * kv_bits, bus_bits)


def fp16_record_beats(head_dim: int, bus_bits: int) -> int:
    """Bus words of a record of fp16 elements: K and V, each padded to whole words, no header. Never more than those of a record of
    16-bit integers."""
    return 2 * ceil_div(head_dim * 16, bus_bits)


def check_int(name: str, value: Any, low: int, high: int, *, power_of_two: bool = False,
              multiple_of: int = 1) -> None:
    """Refuse ``value`` unless it is an integer in ``low..high`` (and a power of two, or a multiple).

    Raises ``TypeError`` for anything but an ``int`` and ``ValueError`` for one that breaks a rule.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    if power_of_two and value & (value - 1):
        raise ValueError(f"{name} must be a power of two, not {value}")
    if value % multiple_of:
        raise ValueError(f"{name} must be a multiple of {multiple_of}, not {value}")


def check_name(name: Any) -> None:
    """Refuse what cannot be part of a file name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"name must be made of letters, digits, '_', '-', '.' and start with one of the first two, not {name!r}")


def block_count(config: "AcceleratorConfig", block_size: int, sequences: int) -> int:
    """Blocks of the pool that a configuration gets: half of what ``sequences`` contexts would take without sharing, and one
    context at least."""
    check_int("block_size", block_size, 1, 1024, power_of_two=True)
    each = ceil_div(config.max_context, block_size)
    return max(each, sequences * each // 2)


class Configuration:
    """Base of the frozen dataclasses that describe something: JSON round trip."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]):
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for key in data:
            if key not in known:
                raise ValueError(f"{cls.__name__} has no parameter {key!r}")
        return cls(**data)


@dataclass(frozen=True)
class ModelShape(Configuration):
    """Shape and constants of a decoder-only transformer with ternary linears (BitNet b1.58 family).

    Parameters
    ----------
    hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, max_context : int
        Elements, layers, heads, tokens. ``heads`` is a multiple of ``kv_heads``; ``head_dim`` is even.
    rope_theta : float
        Base of the rotary embedding.
    rms_norm_eps : float
        Added to the mean square in every RMSNorm.
    activation : ``"relu2"`` or ``"silu"``
        ``relu(gate)^2 * up`` or ``silu(gate) * up``.
    sub_norms : bool
        RMSNorm before the output and down projections (``attn_sub_norm``, ``ffn_sub_norm``).
    tied : bool
        The LM head is the embedding matrix.
    bos, eos : int or None
        Token ids.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    rope_theta: float
    rms_norm_eps: float
    activation: str
    sub_norms: bool
    tied: bool
    bos: int | None = None
    eos: int | None = None

    def __post_init__(self) -> None:
        check_int("hidden_size", self.hidden_size, 4, 1 << 16)
        check_int("intermediate_size", self.intermediate_size, 4, 1 << 17)
        check_int("layers", self.layers, 1, 1 << 10)
        check_int("heads", self.heads, 1, 1 << 10)
        check_int("kv_heads", self.kv_heads, 1, self.heads)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} and {self.kv_heads}")
        check_int("head_dim", self.head_dim, 2, 1 << 10, multiple_of=2)
        check_int("vocab_size", self.vocab_size, 2, 1 << 20)
        check_int("max_context", self.max_context, 1, 1 << 20)
        if not 0 < self.rope_theta < float("inf"):
            raise ValueError(f"rope_theta must be positive and finite, not {self.rope_theta}")
        if not 0 <= self.rms_norm_eps < 1:
            raise ValueError(f"rms_norm_eps must be in [0, 1), not {self.rms_norm_eps}")
        if self.activation not in ("relu2", "silu"):
            raise ValueError(f"activation must be 'relu2' or 'silu', not {self.activation!r}")

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def ternary_parameters(self) -> int:
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def parameters(self) -> int:
        """All weights, gains included; a tied LM head counts once."""
        gains = self.layers * (2 * self.hidden_size
                               + (self.heads * self.head_dim + self.intermediate_size) * self.sub_norms)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.ternary_parameters + gains + self.hidden_size + embeddings


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

    def __post_init__(self) -> None:
        check_name(self.name)
        check_int("bus_bits", self.bus_bits, 32, 512, power_of_two=True)
        check_int("vector_lanes", self.vector_lanes, 2, 64, power_of_two=True)
        if self.bus_bits % (16 * self.vector_lanes):
            raise ValueError(f"16 * vector_lanes must divide bus_bits, not {16 * self.vector_lanes} "
                             f"and {self.bus_bits}")
        check_int("memory_ports", self.memory_ports, 1, 8, power_of_two=True)
        if self.bus_bits < 32 * self.memory_ports:
            raise ValueError(f"bus_bits must be at least 32 * memory_ports, not {self.bus_bits} and {self.memory_ports} ports")
        check_int("token_lanes", self.token_lanes, 1, 64)
        check_int("chunks", self.chunks, 1, 2)
        check_int("group_size", self.group_size, 1, 5)
        check_int("tables", self.tables, 1, 256)
        check_int("table_rows", self.table_rows, 1, self.vector_lanes, power_of_two=True)
        check_int("buffer_tokens", self.buffer_tokens, 1, self.vector_lanes)
        if self.vector_lanes % self.buffer_tokens or self.tile_activations % self.buffer_tokens:
            raise ValueError(f"buffer_tokens must divide vector_lanes {self.vector_lanes} and group_size * tables "
                             f"{self.tile_activations}, not {self.buffer_tokens}")
        check_int("multiplier_bits", self.multiplier_bits, 18, 27, multiple_of=9)
        check_int("query_lanes", self.query_lanes, 1, 64)
        for name, least in (("kv_bits", 8), ("head_bits", 4), ("head_activation_bits", 8)):
            check_int(name, getattr(self, name), least, 16, power_of_two=True)
        check_int("embedding_bits", self.embedding_bits, 16, 32, power_of_two=True)
        check_int("logit_frac_bits", self.logit_frac_bits, 8, 16)
        check_int("probability_bits", self.probability_bits, 12, 26)
        check_int("exp_segments", self.exp_segments, 8, 256, power_of_two=True)
        if self.exp_segments >= 1 << self.logit_frac_bits:
            raise ValueError(f"exp_segments must be below 2**logit_frac_bits, not {self.exp_segments}")
        check_int("max_vector", self.max_vector, max(self.tile_activations, self.vector_lanes), 1 << 17,
                  multiple_of=self.vector_lanes)
        check_int("max_block_rows", self.max_block_rows, 8 * self.table_rows, 1 << 16,
                  multiple_of=self.table_rows)
        check_int("vector_memory", self.vector_memory, 4 * self.vector_lanes, min(1 << 18, self.vector_lanes << 16),
                  multiple_of=self.vector_lanes)
        check_int("max_head_dim", self.max_head_dim, 2 * self.vector_lanes, 1 << 10,
                  multiple_of=2 * self.vector_lanes)
        check_int("max_context", self.max_context, 2, (1 << 20) - 1)
        if self.max_context * self.max_record_beats >= 1 << 24:
            raise ValueError(f"max_context times the beats of the largest K/V record must be below 2**24, not "
                             f"{self.max_context} times {self.max_record_beats}")
        if self.accumulator_bits > ACCUMULATOR_BITS:
            raise ValueError(f"probability_bits + kv_bits + bit_length(max_context) must be at most {ACCUMULATOR_BITS}, not "
                             f"{self.accumulator_bits}")
        check_int("max_vocab", self.max_vocab, 2, 1 << 20)
        check_int("prefetch_beats", self.prefetch_beats, 16, 1 << 16, power_of_two=True)
        check_int("data_beats", self.data_beats, 16, 1 << 16, power_of_two=True)
        check_int("top_k", self.top_k, 1, 64)
        check_int("max_heads", self.max_heads, 1, 128, power_of_two=True)
        if self.cache not in CACHES:
            raise ValueError(f"cache must be one of {', '.join(CACHES)}, not {self.cache!r}")
        check_int("sequences", self.sequences, 2, 64)
        check_int("block_size", self.block_size, 1, 1024, power_of_two=True)
        if self.cache == "paged" and not (self.chunks == 1 and self.block_size <= self.max_context < 1 << 18):
            raise ValueError(f"with cache = 'paged', chunks must be 1, and max_context at least block_size and below 2**18, not "
                             f"{self.chunks}, {self.max_context} and {self.block_size}")
        check_int("cache_heads", self.cache_heads, 2, 256)
        check_int("swap_slots", self.swap_slots, 0, 1 << 16)
        if self.swap_slots and (self.swap_slots < 2 or self.cache != "paged"):
            raise ValueError(f"swap_slots must be 0 or at least 2, and 0 unless cache is 'paged', not {self.swap_slots} with "
                             f"{self.cache!r}")
        if self.cache == "evict" and (self.chunks, self.kv_bits, self.kv_storage, self.max_context >= 8) != (1, 8, "int", True):
            raise ValueError(f"with cache = 'evict', chunks must be 1, kv_bits 8, kv_storage 'int' and max_context at least 8, not "
                             f"{self.chunks}, {self.kv_bits}, {self.kv_storage!r} and {self.max_context}")
        if self.kv_storage not in KV_STORAGES:
            alone = ": attention takes integers; fp16 records are for units alone (cache/fp16.py)" if self.kv_storage == "fp16" else ""
            raise ValueError(f"kv_storage must be one of {', '.join(KV_STORAGES)}, not {self.kv_storage!r}{alone}")
        if self.kv_storage == "int4" and self.kv_bits != 8:
            raise ValueError(f"with kv_storage = 'int4', kv_bits must be 8, not {self.kv_bits}")
        if not isinstance(self.attention_modes, bool):
            raise TypeError(f"attention_modes must be True or False, not {self.attention_modes!r}")
        if self.attention_modes and (self.cache != "window" or self.probability_bits < UNIFIED_BITS):
            raise ValueError(f"with attention_modes, cache must be 'window' and probability_bits at least {UNIFIED_BITS}, "
                             f"not {self.cache!r} and {self.probability_bits}")
        if not isinstance(self.selective_recompute, bool):
            raise TypeError(f"selective_recompute must be True or False, not {self.selective_recompute!r}")
        if self.selective_recompute and self.cache != "contiguous":
            raise ValueError(f"with selective_recompute, cache must be 'contiguous', not {self.cache!r}")
        if not isinstance(self.block_retrieval, bool):
            raise TypeError(f"block_retrieval must be True or False, not {self.block_retrieval!r}")
        if self.block_retrieval and (self.cache != "contiguous" or self.selective_recompute or self.block_size > self.max_context):
            raise ValueError(f"with block_retrieval, cache must be 'contiguous', selective_recompute False and block_size at most "
                             f"max_context, not {self.cache!r}, {self.selective_recompute}, {self.block_size} and {self.max_context}")
        if self.lane_bits < self.bus_bits:
            raise ValueError(f"the lookup lanes must keep up with the bus: index_bits * tables * table_rows must be "
                             f"at least bus_bits, not {self.lane_bits} and {self.bus_bits}")

    def to_json(self) -> dict[str, Any]:
        """All parameters but those that came later and have their default, so that the hashes of older configurations stay."""
        return {name: value for name, value in super().to_json().items() if _LATER.get(name) != value}

    @property
    def attention_runs(self) -> bool:
        """Attention takes the rows of an operation in several runs, and lanes see any range of a run."""
        return self.cache in ("window", "paged") or self.block_retrieval

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
        """K/V elements per bus beat, as attention has them."""
        return self.bus_bits // self.kv_bits

    @property
    def stored_kv_bits(self) -> int:
        """K/V element in a record."""
        return 4 if self.kv_storage == "int4" else self.kv_bits

    @property
    def stored_kv_lanes(self) -> int:
        """K/V elements per bus beat of a record."""
        return self.bus_bits // self.stored_kv_bits

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

    def row_cycles(self, record_beats: int, beats: int) -> int:
        """Cycles in which attention takes a record of which K and V have ``beats`` each in attention: they may lie in fewer words."""
        return record_beats + 2 * (beats - ceil_div(beats * self.stored_kv_bits, self.kv_bits))

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
                            "selective_recompute", "block_retrieval")}
