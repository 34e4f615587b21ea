"""Mixture-of-experts layers, random or of given matrices: as stored bits and as the real numbers they stand for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..accelerators.experts.config import FORMATS, SCALE_EXPONENT_BITS, ExpertConfig
from .golden.experts import Expert, Route, Scale, results_of
from .golden.floats import decode, encode

__all__ = ["PEAK", "ExpertLayer", "largest_activation", "random_layer", "real", "stored", "stored_layer"]

PEAK = 8
"""Largest int8 activation of a random layer: of normal gate and up, SiLU(gate) * up has a deviation of 0.6, and long tails."""

DIGITS = 40
"""Bits of a real number that count when it is rounded to a format."""


def stored(values: np.ndarray, element: str) -> np.ndarray:
    """Real numbers as bits of a format, rounded to nearest even."""
    if element == "fp16":  # the same, in a hundredth of the time
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float64).astype(np.float16).view(np.uint16).astype(np.int64)
    fraction, exponent = np.frexp(np.asarray(values, np.float64))
    return encode(np.rint(np.ldexp(fraction, DIGITS)).astype(np.int64), exponent.astype(np.int64) - DIGITS, element)


def real(bits: np.ndarray, element: str) -> np.ndarray:
    """What bits stand for; NaN for special ones."""
    values, special = decode(bits, element)
    return np.where(special, np.nan, values * 2.0 ** FORMATS[element].low)


def scale_of(value: float) -> Scale:
    """``value`` as mantissa of 16 bits and exponent."""
    fraction, exponent = np.frexp(value)
    limit = 1 << SCALE_EXPONENT_BITS - 1
    if not -limit <= exponent - 16 < limit:
        raise ValueError(f"scale must be within 16 bits times 2**{-limit} to 2**{limit - 1}, not {value}")
    return min(round(fraction * (1 << 16)), (1 << 16) - 1), int(exponent) - 16


@dataclass(frozen=True)
class ExpertLayer:
    """``x`` [tokens, hidden] and the experts as stored bits; ``routes``: experts of each token with weights as bits."""

    x: np.ndarray
    experts: list[Expert]
    routes: list[list[Route]]
    x_scale: float
    weight_scales: list[tuple[float, float]]

    @property
    def counts(self) -> list[int]:
        """Tokens of each expert."""
        return [sum(expert == number for each in self.routes for number, _ in each) for expert in range(len(self.experts))]

    def truth(self, config: ExpertConfig) -> np.ndarray:
        """The layer in float64, from the stored bits."""
        out = np.zeros(self.x.shape)
        x = real(self.x, config.element) * self.x_scale
        for number, (expert, (first, second)) in enumerate(zip(self.experts, self.weight_scales, strict=True)):
            tokens = [(token, weight) for token, each in enumerate(self.routes) for e, weight in each if e == number]
            if not tokens:
                continue
            gate, up = (x[[t for t, _ in tokens]] @ (real(matrix, config.element) * first).T for matrix in (expert.gate, expert.up))
            result = gate / (1 + np.exp(-gate)) * up @ (real(expert.down, config.element) * second).T
            for (token, weight), row in zip(tokens, result, strict=True):
                out[token] += real(np.array(weight), results_of(config)) * row
        return out


def random_layer(config: ExpertConfig, rng: np.random.Generator, *, hidden: int, intermediate: int, experts: int,
                 routes: Sequence[Sequence[Route]]) -> ExpertLayer:
    """Normal activations, and weights of variance ``1 / columns``, as trained layers have them about."""
    x = rng.standard_normal((len(routes), hidden))
    matrices = ((rng.standard_normal((2 * intermediate, hidden)) * hidden ** -0.5,
                 rng.standard_normal((hidden, intermediate)) * intermediate ** -0.5) for _ in range(experts))
    return stored_layer(config, x, matrices, routes, peak=PEAK)


def stored_layer(config: ExpertConfig, x: np.ndarray, matrices: Iterable[tuple[np.ndarray, np.ndarray]],
                 routes: Sequence[Sequence[Route]], *, peak: float | None = None) -> ExpertLayer:
    """Real tokens ``x`` [tokens, hidden] and matrices of each expert (gate above up, and down), rounded to the format of elements.

    Of int8 tensors the scale is by their largest value; of activations between the matrices 127 stands for ``peak``, or for the largest
    that these tokens make.
    """
    integers = config.element == "int8"

    def tensor(values: np.ndarray) -> tuple[np.ndarray, float]:
        unit = (float(np.abs(values).max()) / 127 or 1.0) if integers else 1.0
        return stored(values / unit, config.element), unit
    x_bits, x_scale = tensor(x)
    made, weight_scales = [], []
    for gate_up, down in matrices:
        rows = len(gate_up) // 2
        (both, first), (second_bits, second) = tensor(gate_up), tensor(down)
        scales = []
        if integers:
            h_unit = (largest_activation(x, gate_up) if peak is None else peak) / 127
            scales = [(scale_of(x_scale * first), scale_of(1 / h_unit), scale_of(h_unit * second))]
        made.append(Expert(both[:rows], both[rows:], second_bits, *scales))
        weight_scales.append((first, second))
    return ExpertLayer(x_bits, made, [list(each) for each in routes], x_scale, weight_scales)


def largest_activation(x: np.ndarray, gate_up: np.ndarray) -> float:
    """Of ``SiLU(gate) * up``; 1 if all are 0."""
    gate, up = np.split(x @ gate_up.T, 2, axis=1)
    return float(np.abs(gate / (1 + np.exp(-gate)) * up).max()) or 1.0
