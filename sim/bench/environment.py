"""Clock, reset and the run of one stimulus through the unit under test."""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cocotb.triggers import Timer

from ...rtl_gen.loading import load
from .agents import BenchFailure, Pattern, Sink, Source, always
from .scoreboard import Scoreboard
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["Environment"]


class Environment:
    """The unit under test with a source or a sink on every stream.

    The clock is stepped by hand: inputs change with the falling edge, everything is sampled just before
    the rising one, so that no simulator's order of events matters.
    """

    def __init__(self, dut: Any):
        self.sidecar = json.loads(Path(os.environ["LLMRTL_SIDECAR"]).read_text())
        bench = load(os.environ["LLMRTL_BENCH"])
        self.bench: UnitBench = bench(bench.Config.from_json(self.sidecar["config"]))
        self.seed = int(os.environ["LLMRTL_SEED"])
        self._clock = getattr(dut, self.sidecar["clock"], None)
        self._reset = getattr(dut, self.sidecar["reset"], None)
        self._half = Timer(5, "ns")
        ports = {port["name"]: getattr(dut, port["name"]) for port in self.sidecar["ports"]}
        self.ports = ports
        in_streams = {f"{s['name']}__{part}" for s in self.sidecar["streams"]
                      for part in ("payload", "valid", "ready")}
        plain = {port["name"]: port for port in self.sidecar["ports"] if port["name"] not in in_streams}
        self.levels_in = {name: port for name, port in plain.items() if port["direction"] == "in"}
        self.levels_out = {name: port for name, port in plain.items() if port["direction"] == "out"}
        self._controlled = type(self.bench).control is not UnitBench.control
        self._watched = type(self.bench).accepted is not UnitBench.accepted
        self._offers = type(self.bench).offers is not UnitBench.offers
        self.sources = {s["name"]: Source(s["name"], s["payload"], ports)
                        for s in self.sidecar["streams"] if s["direction"] == "in"}
        self.sinks = {s["name"]: Sink(s["name"], s["payload"], ports)
                      for s in self.sidecar["streams"] if s["direction"] == "out"}
        self.agents: list[Source | Sink] = [*self.sources.values(), *self.sinks.values()]
        self.models = list(self.bench.models(ports))
        self.cycle = 0

    def rng(self, case: str) -> random.Random:
        """A generator for ``case``, reproducible from the printed seed."""
        return random.Random(f"{self.seed}/{case}")

    async def reset(self, cycles: int = 2) -> None:
        """Forget all pending items and hold reset for some cycles."""
        self._set("constants", {name: 0 for name in self.levels_in})
        self._set("constants", self.bench.constants())
        for agent in (*self.agents, *self.models):
            agent.clear()
        if self._reset is not None:
            self._reset.value = 1
        for _ in range(cycles):
            await self._half
            await self._edge()
        if self._reset is not None:
            self._reset.value = 0

    def _set(self, method: str, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            if name not in self.levels_in:
                raise BenchFailure(f"{method}() sets {name}, but the plain inputs are "
                                   f"{sorted(self.levels_in)}")
            self.ports[name].value = value & (1 << self.levels_in[name]["width"]) - 1

    def level(self, name: str) -> int:
        """Value of a plain output port."""
        if name not in self.levels_out:
            raise BenchFailure(f"there is no {name}, the plain outputs are {sorted(self.levels_out)}")
        text = str(self.ports[name].value)
        if set(text) - {"0", "1"}:
            raise BenchFailure(f"{name} is {text} after reset")
        port = self.levels_out[name]
        bits = int(text, 2)
        return bits - (1 << port["width"]) if port["signed"] and text[0] == "1" else bits

    async def _edge(self) -> None:
        """The rising edge of the clock, and half a period later the falling one."""
        if self._clock is not None:
            self._clock.value = 1
        await self._half
        if self._clock is not None:
            self._clock.value = 0

    async def step(self, scoreboard: Scoreboard | None) -> bool:
        """One cycle; whether any item moved."""
        if self._controlled:
            self._set("control", self.bench.control(self.cycle, self.level))
        if self._offers:
            self._answer(self.bench.offers())
        for agent in (*self.agents, *self.models):
            agent.drive()
        await self._half
        moved = False
        for model in self.models:
            moved |= model.sample(self.cycle)
        for name, source in self.sources.items():
            offered = source.items[0] if source.items else 0
            if source.sample(self.cycle):
                moved = True
                if self._watched:
                    self._answer(self.bench.accepted(name, source.codec.unpack(offered)))
        for name, sink in self.sinks.items():
            bits = sink.sample(self.cycle)
            if bits is None:
                continue
            moved = True
            if scoreboard is not None:
                scoreboard.check(name, bits)
            self._answer(self.bench.react(name, sink.codec.unpack(bits)))
        await self._edge()
        self.cycle += 1
        return moved

    def _answer(self, items: Items) -> None:
        """Append to the sources what the bench answered."""
        for name, payloads in items.items():
            for payload in payloads:
                self.sources[name].append(payload)

    def load(self, stimulus: Items, sources: Pattern = always, sinks: Pattern = always) -> Scoreboard:
        """Queue ``stimulus``, ask the golden model, set the patterns of gaps."""
        unknown = stimulus.keys() - self.sources.keys()
        if unknown:
            raise BenchFailure(f"the stimulus has items for {', '.join(sorted(unknown))}, but the inputs are "
                               f"{', '.join(sorted(self.sources))}")
        self.bench.begin(stimulus)
        for name, items in stimulus.items():
            for item in items:
                self.sources[name].append(item)
        for source in self.sources.values():
            source.pattern = sources
        for sink in self.sinks.values():
            sink.pattern = sinks
        for model in self.models:
            model.begin(sources, sinks)
        return Scoreboard(self.sinks, self.bench.expected(stimulus))

    async def finish(self, scoreboard: Scoreboard) -> None:
        """Run until every input is taken and every output has come, then watch for extra ones."""
        idle = 0
        while (not scoreboard.complete or any(source.items for source in self.sources.values())
               or any(model.pending() for model in self.models)):
            idle = 0 if await self.step(scoreboard) else idle + 1
            if idle > self.bench.patience:
                raise BenchFailure(self._stalled(scoreboard))
        for sink in self.sinks.values():
            sink.pattern = always
        for _ in range(self.bench.drain):
            await self.step(scoreboard)
        for model in self.models:
            model.finish()

    def _stalled(self, scoreboard: Scoreboard) -> str:
        waiting = [f"{source.name} waits for ready with {len(source.items)} items left"
                   for source in self.sources.values() if source.items]
        return (f"stalled: nothing moved for {self.bench.patience} cycles; "
                + "; ".join(waiting + scoreboard.missing() + [
                    text for model in self.models if (text := model.pending())]))

    async def run(self, stimulus: Items, sources: Pattern = always, sinks: Pattern = always) -> Trace:
        """Reset, put ``stimulus`` through in full, compare all outputs."""
        await self.reset()
        scoreboard = self.load(stimulus, sources, sinks)
        await self.finish(scoreboard)
        for name, want in self.bench.levels(stimulus).items():
            if (got := self.level(name)) != want:
                raise BenchFailure(f"wrong level of {name} after the run: {got}, expected {want}")
        return self.trace()

    def trace(self) -> Trace:
        return Trace({name: source.accepted for name, source in self.sources.items()},
                     {name: sink.delivered for name, sink in self.sinks.items()}
                     | {model.name: model.transfers for model in self.models},
                     {name: sink.raised for name, sink in self.sinks.items() if sink.raised is not None})
