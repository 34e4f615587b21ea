"""The paged cache that swaps, with its mover: contents of memory; what it refuses."""

import dataclasses

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from llmrtl.accelerators.cache.mover import RowMover
from llmrtl.accelerators.cache.swap import SwapController
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import connect
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.bench.runner import run_bench


class SwapWithMover(wiring.Component):
    """A controller and its mover, whose ports are called ``move_``."""

    def __init__(self, config):
        self.controller = SwapController.for_config(config)
        self.mover = RowMover(config, self.controller.rows)
        self.inner = {}
        members = {name: member for name, member in self.controller.signature.members.items() if name not in ("o_move", "i_moved")}
        for name, member in self.mover.signature.members.items():
            if name not in ("i_command", "o_done", "record_beats"):
                outer = f"{name[:2]}move_{name[2:]}" if name[:2] in ("i_", "o_") else name if name == "heads" else f"move_{name}"
                members[outer], self.inner[outer] = member, name
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller, m.submodules.mover = controller, mover = self.controller, self.mover
        connect(m, controller.o_move, mover.i_command)
        connect(m, mover.o_done, controller.i_moved)
        m.d.comb += mover.record_beats.eq(self.record_beats)
        for name, member in self.signature.members.items():
            inner = getattr(mover, self.inner[name]) if name in self.inner else getattr(controller, name)
            outer = getattr(self, name)
            if not member.is_port:
                ends = (inner, wiring.flipped(outer))
                connect(m, *(ends if member.flow == wiring.Out else reversed(ends)))
            else:
                m.d.comb += outer.eq(inner) if member.flow == wiring.Out else inner.eq(outer)
        return m


def report(bench, cases, **changes):
    config = dataclasses.replace(preset("tiny"), **changes)
    return run_bench(emit(SwapWithMover(config), "swap_with_mover", config), f"llmrtl.sim.bench.swap_memory:{bench}", "verilator",
                     cases=cases)


def test_contents_of_memory():
    said = report("SwapMemoryBench", ("back_to_back", "stress"))
    assert said.ok, str(said)


@pytest.mark.bench
@pytest.mark.parametrize("changes", [{"block_size": 4}, {"sequences": 6, "block_size": 8, "max_context": 100}], ids=str)
def test_contents_of_memory_for_long(changes):
    said = report("LongSwapMemoryBench", ("idle_gaps", "back_pressure"), **changes)
    assert said.ok, str(said)


@pytest.mark.bench
def test_numbers_that_are_no_sequences(tmp_path):
    config = dataclasses.replace(preset("tiny"), sequences=6, block_size=8, max_context=100)
    said = run_bench(emit(SwapController.for_config(config), "swap_controller", config), "llmrtl.sim.bench.swap:SwapControllerBench",
                     "verilator", cases=("boundary", "stress"), folder=tmp_path)
    assert said.ok, str(said)


@pytest.mark.parametrize(("options", "message"), [
    ({"slots": 1}, r"slots must be in 2\.\.65536, not 1"),
    ({"sequences": 1}, r"sequences must be in 2\.\.256, not 1"),
])
def test_refuses_what_it_cannot_have(options, message):
    with pytest.raises(ValueError, match=message):
        SwapController(preset("edge"), **options)
