"""Rules of streams of units that do one thing at a time, from what is so in the states of their machines."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Assert, Assume, Cat, Module, Value

from ...accelerators.cache.evict_scores import EvictScores
from ...accelerators.cache.swap import SwapController
from ...accelerators.control.executor import Executor
from ...accelerators.control.frontend import FrontEnd
from ...accelerators.control.frontend_ports import settings
from ...accelerators.control.isa import Opcode
from ...accelerators.numerics import Divider, ScalarUnit, SquareRoot
from .contract import StreamContract

__all__ = ["DigitContract", "ExecutorContract", "FrontEndContract", "ScalarContract", "ScoresContract", "in_states"]


def in_states(m: Module, machine: str, *states: str) -> Value:
    """Whether that machine of ``m`` is in one of the states: private parts of Amaranth, whose version is pinned."""
    fsm = m._generated[machine]
    return Cat(fsm._data["signal"] == fsm.encoding[state] for state in states).any()


class _MachineContract(StreamContract):
    """Asserts ``_known`` of the module that the component makes."""

    def _design(self, platform):
        m = self.component.elaborate(platform)
        m.d.comb += [Assert(known) for known in self._known(m)]
        return m

    def _known(self, m: Module) -> list[Value]:
        raise NotImplementedError


class DigitContract(_MachineContract):
    """While there is a result, no digit is made."""

    component: Divider | SquareRoot

    def _known(self, m: Module) -> list[Value]:
        busy = next(signal for signal in m._driving if signal.name == "busy")
        return [~(self.component.o.valid & busy)]


class ScalarContract(_MachineContract):
    """There is a result in the state that waits for its being taken, and in no other."""

    component: ScalarUnit

    def _known(self, m: Module) -> list[Value]:
        return [self.component.o.valid == in_states(m, "fsm", "TAKEN")]


class ScoresContract(_MachineContract):
    """What waits for the pipelines to run empty has its count from the command on."""

    component: EvictScores

    def _known(self, m: Module) -> list[Value]:
        settles = self.component._settles
        return [~in_states(m, "fsm", "UPDATE") | (settles == 3), ~in_states(m, "fsm", "VICTIM", "MERGE", "SOURCE") | (settles == 2)]


def _watched(made: list[Any], kind: Callable[..., Any]) -> Callable[..., Any]:
    """``kind``; what it makes is kept."""
    def make(*parameters):
        made.append(kind(*parameters))
        return made[-1]
    return make


class ExecutorContract(_MachineContract):
    """One state is under way; a product is in one place of its pipeline while a state waits for it, and in none else; the kind of an
    operation is known from its first command on. ``magnitudes``, ``top_exponents``, ``inverse_temperature``, ``budget`` and ``window``
    stand still."""

    component: Executor

    def __init__(self, component: Executor):
        super().__init__(component, still=("magnitudes", "top_exponents", "inverse_temperature", "budget", "window"))

    def _design(self, platform):
        names, self._made = type(self.component).elaborate.__globals__, []
        with patch.dict(names, Issue=_watched(self._made, names["Issue"])):
            return super()._design(platform)

    def _known(self, m: Module) -> list[Value]:
        issue, = self._made
        states, product = issue.steps._active, issue._multiplying
        active, begins = Cat(states.values()), states["IDLE"] | states["BEGIN"]
        waits = Cat(state for name, state in states.items() if name.endswith("_MULTIPLY")).any()
        return [
            (active != 0) & ((active & (active - 1)) == 0), (product & (product - 1)) == 0, (product != 0) == waits,
            begins | (issue.is_norm == (issue.op.opcode == Opcode.NORM)),
            begins | (issue.is_append == (issue.op.opcode == Opcode.APPEND)),
        ]


class FrontEndContract(_MachineContract):
    """No descriptor is read behind the program's END, that of the last chunk in flight, nor until a step has its tokens. Of the
    executor it is assumed that no append is done while rows are offered that appends had to come before; what the host sets stands
    still. With any swap controller that keeps the rules."""

    component: FrontEnd

    _WITHOUT = ("IDLE", "CHECK", "PROMPT", "CHUNK", "ENTRY", "OPERATIONS", "PROGRAM_END", "TOKEN", "EMIT", "AGAIN", "DONE")
    """What the names of those states begin with in which there is nothing to read."""

    def __init__(self, component: FrontEnd):
        super().__init__(component, still=tuple(settings(component.config)))

    def _design(self, platform):
        names = FrontEnd.elaborate.__globals__
        kind = names["Descriptors"]

        def descriptors(m, config, frontend, paired):
            self._fetch, self._paired = kind(m, config, frontend, paired), paired
            return self._fetch
        with patch.dict(names, Descriptors=descriptors):
            m = super()._design(platform)
        m.d.comb += Assume(~(self.component.append_done & self.component.o_data.valid & m.submodules.next_read.o.p.fenced))
        if isinstance(cache := m.submodules.cache, SwapController):
            inside = Module()
            self._watch(inside, cache.signature, cache, "cache", True)
            cache.elaborate = lambda platform: inside
        return m

    def _known(self, m: Module) -> list[Value]:
        idle, instruction = in_states(m, "fetch", "IDLE"), self.component.o_operation.p.instruction
        states = m._generated["main"].encoding
        without = [state for state in states if state.startswith(self._WITHOUT) or state == "LIST"]
        taken = [state for state in ("ISSUE", "FALLBACK", "PUSH") if state in states]
        ends = in_states(m, "main", *taken) & (instruction.opcode == Opcode.END)
        if self.component.config.chunks == 1:
            one = [self._fetch.fetching == 0]
        else:
            one, ends = [], ends & (self.component.o_operation.p.chunk == self._paired)
        return [*one, ~in_states(m, "main", *without) | idle, ~ends | idle]
