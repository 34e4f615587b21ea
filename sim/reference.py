"""Floating-point reference of a ternary transformer: the truth that error figures are taken against.

The only quantization is the one the checkpoint was trained with: the inputs of the seven projections of a
layer are int8 with one scale per token, their weights are trits. Embedding, norms, RoPE, attention,
activation, residual and LM head are float, in ``float32`` (as transformers computes; logits agree to about
3e-5) or ``float64`` (the truth). One int8 activation that rounds the other way moves logits by up to 0.5,
so two correct programs may differ by that much on an unlucky prompt. Plain NumPy; not a model of the
hardware, see ``sim/golden`` for that.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..accelerators.model_shape import ModelShape

__all__ = ["KvCache", "Reference", "quantize_activations"]


class _Checkpoint(Protocol):
    """What is read of ``rtl_gen.checkpoint.Checkpoint``."""

    model: ModelShape

    def embedding(self) -> np.ndarray: ...
    def lm_head(self) -> np.ndarray: ...
    def final_gain(self) -> np.ndarray: ...
    def gain(self, layer: int, which: str) -> np.ndarray | None: ...
    def projection(self, layer: int, which: str) -> Any: ...


def quantize_activations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``x [..., n]`` -> int8 ``[..., n]`` and steps per unit ``[...]``, so that ``x`` is about ``q / scale``.

    ``scale = 127 * (1 / max(max|x|, 1e-5))`` with both roundings in the type of ``x``, as torch evaluates
    ``127 / tensor``; ties go to even.
    """
    one = x.dtype.type(1)
    scale = 127 * (one / np.maximum(np.abs(x).max(axis=-1), x.dtype.type(1e-5)))
    return np.clip(np.rint(x * scale[..., None]), -128, 127).astype(np.int8), scale


class KvCache:
    """Keys (rotated, but for a window's) and values of the tokens so far: per layer ``[tokens, kv_heads, head_dim]`` each."""

    def __init__(self, model: ModelShape, dtype: type) -> None:
        empty: np.ndarray = np.zeros((0, model.kv_heads, model.head_dim), dtype)
        self.keys, self.values = [empty] * model.layers, [empty] * model.layers

    @property
    def tokens(self) -> int:
        return len(self.keys[-1])

    def append(self, layer: int, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add rows to a layer and return all of them."""
        self.keys[layer] = np.concatenate([self.keys[layer], keys])
        self.values[layer] = np.concatenate([self.values[layer], values])
        return self.keys[layer], self.values[layer]


class Reference:
    """The model of a checkpoint, in memory: int8 trits, everything else in ``dtype``.

    Parameters
    ----------
    checkpoint : llmrtl.rtl_gen.checkpoint.Checkpoint
        Source of shape and weights.
    dtype : ``np.float32`` or ``np.float64``
        Type of all arithmetic but the int8 products, which are exact.
    window : (int, int)
        Sinks and window: a token sees the first ``sinks`` positions and the latest ``window`` ones, itself included, each rotated for
        its place among them (StreamingLLM, arXiv:2309.17453, section 3.2). Text may be longer than ``max_context``.
    """

    def __init__(self, checkpoint: _Checkpoint, dtype: type = np.float32, window: tuple[int, int] | None = None) -> None:
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be np.float32 or np.float64, not {dtype!r}")
        self.model, self.dtype, self.window = checkpoint.model, dtype, window
        self._embedding = checkpoint.embedding().astype(dtype, copy=False)
        self._head = self._embedding if self.model.tied else checkpoint.lm_head().astype(dtype, copy=False)
        self._final_gain = checkpoint.final_gain().astype(dtype, copy=False)
        layers = range(self.model.layers)
        self._gains = [{which: None if (gain := checkpoint.gain(layer, which)) is None else gain.astype(dtype)
                        for which in ("attention", "ffn", "attention_sub", "ffn_sub")} for layer in layers]
        self._projections = [{which: checkpoint.projection(layer, which)
                              for which in ("q", "k", "v", "o", "gate", "up", "down")} for layer in layers]
        exponents: np.ndarray = (np.arange(0, self.model.head_dim, 2) / self.model.head_dim).astype(dtype)
        self._frequencies: np.ndarray = 1 / np.power(dtype(self.model.rope_theta), exponents)

    def new_cache(self) -> KvCache:
        """An empty cache for ``forward``."""
        return KvCache(self.model, self.dtype)

    def forward(self, ids: Sequence[int] | np.ndarray, cache: KvCache | None = None,
                capture: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Logits ``[T, vocab]`` of the tokens ``ids``, which follow those in ``cache`` (and are added to it).

        ``capture`` receives ``hidden_states [layers + 1, T, hidden]`` (embedding, then the residual stream
        after each layer), ``final_norm [T, hidden]`` and, for layer ``l`` and ``p`` in ``attn_in`` (q, k, v),
        ``attn_out_in`` (o), ``ffn_in`` (gate, up), ``ffn_down_in`` (down): ``act_q_L{l}_{p}``, int8
        ``[T, n]``, and ``act_scale_L{l}_{p}``, ``[T]``, steps per unit. ``ValueError`` for no tokens, an id
        outside the vocabulary or more tokens than ``max_context``.
        """
        cache = self.new_cache() if cache is None else cache
        capture = {} if capture is None else capture
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids must be one or more token ids, not {ids!r}")
        if ids.min() < 0 or ids.max() >= self.model.vocab_size:
            raise ValueError(f"ids must be in 0..{self.model.vocab_size - 1}, not {ids.min()}..{ids.max()}")
        if self.window is None and cache.tokens + len(ids) > self.model.max_context:
            raise ValueError(f"cached tokens and ids must fit max_context = {self.model.max_context}, "
                             f"not {cache.tokens} + {len(ids)}")
        x = self._embedding[ids]
        hidden = [x]
        start = cache.tokens
        for layer in range(self.model.layers):
            x = self._layer(layer, x, start, cache, capture)
            hidden.append(x)
        x = self._norm(x, self._final_gain)
        capture["hidden_states"], capture["final_norm"] = np.stack(hidden), x
        return x @ self._head.T

    def greedy(self, ids: Sequence[int] | np.ndarray, count: int) -> list[int]:
        """``count`` tokens after ``ids``, each the one with the largest logit; does not stop at any token."""
        cache, tokens = self.new_cache(), []
        for _ in range(count):
            tokens.append(int(np.argmax(self.forward(ids, cache)[-1])))
            ids = tokens[-1:]
        return tokens

    def _layer(self, layer: int, x: np.ndarray, start: int, cache: KvCache, capture: dict) -> np.ndarray:
        m, gains = self.model, self._gains[layer]

        def project(x: np.ndarray, point: str, *names: str) -> list[np.ndarray]:
            q, scale = quantize_activations(x)
            capture[f"act_q_L{layer}_{point}"], capture[f"act_scale_L{layer}_{point}"] = q, scale
            return [self._linear(q, scale, self._projections[layer][name]) for name in names]

        q, k, v = project(self._norm(x, gains["attention"]), "attn_in", "q", "k", "v")
        q, k, v = (y.reshape(len(x), -1, m.head_dim) for y in (q, k, v))
        if self.window is None:
            mixed = self._attend(self._rotate(q, start), *cache.append(layer, self._rotate(k, start), v))
        else:
            mixed = self._attend_window(q, *cache.append(layer, k, v), *self.window)
        x = x + project(self._norm(mixed, gains["attention_sub"]), "attn_out_in", "o")[0]
        gate, up = project(self._norm(x, gains["ffn"]), "ffn_in", "gate", "up")
        return x + project(self._norm(self._activate(gate) * up, gains["ffn_sub"]), "ffn_down_in", "down")[0]

    def _linear(self, q: np.ndarray, scale: np.ndarray, projection: Any) -> np.ndarray:
        # |trits @ q| < 2**24 for every legal length, so float32 sums of the integers are exact in any order.
        sums = q.astype(np.float32) @ projection.trits.T.astype(np.float32)
        return sums.astype(self.dtype) * (self.dtype(projection.scale) / scale)[:, None]

    def _norm(self, x: np.ndarray, gain: np.ndarray | None) -> np.ndarray:
        """RMSNorm over the last axis; without a gain there is no norm."""
        if gain is None:
            return x
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return gain * (x / np.sqrt(mean_square + self.dtype(self.model.rms_norm_eps)))

    def _activate(self, gate: np.ndarray) -> np.ndarray:
        if self.model.activation == "relu2":
            return np.square(np.maximum(gate, 0))
        with np.errstate(over="ignore"):  # exp(-gate) = inf gives the right limit, -0
            return gate / (1 + np.exp(-gate))

    def _rotate(self, x: np.ndarray, start: int) -> np.ndarray:
        """RoPE on ``[T, heads, head_dim]`` from position ``start``: element i pairs with i + head_dim/2."""
        angles = np.arange(start, start + len(x), dtype=self.dtype)[:, None] * self._frequencies
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def _attend_window(self, q: np.ndarray, keys: np.ndarray, values: np.ndarray, sinks: int, window: int) -> np.ndarray:
        """As ``_attend``, of what each token sees; neither ``q`` nor ``keys`` are rotated."""
        mixed = []
        for token in range(len(q)):
            end = len(keys) - len(q) + token + 1
            seen = np.r_[:min(sinks, end), max(sinks, end - window):end]
            mixed.append(self._attend(self._rotate(q[token:token + 1], len(seen) - 1), self._rotate(keys[seen], 0), values[seen]))
        return np.concatenate(mixed)

    def _attend(self, q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Attention of the last ``T`` of ``S`` tokens: q ``[T, heads, d]``, others ``[S, kv_heads, d]``."""
        m, tokens, rows = self.model, len(q), len(keys)
        q = q.reshape(tokens, m.kv_heads, m.group, m.head_dim).transpose(1, 2, 0, 3)     # [kv, group, T, d]
        scores = q @ keys.transpose(1, 2, 0)[:, None] / self.dtype(np.sqrt(m.head_dim))  # [kv, group, T, S]
        visible = np.arange(rows) <= np.arange(rows - tokens, rows)[:, None]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = weights @ values.transpose(1, 0, 2)[:, None] / weights.sum(axis=-1, keepdims=True)
        return mixed.transpose(2, 0, 1, 3).reshape(tokens, -1)
