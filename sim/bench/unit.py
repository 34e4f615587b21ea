"""What a unit tells the common bench: stimulus, golden model, figures."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...accelerators.checks import Configuration
from ...accelerators.config import AcceleratorConfig
from .agents import Model
from .trace import Trace

__all__ = ["Items", "UnitBench"]

Items = dict[str, list[Any]]  # stream name -> payloads, in order


class UnitBench:
    """Base class of all benches. Override ``stimulus`` and ``expected``; the rest is optional.

    Payloads are plain values: ``int``, ``list`` for arrays, ``dict`` for structs; signs are kept. NumPy
    integers and arrays are welcome. ``None`` in an expected payload matches anything.

    Parameters
    ----------
    config : Config
        The configuration that the unit was emitted for.

    Attributes
    ----------
    Config : type
        Of the configuration.
    patience : int
        Cycles without a single transfer after which the run has stalled.
    drain : int
        Cycles to watch for extra outputs after the last expected one.
    modules : tuple of str
        cocotb modules to run: the common menu, and more if the unit needs it.
    """

    Config: type[Configuration] = AcceleratorConfig
    patience: int = 2000
    drain: int = 64
    modules: tuple[str, ...] = ("llmrtl.sim.bench.menu",)

    def __init__(self, config: Any):
        self.config = config

    def stimulus(self, rng: random.Random, case: str) -> Items:
        """Items for every input stream. ``case`` is the name of the test, to size or shape it."""
        raise NotImplementedError

    def expected(self, stimulus: Items) -> Items:
        """Items that every output stream must give for ``stimulus``: the golden model."""
        raise NotImplementedError

    def boundary(self) -> Items | None:
        """Stimulus with the extreme values; ``None`` skips the case."""
        return None

    def constants(self) -> Mapping[str, int]:
        """Values of plain input ports, set before reset and held; 0 for those not named."""
        return {}

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        """Expected values of plain output ports after the run."""
        return {}

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        """New values of plain input ports, asked for in every cycle (if overridden: it costs time).

        ``level(name)`` reads a plain output port as it was just after the last rising edge.
        """
        return {}

    def offers(self) -> Items:
        """Items to append to input streams, asked for in every cycle after ``control`` (if overridden): for what a plain
        port sets off. Do not put such items in ``stimulus``."""
        return {}

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        """What plays behind plain ports: ``[AxiMemory(ports, data)]``. Called once per test case."""
        return ()

    def begin(self, stimulus: Items) -> None:
        """Called before each run (after each reset): clear what ``react`` remembers."""

    def react(self, stream: str, payload: Any) -> Items:
        """Called for each item that leaves the unit: items to append to input streams in answer to it.

        This is how a bench plays the memory behind a reader. Do not put such items in ``stimulus``.
        """
        return {}

    def accepted(self, stream: str, payload: Any) -> Items:
        """Called for each item that the unit takes from an input stream (if overridden): items to append to input
        streams, offered from the next cycle on. Do not put such items in ``stimulus``."""
        return {}

    def latency_stimulus(self) -> Items | None:
        """Stimulus of the run that is measured; ``None`` takes ``stimulus(Random(0), "latency")``."""
        return None

    def measure(self, trace: Trace) -> dict[str, int]:
        """Figures of a run with no gap and no back-pressure; ``trace`` has the cycle of every transfer.

        By default ``latency``, from the first item accepted by any input to the first ``valid`` of any
        output, and ``interval``, the most cycles between two items in a row of the busiest input.
        """
        return trace.figures()

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        """What ``measure`` must give. By default those of the component's ``latency`` and ``interval``
        attributes that are integers."""
        return {key: value for key, value in attributes.items() if isinstance(value, int)}
