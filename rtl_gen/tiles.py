"""Tiles of packed prompts: which rows the attention engine reads for which tokens (Prepacking, arXiv:2404.09529)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..accelerators.checks import check_int

__all__ = ["Tile", "TileRun", "plan_tiles"]


@dataclass(frozen=True)
class TileRun:
    """Rows that follow each other, read once for all tokens of a tile: a command of the engine.

    Members
    -------
    first, rows : int
        Row of the cache, and how many from there.
    starts, limits : tuple of int
        Per token of the tile: it sees rows ``starts .. limits - 1`` of the run; both 0 if none.
    """

    first: int
    rows: int
    starts: tuple[int, ...]
    limits: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """Packed tokens ``first .. last`` whose queries are in the engine together: an operation of one or more runs."""

    first: int
    last: int
    runs: tuple[TileRun, ...]

    @property
    def rows(self) -> int:
        """Rows that are read."""
        return sum(run.rows for run in self.runs)


def plan_tiles(segments: Sequence[int], *, query_lanes: int, group: int, positions: Sequence[int] | None = None,
               bases: Mapping[int, int] | None = None) -> list[Tile]:
    """Tiles of tokens that were packed into one pass, and the runs of rows that each of them needs.

    A token sees the rows of its own segment up to its position. Only rows that some token of a tile sees are read for it: a
    (tile, row) pair without overlap is skipped, and what lies between the rows of two segments splits a run.

    Parameters
    ----------
    segments : sequence of int
        Segment of each token, in any order.
    query_lanes, group : int
        Lanes of the engine; query heads of a token, a lane each: ``query_lanes // group`` tokens make a tile.
    positions : sequence of int, optional
        Position of each token in its segment. By default they count from 0 in each segment. A first one above 0 continues a segment
        of which earlier rows are in the cache.
    bases : mapping of int to int, optional
        Row of the cache of each segment's position 0. By default rows are packed like tokens: token t has row t, which needs
        tokens of a segment, and their positions, to follow each other from 0 on.
    """
    check_int("query_lanes", query_lanes, 1, 64)
    check_int("group", group, 1, query_lanes)
    counted: dict[int, int] = {}
    own = []
    for segment in segments:
        own.append(counted.get(segment, 0))
        counted[segment] = own[-1] + 1
    if positions is None:
        positions = own
    if len(positions) != len(segments) or min(positions, default=0) < 0:
        raise ValueError(f"positions must have {len(segments)} entries, none negative, not {list(positions)}")
    if bases is None:
        bases = {segment: token - position for token, (segment, position) in reversed(list(enumerate(
            zip(segments, positions, strict=True))))}
        for token, (segment, position) in enumerate(zip(segments, positions, strict=True)):
            if bases[segment] + position != token or position != own[token]:
                raise ValueError(f"without bases, the tokens of a segment must follow each other from position 0 on, not as token "
                                 f"{token} of segment {segment} at position {position}")
    if missing := set(segments) - set(bases):
        raise ValueError(f"bases must name all segments, not {sorted(bases)} without {sorted(missing)}")
    size, tiles = query_lanes // group, []
    for first in range(0, len(segments), size):
        seen = [(bases[segment], bases[segment] + position + 1) for segment, position in
                zip(segments[first:first + size], positions[first:first + size], strict=True)]
        tiles.append(Tile(first, first + len(seen) - 1, tuple(_run(start, end, seen) for start, end in _united(seen))))
    return tiles


def _united(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rows of any of the ranges ``start .. end - 1``, as ranges with gaps between them."""
    united: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(end, united[-1][1])
        else:
            united.append((start, end))
    return united


def _run(start: int, end: int, seen: Sequence[tuple[int, int]]) -> TileRun:
    bounds = [(low - start, high - start) if start <= low < end else (0, 0) for low, high in seen]
    return TileRun(start, end - start, tuple(low for low, _ in bounds), tuple(high for _, high in bounds))
