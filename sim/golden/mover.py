"""Golden model of the mover of K/V rows."""

from collections.abc import Sequence

__all__ = ["move_bursts"]


def move_bursts(*, from_region: int, to_region: int, source: int, target: int, rows: int, base: Sequence[int],
                head_stride: Sequence[int], heads: int, record_beats: int, bus_bytes: int) -> list[tuple[int, int, int]]:
    """``(byte address read, byte address written, beats)`` for each head."""
    row = record_beats * bus_bytes
    return [((base[from_region] + head * head_stride[from_region] + source * row) % (1 << 32),
             (base[to_region] + head * head_stride[to_region] + target * row) % (1 << 32), rows * record_beats)
            for head in range(heads)] if rows else []
