"""Error table of streaming attention: golden model against an exact softmax in float64 on the same inputs.

``python -m llmrtl.sim.attention_error`` prints it. The inputs are quantized once, to ``kv_bits``, and both
sides take the quantized ones: the error is that of the logits, the exponential, the weights and the
division. ``storage_rmse`` is the other error, and the larger one: against K, V and queries that were never quantized.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset
from .golden.attention import attend
from .golden.cache import restored, stored
from .golden.numerics import Scalar

__all__ = ["Case", "cases", "exact", "quantized", "relative_rmse", "storage_rmse"]


@dataclass(frozen=True)
class Case:
    """Random attention: ``std`` of the logits (base e), ``rows``, and four sinks of ``sink`` more (0: none)
    whose V is ``sink_value`` times as large as that of other rows."""

    rows: int
    std: float
    sink: float = 0.0
    sink_value: float = 1.0


def cases(rows: tuple[int, ...] = (64, 1024, 8192)) -> Iterator[Case]:
    """Flat to peaked logits; strong sinks, with V as of other rows or (as models have it) next to none."""
    for count in rows:
        for std in (1.0, 2.0, 3.0):
            yield Case(count, std)
        for sink in (6.0, 10.0):
            for value in (1.0, 0.05):
                yield Case(count, 1.0, sink, value)


def quantized(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and (mantissa, exponent) per row, as the cache stores them."""
    top = (1 << (bits - 1)) - 1
    steps = np.abs(x).max(axis=1) / top
    exponents = np.floor(np.log2(steps)).astype(np.int64) - 15
    mantissas = np.floor(steps * 2.0 ** -exponents).astype(np.int64)
    return np.rint(x / steps[:, None]).astype(np.int64), np.stack([mantissas, exponents], axis=1)


def exact(q, scales, limits, k, k_scales, v, v_scales) -> np.ndarray:
    """Attention in float64; ``scales`` as ``attend`` has them (base-2 logits)."""
    def real(x, pairs):
        return x * (pairs[:, 0] * 2.0 ** pairs[:, 1])[:, None]
    logits = q @ real(k, k_scales).T * np.array([float(scale) for scale in scales])[:, None]
    logits[np.arange(len(k)) >= np.asarray(limits)[:, None]] = -np.inf
    p = np.exp2(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) @ real(v, v_scales)


def relative_rmse(config: AcceleratorConfig, case: Case, *, seed: int = 0, lanes: int = 8, head_dim: int = 64
                  ) -> float:
    """Root mean square error of the golden model's output, relative to that of the exact output."""
    q, k, v, factor = _random(case, seed, lanes, head_dim)
    (qi, qs), (ki, ks), (vi, vs) = (quantized(x, config.kv_bits) for x in (q, k, v))
    scales = [Scalar.from_float(float(m * 2.0 ** e * factor * np.log2(np.e))) for m, e in qs]
    limits = np.full(lanes, case.rows)
    x, exponents = attend(qi, scales, limits, ki, ks, vi, vs, config)
    want = exact(qi, scales, limits, ki, ks, vi, vs)
    return float(np.sqrt(np.sum((x * 2.0 ** exponents[:, None] - want) ** 2) / np.sum(want ** 2)))


def storage_rmse(config: AcceleratorConfig, case: Case, *, seed: int = 0, lanes: int = 8, head_dim: int = 64) -> float:
    """Root mean square error of the golden model's output with K/V records as ``config`` stores them, relative to attention in float64
    on the vectors before quantization."""
    q, k, v, factor = _random(case, seed, lanes, head_dim)
    (qi, qs), (ki, ks), (vi, vs) = (quantized(x, config.kv_bits) for x in (q, k, v))
    ki, vi = (restored(stored(x, config), config) for x in (ki, vi))
    scales = [Scalar.from_float(float(m * 2.0 ** e * factor * np.log2(np.e))) for m, e in qs]
    x, exponents = attend(qi, scales, np.full(lanes, case.rows), ki, ks, vi, vs, config)
    p = np.exp(factor * (q @ k.T - (q @ k.T).max(axis=1, keepdims=True)))
    want = p / p.sum(axis=1, keepdims=True) @ v
    return float(np.sqrt(np.sum((x * 2.0 ** exponents[:, None] - want) ** 2) / np.sum(want ** 2)))


def _random(case: Case, seed: int, lanes: int, head_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Queries, keys, values, and what a dot product is multiplied by."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(count, head_dim)) for count in (lanes, case.rows, case.rows))
    v *= np.exp(0.3 * rng.normal(size=(case.rows, 1)))
    factor = case.std / np.sqrt(head_dim)
    if case.sink:
        # A direction that all queries share and only the sinks' keys have.
        common = np.full(head_dim, head_dim ** -0.5)
        q += np.outer(head_dim ** 0.5 - q @ common, common)
        k -= np.outer(k @ common, common)
        k[:4] += case.sink / factor / head_dim ** 0.5 * common
        v[:4] *= case.sink_value
    return q, k, v, factor


def main() -> None:
    formats = [(16, 12, 16), (18, 12, 16), (20, 12, 16), (20, 12, 32), (20, 10, 16)]
    print("rows   std sink sink_value |" + "".join(f"  B={b} F={f} S={s}" for b, f, s in formats))
    for case in cases():
        errors = [relative_rmse(replace(preset("edge"), max_context=8192, probability_bits=b,
                                        logit_frac_bits=f, exp_segments=s), case) for b, f, s in formats]
        print(f"{case.rows:5} {case.std:4} {case.sink:4} {case.sink_value:10} |"
              + "".join(f"{error:15.1e}" for error in errors))
    config = replace(preset("edge"), probability_bits=20, max_context=8192)
    storages = {"int4": replace(config, kv_storage="int4"), "int8": config, "int16": replace(config, kv_bits=16)}
    print("\nagainst vectors that were never quantized\nrows   std |" + "".join(f"{name:>11}" for name in storages))
    for case in cases():
        if not case.sink:
            errors = [storage_rmse(each, case) for each in storages.values()]
            print(f"{case.rows:5} {case.std:4} |" + "".join(f"{error:11.1e}" for error in errors))


if __name__ == "__main__":
    main()
