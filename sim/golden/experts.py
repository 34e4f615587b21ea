"""Golden model of a mixture-of-experts layer on expert units: bit-exact with the hardware.

Per expert, in ascending order, with ``E`` the format of elements and ``R`` that of results (``floats.py``: exact sums, rounded once)::

    gate, up = round_R(x @ gate.T), round_R(x @ up.T)
    h        = activation(gate, up)                        E (gated.py)
    result   = round_R(h @ down.T)
    out      = round_R(out + weight * result)              for each token of the expert; out is 0 before its first expert

Experts on the xPU go the same way into an ``out`` of their own. A unit that has a share of an expert, a slice of the intermediate
dimension, gives partial sums. At the end there is one reduction: the exact sum of all ``out`` of a token, rounded once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...accelerators.experts.config import FORMATS, ExpertConfig
from ...accelerators.integers import ceil_div
from .floats import decode, dot, encode, multiply_add, round_sum
from .gated import gated_activation

__all__ = ["UNIT", "Expert", "Placement", "Route", "Scale", "add_expert", "expert_tokens", "interleaved", "memory_image", "moe",
           "outputs", "packed", "place", "product", "reduction", "results_of", "share", "stretches"]

Scale = tuple[int, int]
"""``mantissa * 2**exponent``; for int8 only."""

Route = tuple[int, int]
"""An expert of a token, and its weight as bits of ``R``."""

UNIT: Scale = (1, 0)
BLOCK = 512
"""Rows of a matrix that are multiplied at a time."""


@dataclass(frozen=True)
class Expert:
    """Matrices as stored bits: ``gate``, ``up`` [intermediate, hidden], ``down`` [hidden, intermediate].

    ``scales``: of int8, of what gate and up give, of the activation's result, of what down gives.
    """

    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray
    scales: tuple[Scale, Scale, Scale] = (UNIT, UNIT, UNIT)


def results_of(config: ExpertConfig) -> str:
    """Name of the format ``R``."""
    return "fp16" if config.element == "int8" else config.element


def product(x: np.ndarray, w: np.ndarray, name: str, scale: Scale = UNIT) -> np.ndarray:
    """``x @ w.T`` of stored bits ``[tokens, n]`` and ``[rows, n]``, rounded to ``R``."""
    form = FORMATS[name]
    a, special_a = decode(x, name)
    bad, parts = np.asarray(special_a.any(axis=1))[:, None], []
    for start in range(0, len(w), BLOCK):
        b, special_b = decode(w[start:start + BLOCK], name)
        if not form.exponent_bits:
            parts.append(encode(a @ b.T * scale[0], scale[1], "fp16"))
            continue
        parts.append(round_sum(*dot(a, b), bad | special_b.any(axis=1), name, 2 * form.low))
    return np.concatenate(parts, axis=1)


def outputs(config: ExpertConfig, x: np.ndarray, routes: Sequence[Sequence[Route]], experts: Mapping[int, Expert]) -> np.ndarray:
    """``out`` [tokens, hidden] as bits of ``R``: what one unit makes of the tokens ``x`` [tokens, hidden] with ``experts``."""
    out = np.zeros((len(x), x.shape[1]), np.int64)
    for number in sorted(experts):
        if tokens := expert_tokens(routes, number):
            add_expert(config, out, x, tokens, experts[number])
    return out


def add_expert(config: ExpertConfig, out: np.ndarray, x: np.ndarray, tokens: Sequence[Route], expert: Expert) -> None:
    """Adds to ``out`` [tokens, hidden] what an expert makes of ``tokens``, a token and its weight each."""
    chosen = [token for token, _ in tokens]
    gate, up = (product(x[chosen], matrix, config.element, expert.scales[0]) for matrix in (expert.gate, expert.up))
    h, _ = gated_activation(gate, up, config.element, expert.scales[1])
    results = product(h, expert.down, config.element, expert.scales[2])
    for (token, weight), row in zip(tokens, results, strict=True):
        out[token] = multiply_add(out[token], np.full_like(row, weight), row, results_of(config))


def moe(config: ExpertConfig, x: np.ndarray, routes: Sequence[Sequence[Route]], experts: Sequence[Expert], mask: int,
        shares: int = 1) -> np.ndarray:
    """The layer [tokens, hidden] as bits of ``R``: experts with a bit in ``mask`` on ``shares`` units, the others on the xPU."""
    sides = [{number: expert for number, expert in enumerate(experts) if mask >> number & 1 == side} for side in (0, 1)]
    parts = [outputs(config, x, routes, sides[0])]
    parts += [outputs(config, x, routes, {number: share(config, expert, k, shares) for number, expert in sides[1].items()})
              for k in range(shares)]
    return reduction(config, parts)


def reduction(config: ExpertConfig, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The exact sum of partial outputs, rounded once."""
    name = results_of(config)
    integers, special = zip(*(decode(part, name) for part in parts), strict=True)
    rounded = encode(np.sum(integers, axis=0), FORMATS[name].low, name)
    return np.where(np.any(special, axis=0), FORMATS[name].nan, rounded)


def expert_tokens(routes: Sequence[Sequence[Route]], expert: int) -> list[Route]:
    """Tokens of an expert in ascending order, each with its weight: what waits in the expert's queue."""
    return [(token, weight) for token, each in enumerate(routes) for number, weight in each if number == expert]


def share(config: ExpertConfig, expert: Expert, part: int, parts: int) -> Expert:
    """What unit ``part`` of ``parts`` has of an expert: a slice of the intermediate dimension, with zeros up to whole words."""
    size = ceil_div(len(expert.gate), parts)
    padded = ceil_div(size, config.lanes) * config.lanes
    own = slice(part * size, min((part + 1) * size, len(expert.gate)))

    def rows(matrix: np.ndarray) -> np.ndarray:
        return np.pad(matrix[own], ((0, padded - len(matrix[own])), (0, 0)))
    return Expert(rows(expert.gate), rows(expert.up), rows(expert.down.T).T, expert.scales)


def interleaved(expert: Expert) -> np.ndarray:
    """Gate and up row by row in turn."""
    return np.stack((expert.gate, expert.up), axis=1).reshape(-1, expert.gate.shape[1])


def packed(config: ExpertConfig, matrix: np.ndarray) -> np.ndarray:
    """A matrix as it lies in memory, row after row, ``[words, word_bytes]`` bytes; its rows are whole words."""
    if matrix.shape[1] % config.lanes:
        raise ValueError(f"rows must be a multiple of {config.lanes} elements, not {matrix.shape[1]}")
    elements = np.ascontiguousarray(matrix).astype("<u2" if config.format.storage_bits == 16 else "u1")
    return elements.view(np.uint8).reshape(-1, config.word_bytes)


@dataclass(frozen=True)
class Placement:
    """Where a matrix begins, and its words."""

    bundle: int
    row: int
    words: int


def place(config: ExpertConfig, sizes: Sequence[Sequence[int]]) -> list[list[Placement]]:
    """Places for the matrices of each expert, ``sizes[expert]`` in words, each from the first column of a row on.

    A quarter of the experts, one behind the other, has a memory space, which is a bundle (Duplex, arXiv:2409.01141, section 6). With
    ``ping_pong`` the stretches of a matrix alternate between two bundles, and their spaces share them.
    """
    size, turns = ceil_div(len(sizes), config.bundles), 2 if config.ping_pong else 1
    free, places = [0] * config.bundles, []  # stretches, of a pair of bundles if they alternate
    for expert, matrices in enumerate(sizes):
        bundle, own = expert // size, []
        group, within = bundle // turns, bundle % turns
        for words in matrices:
            start = free[group] + (within - free[group]) % turns
            free[group] = start + ceil_div(words, config.row_words)
            own.append(Placement(bundle, start // turns, words))
            if free[group] > turns * config.rows:
                raise ValueError(f"the experts need more than the {config.rows} rows of a bundle")
        places.append(own)
    return places


def stretches(config: ExpertConfig, at: Placement) -> list[tuple[int, int]]:
    """Bundle and row of each stretch of a matrix: behind a row comes the next one, or with ``ping_pong`` the other bundle's."""
    turns = 2 if config.ping_pong else 1
    first = turns * at.row + at.bundle % turns
    return [(at.bundle - at.bundle % turns + k % turns, k // turns) for k in range(first, first + ceil_div(at.words, config.row_words))]


def memory_image(config: ExpertConfig, matrices: Sequence[tuple[Placement, np.ndarray]]) -> np.ndarray:
    """Bundles with these packed matrices: bytes ``[bundles, rows, row bytes]``, only as many rows as are in use."""
    places = [stretches(config, at) for at, _ in matrices]
    image = np.zeros((config.bundles, 1 + max(row for own in places for _, row in own), config.row_words * config.word_bytes), np.uint8)
    for own, (_, words) in zip(places, matrices, strict=True):
        padded = np.zeros((len(own), image.shape[2]), np.uint8)
        padded.reshape(-1)[:words.size] = words.reshape(-1)
        for (bundle, row), contents in zip(own, padded, strict=True):
            image[bundle, row] = contents
    return image
