"""State machines with one flip-flop per state, for machines of many states that drive ports all over the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Signal, Value, ValueLike

__all__ = ["Steps"]


class Steps:
    """A machine of which one state at a time is under way; what several states drive is an OR over all of them.

    ``m.FSM`` numbers its states, so every output begins with a decoder, and a signal that many states drive becomes a
    multiplexer selected by the number: six levels of LUT4 for the executor's 50 states, each a wire across the device. Here a
    state is a flip-flop, and an output is the OR of ``state & value``::

        with Steps(m, "IDLE") as steps:
            with steps.state("IDLE"):
                with m.If(start):
                    steps.set(count, length)
                    steps.go("COUNT")
            with steps.state("COUNT"):
                steps.drive(busy, 1)
                steps.set(count, count - 1)
                with m.If(count == 0):
                    steps.go("IDLE")

    Parameters
    ----------
    m : Module
        Where the machine is built.
    first : str
        State after reset.

    Within ``state`` (and ``m.If`` in it) there are ``go`` to the state of the next cycle, ``drive`` for a signal that is 0
    unless a state drives it, and ``set`` for a register that keeps its value unless a state sets it. In one cycle at most one
    ``go`` may be reached, and one ``drive`` or ``set`` of a signal: the last one does not win, as it would with assignments.
    A signal has either all its values from here or none. Without ``go`` the state stays.

    Raises ``ValueError`` for a state that is defined twice or, at the end of the block, gone to and not defined; ``TypeError``
    for a part of a signal.
    """

    def __init__(self, m: Module, first: str):
        self._m, self._first, self._inside = m, first, ""
        self._active: dict[str, Signal] = {}
        self._defined: list[str] = []
        self._into: dict[str, list[Signal]] = {}
        self._out: dict[str, list[Signal]] = {}
        self._driven: dict[int, tuple[Signal, list[Signal]]] = {}
        self._set: dict[int, tuple[Signal, list[Signal], list[Signal]]] = {}

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, error, *_) -> None:
        if error is None:
            self._finish()

    def ongoing(self, name: str) -> Signal:
        """High while the machine is in this state."""
        if name not in self._active:
            self._active[name] = Signal(name=f"in_{name.lower()}", init=name == self._first)
        return self._active[name]

    @contextmanager
    def state(self, name: str) -> Iterator[None]:
        """What happens in a state."""
        if name in self._defined:
            raise ValueError(f"state {name!r} is defined twice")
        self._defined.append(name)
        self._inside = name
        with self._m.If(self.ongoing(name)):
            yield
        self._inside = ""

    def go(self, name: str) -> None:
        """The state of the next cycle is ``name``."""
        here = Signal(name=f"{self._inside.lower()}_to_{name.lower()}")
        self._m.d.comb += here.eq(1)
        self._into.setdefault(name, []).append(here)
        self._out.setdefault(self._inside, []).append(here)

    def drive(self, signal: ValueLike, value: ValueLike) -> None:
        """``signal`` is ``value`` in this cycle."""
        signal = _whole(signal)
        self._driven.setdefault(id(signal), (signal, []))[1].append(self._part(signal, value))

    def set(self, register: ValueLike, value: ValueLike) -> None:
        """``register`` is ``value`` from the next cycle on."""
        register = _whole(register)
        _, enables, parts = self._set.setdefault(id(register), (register, [], []))
        enables.append(self._part(Signal(), 1))
        parts.append(self._part(register, value))

    def _part(self, signal: Value, value: ValueLike) -> Signal:
        """``value`` when this place is reached, else 0."""
        part = Signal(signal.shape(), name=f"part_{self._inside.lower()}")
        self._m.d.comb += part.eq(value)
        return part

    def _finish(self) -> None:
        m = self._m
        if missing := sorted({*self._into, self._first} - {*self._defined}):
            raise ValueError(f"states {', '.join(missing)} are gone to, but not defined")
        for name, active in self._active.items():
            m.d.sync += active.eq(_any([active & ~_any(self._out.get(name, [])), *self._into.get(name, [])]))
        for signal, parts in self._driven.values():
            m.d.comb += signal.eq(reduce(or_, parts))
        for register, enables, parts in self._set.values():
            with m.If(_any(enables)):
                m.d.sync += register.eq(reduce(or_, parts))


def _whole(signal: ValueLike) -> Signal:
    signal = Value.cast(signal)
    if not isinstance(signal, Signal):
        raise TypeError(f"only whole signals are driven and set, not {signal!r}")
    return signal


def _any(bits: list) -> Value:
    return Cat(bits).any()
