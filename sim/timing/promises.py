"""Components of which only the promises are wanted: latency, interval, depths."""

from functools import cache
from typing import TypeVar

from amaranth.hdl import Elaboratable

from ...accelerators.streams.queue import Queue

__all__ = ["promised", "queue_latency"]

Part = TypeVar("Part", bound=Elaboratable)


def promised(component: Part) -> Part:
    """``component``; Amaranth will not warn that it, or a part of it, is never elaborated."""
    component._MustUse__silence = True  # type: ignore[attr-defined]
    for value in vars(component).values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Elaboratable):
                promised(each)
    return component


@cache
def queue_latency(depth: int) -> int:
    """From one end of a queue of ``depth`` items to the other."""
    return promised(Queue(1, depth)).latency
