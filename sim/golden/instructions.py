"""Golden model of the instruction decoder: what the unit makes of a descriptor, or why it refuses it."""

from collections.abc import Sequence
from typing import Any

from ...accelerators.control.isa import check_word
from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.errors import ExpertError
from ...accelerators.experts.instructions import DESCRIPTOR_WORDS, FIELDS, SCALES, Kind

__all__ = ["decode_descriptor"]

RUN_BITS = 24
"""Words of a matrix."""


def decode_descriptor(config: ExpertConfig, words: Sequence[int]) -> tuple[dict[str, Any], ExpertError]:
    """``(operation, error)``: the decoder's payload by field. Of several causes the first in the order below counts."""
    if len(words) != DESCRIPTOR_WORDS or words[-1] != check_word(words[:-1]):
        return {}, ExpertError.CHECK_WORD
    values = {name: words[word] >> low & (1 << width) - 1 for name, (word, low, width) in FIELDS.items()}
    kind, hidden, intermediate = values["kind"], values["hidden"], values["intermediate"]
    if kind not in Kind.__members__.values():
        return {}, ExpertError.KIND
    expert = kind == Kind.EXPERT
    if expert and values["expert"] >= config.experts:
        return {}, ExpertError.EXPERT
    if not all(0 < each <= most and each % config.lanes == 0
               for each, most in ((hidden, config.max_hidden), (intermediate, config.max_intermediate))):
        return {}, ExpertError.DIMENSIONS
    starts = [tuple(values[f"{name}_{part}"] for part in ("bundle", "row", "offset")) for name in ("first", "second")]
    used = starts if expert else starts[:1]
    read_bytes = config.word_bytes * config.timing.ccd // 2
    if any(offset % read_bytes for _, _, offset in used):
        return {}, ExpertError.ADDRESS
    size = hidden * intermediate // config.lanes
    for (bundle, row, offset), amount in zip(used, (size << expert, size), strict=False):
        turns = 2 if config.ping_pong else 1
        place = (row * turns + bundle % turns) * config.row_words + offset // config.word_bytes
        if bundle >= config.bundles or row >= config.rows or offset >= config.row_words * config.word_bytes or \
                place + amount > turns * config.rows * config.row_words or amount >= 1 << RUN_BITS:
            return {}, ExpertError.SPACE
    scales = [{"mantissa": words[word] & 0xFFFF, "exponent": (words[word] >> 16 & 255 ^ 128) - 128} for word in SCALES]
    integers = not config.format.exponent_bits
    if integers and any(scale["mantissa"] == 0 for scale in (scales if expert else scales[:1])):
        return {}, ExpertError.SCALE
    places = [{"bundle": bundle % config.bundles, "row": row % config.rows, "column": offset // read_bytes % config.columns}
              for bundle, row, offset in starts]
    return {"kind": kind, "tag": values["tag"], "expert": values["expert"] % (1 << (config.experts - 1).bit_length()),
            "first": values["begin"], "gate_up": places[0], "down": places[1], "hidden_words": hidden // config.lanes,
            "slice_words": intermediate // config.lanes, **({"scales": scales} if integers else {})}, ExpertError.NONE
