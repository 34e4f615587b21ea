"""Golden model of the instruction decoder: what the unit makes of a descriptor, or why it refuses it."""

from collections.abc import Sequence
from typing import Any

from ...accelerators.control.isa import check_word
from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.errors import ExpertError
from ...accelerators.experts.instructions import DESCRIPTOR_WORDS, FIELDS, SCALES, Kind
from .expert_softmax import SCALE_BITS

__all__ = ["decode_descriptor"]

RUN_BITS = 24
"""Words of a matrix."""


def decode_descriptor(config: ExpertConfig, words: Sequence[int]) -> dict[str, Any]:
    """The decoder's payload by field; those that the descriptor's kind has no use for, or a refused one has not, are left out."""
    values = {name: words[word] >> low & (1 << width) - 1 for name, (word, low, width) in FIELDS.items() if word < len(words)}
    cause = _refused(config, words, values)
    operation: dict[str, Any] = {"tag": values["tag"], "cause": int(cause)}
    if cause:
        return operation
    operation |= {"kind": values["kind"], "begin": values["begin"]}
    if values["kind"] == Kind.LAYER:
        return operation
    for name, matrix in (("gate_up", "first"), ("down", "second")):
        operation[name] = {"bundle": values[f"{matrix}_bundle"], "row": values[f"{matrix}_row"],
                           "column": values[f"{matrix}_offset"] // _read_bytes(config)}
    operation |= {"hidden_words": values["hidden"] // config.lanes, "slice_words": values["intermediate"] // config.lanes}
    if not config.format.exponent_bits:
        operation["scales"] = [{"mantissa": words[word] & 0xFFFF, "exponent": (words[word] >> 16 & 255 ^ 128) - 128} for word in SCALES]
    used = ("expert",) if values["kind"] == Kind.EXPERT else ("positions", "softmax_scale", "query", "group")
    return operation | {name: values[name] for name in used}


def _refused(config: ExpertConfig, words: Sequence[int], values: dict[str, int]) -> ExpertError:
    """Of several causes the first in the order below counts."""
    if len(words) != DESCRIPTOR_WORDS or words[-1] != check_word(words[:-1]):
        return ExpertError.CHECK_WORD
    kind, hidden, intermediate, positions = (values[name] for name in ("kind", "hidden", "intermediate", "positions"))
    if kind not in (Kind.EXPERT, Kind.LAYER, *([Kind.ATTENTION] if config.attention else [])):
        return ExpertError.KIND
    if kind == Kind.LAYER:
        return ExpertError.NONE
    attention = kind == Kind.ATTENTION
    if not attention and values["expert"] >= config.experts:
        return ExpertError.EXPERT
    if not all(0 < each <= most and each % config.lanes == 0
               for each, most in ((hidden, config.max_hidden), (intermediate, config.max_intermediate))):
        return ExpertError.DIMENSIONS
    if attention and not (0 < positions <= intermediate and 0 < values["group"] <= config.token_lanes):
        return ExpertError.DIMENSIONS
    if attention and values["query"] + values["group"] > config.max_tokens:
        return ExpertError.TOKEN
    starts = [tuple(values[f"{name}_{part}"] for part in ("bundle", "row", "offset")) for name in ("first", "second")]
    if any(offset % _read_bytes(config) for _, _, offset in starts):
        return ExpertError.ADDRESS
    for (bundle, row, offset), rows in zip(starts, (positions if attention else 2 * intermediate, intermediate), strict=True):
        turns, amount = 2 if config.ping_pong else 1, rows * hidden // config.lanes
        place = (row * turns + bundle % turns) * config.row_words + offset // config.word_bytes
        if bundle >= config.bundles or row >= config.rows or offset >= config.row_words * config.word_bytes or \
                place + amount > turns * config.rows * config.row_words or amount >= 1 << RUN_BITS:
            return ExpertError.SPACE
    needed = SCALES[::2] if attention else SCALES
    if not config.format.exponent_bits and any(words[word] & 0xFFFF == 0 for word in needed):
        return ExpertError.SCALE
    if attention and values["softmax_scale"] >= 1 << SCALE_BITS + 1:
        return ExpertError.SCALE
    return ExpertError.NONE


def _read_bytes(config: ExpertConfig) -> int:
    """Of a read command."""
    return config.word_bytes * config.timing.ccd // 2
