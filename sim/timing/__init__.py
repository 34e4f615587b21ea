"""Cycle model of the accelerator: operations, front end and memory port as processes, from a program and a configuration.

It is driven by the instructions that the hardware executes and takes latencies and intervals from the components, so figures
of a unit have one home. Time goes on in events (bursts, operations), not in cycles: a token of a model of 2e9 parameters takes
seconds. ``docs/architecture.md`` states the assumptions, ``tests/sim/test_timing.py`` compares it with RTL.
"""

from .machine import Machine
from .memory import Memory
from .records import Layout, Run, Span

__all__ = ["Layout", "Machine", "Memory", "Run", "Span"]
