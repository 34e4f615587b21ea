"""What the parts of the cycle model tell each other, and what it tells its user."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ...accelerators.control.isa import Instruction, Opcode

__all__ = ["Layout", "Operation", "Run", "Span"]


@dataclass(frozen=True)
class Layout:
    """What the cycle count needs of a program's surroundings: byte addresses and beats, as in the image."""

    program_address: int
    prompt_address: int
    kv_record_beats: int
    kv_head_stride: int


@dataclass(frozen=True)
class Operation:
    """An instruction, and the chunk that it works on: which of those in flight, its tokens, position of the first one."""

    instruction: Instruction
    tokens: int
    position: int
    chunk: int


@dataclass(frozen=True)
class Span:
    """An operation and its cycles: its begin, and the last event that it waits for (of LINEAR: its last command)."""

    operation: Operation
    begin: float
    end: float


@dataclass
class Run:
    """What happened.

    Members
    -------
    tokens : list of float
        Cycles in which generated tokens left the accelerator, from the start.
    read_beats : list of int
        Bus words read when they did.
    beats : Counter
        Bus words by kind: ``program``, ``weights``, ``head``, ``cache``, ``data``, ``written``.
    busy : dict
        Cycles of the executor by opcode; for ``LINEAR`` those in which a matrix is under way, as the hardware's counter has them,
        for ``HEAD`` those of the LM head.
    spans : list of Span
        All operations in order.
    """

    tokens: list[float] = field(default_factory=list)
    read_beats: list[int] = field(default_factory=list)
    beats: Counter[str] = field(default_factory=Counter)
    busy: defaultdict[Opcode, float] = field(default_factory=lambda: defaultdict(float))
    spans: list[Span] = field(default_factory=list)
