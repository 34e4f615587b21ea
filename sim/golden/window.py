"""Golden model of the cache of sinks and recent positions."""

from collections.abc import Iterator

from .cache import BurstCommand, contiguous_command

__all__ = ["slot", "window_commands", "window_runs"]


def slot(position: int, sinks: int, recent: int) -> int:
    """Where a position is kept."""
    return position if position < sinks else sinks + (position - sinks) % recent


def window_runs(position: int, count: int, *, sinks: int, recent: int, length: int) -> list[tuple[int, int, int]] | None:
    """``(first slot, slots, first position)`` for sinks, ring up to its end, ring from its begin; ``None`` for what is not there."""
    end = position + count
    if count and (end > length or (end > sinks and max(position, sinks) < length - recent)):
        return None
    runs = []
    while count:
        first = slot(position, sinks, recent)
        here = min(count, (sinks if position < sinks else sinks + recent) - first)
        runs.append((first, here, position))
        position, count = position + here, count - here
    return runs


def window_commands(base: int, head: int, position: int, count: int, *, sinks: int, recent: int, length: int, capacity: int,
                    record_beats: int, head_stride: int, bus_bits: int) -> Iterator[tuple[BurstCommand, dict[str, int]] | None]:
    """The burst of each run and which positions it has (``position``, ``count``, ``last``); one ``None`` for an error."""
    runs = window_runs(position, count, sinks=sinks, recent=recent, length=length)
    if runs is None:
        yield None
        return
    for first, slots, start in runs:
        command = contiguous_command(base, head, first, slots, capacity=capacity, record_beats=record_beats,
                                     head_stride=head_stride, bus_bits=bus_bits)
        assert command is not None
        yield command, {"position": start, "count": slots, "last": int(start + slots == position + count)}
