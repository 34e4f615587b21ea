"""What a checkpoint is."""

from dataclasses import dataclass

from .checks import Configuration, check_int

__all__ = ["ModelShape"]


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
