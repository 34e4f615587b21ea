"""Error tables of streaming attention: golden model against an exact softmax in float64 on the same inputs.

``python -m llmrtl.sim.attention_error`` prints them: those of ``docs/attention.md``, and what other formats give. The inputs are
quantized once, to ``kv_bits``, and both sides take the quantized ones: the error is that of the logits, the exponential, the weights
and the division. ``storage_rmse`` is the other error, and the larger one: against K, V and queries that were never quantized.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import PRESETS, preset
from .golden.attention import Partial, Rows, attend_parts, finished, logits, query_scale, weights
from .golden.cache import kept
from .golden.exp import pow2_negative
from .golden.merge import merge
from .golden.numerics import Scalar

__all__ = ["DEMAND", "MODES", "SEEDS", "Case", "Figures", "Operation", "case_table", "cases", "context_table", "exact", "figures",
           "naive", "operation", "outputs", "preset_table", "quantized", "relative_rmse", "row_sum_error", "storage_rmse", "worst"]

MODES = ("running", "unified", "merged")
"""Ways to the same result that the tables have, see ``outputs``."""

SEEDS = range(8)
"""Random inputs of which the tables give the largest errors."""


@dataclass(frozen=True)
class Case:
    """Random attention: ``std`` of the logits (base e), ``rows``, and four sinks of ``sink`` more (0: none)
    whose V is ``sink_value`` times as large as that of other rows."""

    rows: int
    std: float
    sink: float = 0.0
    sink_value: float = 1.0


class Figures(NamedTuple):
    """Errors of an operation, or the largest ones of several.

    Members
    -------
    rmse : float
        ``relative_rmse``.
    row_sum : float
        ``row_sum_error``.
    naive : float
        The largest error, as a multiple of that of ``naive``.
    """

    rmse: float
    row_sum: float
    naive: float

    def within(self, bound: "Figures") -> bool:
        return all(figure <= limit for figure, limit in zip(self, bound, strict=True))


DEMAND = Figures(1.5e-3, 2 ** -10, 2.0)
"""What attention may have; the last is FlashAttention's rule."""


class Operation(NamedTuple):
    """Inputs of ``attend``, all rows visible."""

    q: np.ndarray
    scales: list[Scalar]
    k: np.ndarray
    k_scales: np.ndarray
    v: np.ndarray
    v_scales: np.ndarray


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


def exact(q, scales, k, k_scales, v, v_scales) -> np.ndarray:
    """Attention in float64; ``scales`` as ``attend`` has them (base-2 logits)."""
    def real(x, pairs):
        return x * (pairs[:, 0] * 2.0 ** pairs[:, 1])[:, None]
    logit = q @ real(k, k_scales).T * np.array([float(scale) for scale in scales])[:, None]
    p = np.exp2(logit - logit.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) @ real(v, v_scales)


def naive(config: AcceleratorConfig, q, scales, k, k_scales, v, v_scales, above: int = 0) -> np.ndarray:
    """Softmax in two passes with the formats of ``attend``: the maximum is known, ``above`` more than it, and only probabilities and
    weights are rounded."""
    frac = config.logit_frac_bits
    lanes = []
    for query, scale in zip(q, scales, strict=True):
        logit = logits(k @ query, query_scale(scale), k_scales, config)
        p = pow2_negative(((-(-logit.max() >> frac)) + above << frac) - logit, config)
        top = v_scales[:, 1].max()
        w = weights(p, v_scales[:, 0], top - v_scales[:, 1], config)
        lanes.append(w @ v / p.sum() * 2.0 ** (int(top) + 16))
    return np.array(lanes)


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


def operation(config: AcceleratorConfig, case: Case, *, seed: int = 0, lanes: int = 8, head_dim: int = 64) -> Operation:
    """Quantized inputs."""
    q, k, v, factor = _random(case, seed, lanes, head_dim)
    (qi, qs), (ki, ks), (vi, vs) = (quantized(x, config.kv_bits) for x in (q, k, v))
    scales = [Scalar.from_float(float(m * 2.0 ** e * factor * np.log2(np.e))) for m, e in qs]
    return Operation(qi, scales, ki, ks, vi, vs)


def outputs(config: AcceleratorConfig, inputs: Operation, mode: str = "running") -> np.ndarray:
    """What the golden model gives, as real numbers.

    Parameters
    ----------
    mode : str
        ``"running"`` maximum; ``"unified"``, as far above each lane's largest logit as the window reaches, with that row first, so that
        no lane leaves it; ``"passed"``, a unified maximum below the largest logit, whose row comes last, and as far above all smaller
        ones as the window reaches, so that every lane goes on with a running one; ``"merged"`` from eight parts.
    """
    rows = inputs[2:]
    parts = _parts(inputs.q, inputs.scales, rows, config) if mode == "running" else []
    for lane, scale in enumerate(inputs.scales if mode != "running" else ()):
        query = inputs.q[lane:lane + 1]
        if mode in ("unified", "passed"):
            logit = logits(inputs.k @ query[0], query_scale(scale), inputs.k_scales, config)
            ceils, order = -(-logit >> config.logit_frac_bits), np.arange(len(logit))
            top = int(ceils.max())
            phi, first = top + config.unified_window, int(logit.argmax())
            if mode == "passed":
                order = np.argsort(logit, kind="stable")
                first = int(np.flatnonzero(ceils[order] < top)[-1])
                phi = min(int(ceils[order[first]]) + config.unified_window, top - 1)
            order[[0, first]] = order[[first, 0]]
            part, = _parts(query, [scale], [array[order] for array in rows], config, phi)
            assert part.passed == (mode == "passed")
            parts.append(part)
        else:
            cuts = np.array_split(np.random.default_rng(lane).permutation(len(inputs.k)), 8)
            parts.append(reduce(merge, (_parts(query, [scale], [array[cut] for array in rows], config)[0] for cut in cuts)))
    results = [finished(part, config) for part in parts]
    return np.stack([x * 2.0 ** exponent for x, exponent in results])


def _parts(q, scales: list[Scalar], rows, config: AcceleratorConfig, phi: int | None = None) -> list[Partial]:
    return attend_parts([Rows(q, scales, np.zeros(len(q), np.int64), np.full(len(q), len(rows[0])), *rows)], config, phi)


def _rmse(have: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(np.sum((have - want) ** 2) / np.sum(want ** 2)))


def relative_rmse(config: AcceleratorConfig, case: Case, mode: str = "running", *, seed: int = 0) -> float:
    """Root mean square error of the golden model's output, relative to that of the exact output."""
    inputs = operation(config, case, seed=seed)
    return _rmse(outputs(config, inputs, mode), exact(*inputs))


def row_sum_error(config: AcceleratorConfig, inputs: Operation, mode: str = "running") -> float:
    """How far a constant V comes out from what it was: the largest error of a sum of normalized probabilities."""
    top = (1 << config.kv_bits - 1) - 1
    inputs = inputs._replace(v=np.full_like(inputs.v, top), v_scales=np.tile([0xABCD, -15], (len(inputs.v), 1)))
    return float(np.abs(outputs(config, inputs, mode) / (top * 0xABCD / 0x8000) - 1).max())


def figures(formats: Sequence[tuple[AcceleratorConfig, str]], case: Case, *, seed: int = 0) -> list[Figures]:
    """Errors of one operation with several configurations of the same ``kv_bits`` and modes."""
    inputs = operation(formats[0][0], case, seed=seed)
    want, found = exact(*inputs), []
    for config, mode in formats:
        have = outputs(config, inputs, mode)
        plain = naive(config, *inputs, above=config.unified_window if mode == "unified" else 0)
        found.append(Figures(_rmse(have, want), row_sum_error(config, inputs, mode),
                             float(np.abs(have - want).max() / np.abs(plain - want).max())))
    return found


def worst(formats: Sequence[tuple[AcceleratorConfig, str]], each: Iterable[Case], seeds: Iterable[int] = SEEDS) -> list[Figures]:
    """The largest errors of all cases and seeds, for each configuration and mode."""
    seeds = list(seeds)
    found = [figures(formats, case, seed=seed) for case in each for seed in seeds]
    return [Figures(*map(max, zip(*of_format, strict=True))) for of_format in zip(*found, strict=True)]


def storage_rmse(config: AcceleratorConfig, case: Case, *, seed: int = 0, lanes: int = 8, head_dim: int = 64) -> float:
    """Root mean square error of the golden model's output with K/V records as ``config`` stores them, relative to attention in float64
    on the vectors before quantization."""
    q, k, v, factor = _random(case, seed, lanes, head_dim)
    inputs = operation(config, case, seed=seed, lanes=lanes, head_dim=head_dim)
    x = outputs(config, inputs._replace(k=kept(inputs.k, config), v=kept(inputs.v, config)))
    p = np.exp(factor * (q @ k.T - (q @ k.T).max(axis=1, keepdims=True)))
    return _rmse(x, p / p.sum(axis=1, keepdims=True) @ v)


def _of_bits(bits: int) -> AcceleratorConfig:
    """The attention of the tables: 8,192 rows; at 26 probability bits with all modes."""
    return replace(preset("tiny_modes" if bits == 26 else "edge"), max_context=8192, probability_bits=bits)


def _up(figure: float) -> str:
    """Two digits, rounded up: a bound just above."""
    step = 10.0 ** (math.floor(math.log10(figure)) - 1)
    return f"{math.ceil(figure / step) * step:.1e}"


def _line(*cells) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def case_table(rows: tuple[int, ...] = (64, 1024, 8192)) -> Iterator[str]:
    """Markdown: bounds of relative RMSE and error of row sums of each case, at 16, 20 and (in every mode) 26 probability bits."""
    columns = [(16, "running"), (20, "running"), *((26, mode) for mode in MODES)]
    yield _line("keys", "logit std", "sinks", "V of sinks", *(f"{bits} bits, {mode}: RMSE | row sums" for bits, mode in columns))
    yield _line(*["---"] * (4 + 2 * len(columns)))
    for case in cases(rows):
        found = worst([(_of_bits(bits), mode) for bits, mode in columns], [case])
        yield _line(case.rows, case.std, f"+{case.sink:.0f}" if case.sink else "none", case.sink_value if case.sink else "",
                    *(f"{_up(each.rmse)} | {_up(each.row_sum)}" for each in found))


def context_table(rows: tuple[int, ...] = (128, 512, 2048, 8192)) -> Iterator[str]:
    """Markdown: bounds of all figures over all cases by keys (= ``max_context``) and probability bits; the least bits with which the
    demand is met."""
    bits = range(16, 25)
    yield _line("keys", "at probability bits", *bits, "needs")
    yield _line(*["---"] * (3 + len(bits)))
    for count in rows:
        formats = [(replace(_of_bits(16), probability_bits=each, max_context=count), "running") for each in bits]
        found = dict(zip(bits, worst(formats, cases((count,))), strict=True))
        needs = next((each for each in bits if found[each].within(DEMAND)), "none of these")
        for name, kind in (("RMSE", 0), ("row sums", 1), ("times naive", 2)):
            yield _line(count, name, *(_up(each[kind]) if kind < 2 else f"{each[kind]:.2f}" for each in found.values()), needs)


def preset_table() -> Iterator[str]:
    """Markdown: bounds of all figures of each preset, over all cases with as many keys as its ``max_context``, in all its modes."""
    yield _line("presets", "keys", "probability bits", "RMSE", "row sums", "times naive", "meets the demand")
    yield _line(*["---"] * 7)
    alike: dict[tuple, list[AcceleratorConfig]] = {}
    for config in PRESETS.values():
        formats = (config.max_context, config.probability_bits, config.attention_modes, config.kv_bits, config.logit_frac_bits,
                   config.exp_segments)
        alike.setdefault(formats, []).append(config)
    for (keys, bits, modes, *_), configs in alike.items():
        found = worst([(configs[0], mode) for mode in (MODES if modes else MODES[:1])], cases((keys,)))
        largest = Figures(*map(max, zip(*found, strict=True)))
        yield _line(", ".join(f"`{config.name}`" for config in configs), keys, bits, _up(largest.rmse), _up(largest.row_sum),
                    f"{largest.naive:.2f}", "yes" if largest.within(DEMAND) else "no")


def main() -> None:
    for title, table in (("Bounds by case", case_table()), ("Bounds by keys and bits", context_table()), ("Presets", preset_table())):
        print(f"{title}\n", *table, "", sep="\n")
    formats = [(20, 12, 16), (20, 12, 32), (20, 10, 16)]
    print("other formats\nrows   std sink sink_value |" + "".join(f" B={b} F={f} S={s}" for b, f, s in formats))
    for case in cases():
        errors = [relative_rmse(replace(_of_bits(b), logit_frac_bits=f, exp_segments=s), case) for b, f, s in formats]
        print(f"{case.rows:5} {case.std:4} {case.sink:4} {case.sink_value:10} |" + "".join(f"{error:15.1e}" for error in errors))
    config = _of_bits(20)
    storages = {"int4": replace(config, kv_storage="int4"), "int8": config, "int16": replace(config, kv_bits=16)}
    print("\nagainst vectors that were never quantized\nrows   std |" + "".join(f"{name:>11}" for name in storages))
    for case in cases():
        if not case.sink:
            errors = [storage_rmse(each, case) for each in storages.values()]
            print(f"{case.rows:5} {case.std:4} |" + "".join(f"{error:11.1e}" for error in errors))


if __name__ == "__main__":
    main()
