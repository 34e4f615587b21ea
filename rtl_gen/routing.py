"""Which experts the tokens of a batch go to: from router logits, random or of a checkpoint, or from a trace in a file."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..accelerators.experts.config import ExpertConfig
from ..accelerators.experts.errors import ERROR_TEXT
from ..sim.golden.experts import Route, results_of
from ..sim.golden.router import route
from ..sim.random_layer import stored

__all__ = ["HEADER", "one_expert", "random_routes", "read_routes", "router_routes"]

HEADER = ["token", "expert", "weight"]


def random_routes(config: ExpertConfig, rng: np.random.Generator, tokens: int) -> list[list[Route]]:
    """What the router makes of normal logits, ascending by expert."""
    return _routes(config, rng.standard_normal((tokens, config.experts)))


def router_routes(config: ExpertConfig, x: np.ndarray, router: np.ndarray) -> list[list[Route]]:
    """What the router makes of real tokens ``x`` [tokens, hidden] with its matrix [experts, hidden], ascending by expert.

    The matrix is the xPU's: logits are exact but for one rounding. ``ValueError`` names a token with logits that are too large.
    """
    return _routes(config, x.astype(np.float64) @ router.T.astype(np.float64))


def one_expert(config: ExpertConfig, expert: int, tokens: int) -> list[list[Route]]:
    """All tokens to one expert, with weight 1."""
    if expert >= config.experts:
        raise ValueError(f"--expert must be in 0..{config.experts - 1}, the experts of the layer, not {expert}")
    return [[(expert, int(stored(np.array(1.0), results_of(config))))]] * tokens


def _routes(config: ExpertConfig, logits: np.ndarray) -> list[list[Route]]:
    routes = []
    for token, each in enumerate(stored(logits, results_of(config))):
        chosen, cause = route(config, each.tolist())
        if cause:
            raise ValueError(f"token {token}: {ERROR_TEXT[cause]}")
        routes.append(sorted(chosen))
    return routes


def read_routes(path: Path, config: ExpertConfig) -> list[list[Route]]:
    """Routes of a CSV file with the columns token, expert, weight, in any order; tokens count from 0, and each has one expert at least.

    ``ValueError`` names the line and what is wrong with it.
    """
    found: dict[int, dict[int, float]] = {}
    try:
        with open(path, newline="") as file:
            lines = csv.reader(file)
            if next(lines, None) != HEADER:
                raise ValueError(f"{path}: the first line must be {','.join(HEADER)}")
            for number, fields in enumerate(lines, 2):
                token, expert, weight = _route(f"{path}, line {number}", fields, config)
                if expert in found.setdefault(token, {}):
                    raise ValueError(f"{path}, line {number}: token {token} has expert {expert} already")
                found[token][expert] = weight
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from None
    if not found:
        raise ValueError(f"{path}: there are no tokens")
    missing = next((token for token in range(max(found)) if token not in found), None)
    if missing is not None:
        raise ValueError(f"{path}: token {missing} has no expert")
    return [sorted(zip(found[token], stored(np.array(list(found[token].values())), results_of(config)).tolist(), strict=True))
            for token in range(len(found))]


def _route(where: str, fields: Sequence[str], config: ExpertConfig) -> tuple[int, int, float]:
    if len(fields) != len(HEADER):
        raise ValueError(f"{where}: must have {len(HEADER)} fields ({','.join(HEADER)}), not {len(fields)}")
    numbers = []
    for name, text, most in zip(HEADER, fields, (config.max_tokens, config.experts), strict=False):
        if not (text.isascii() and text.isdecimal() and int(text) < most):
            raise ValueError(f"{where}: {name} must be a whole number in 0..{most - 1}, not {text!r}")
        numbers.append(int(text))
    try:
        weight = float(fields[2])
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        raise ValueError(f"{where}: weight must be a number from 0 to 1, not {fields[2]!r}")
    return numbers[0], numbers[1], weight
