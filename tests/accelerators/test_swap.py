"""The paged cache that swaps, with its mover: contents of memory; what it refuses."""

import dataclasses

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from llmrtl.accelerators.cache.mover import RowMover
from llmrtl.accelerators.cache.swap import SwapController
from llmrtl.accelerators.cache.swap_formats import SwapCommand
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import connect
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.traces.player import Answer, Offer, Set, Settle, Surroundings, play


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
@pytest.mark.bench
def test_a_write_into_a_sequence_that_cannot_come_back():
    """The first of two moves brings the first block, the second one fails. A write to the first block, which has come, is refused;
    the sequence stays in its slots, all of it, and comes back at the next try."""
    config = preset("tiny")

    def command(what, sequence, count=0):
        return Offer("i_command", {"command": what, "sequence": sequence, "other": 0, "count": count})

    def write(position):
        return Offer("i_request", {"sequence": 0, "write": 1, "base": 0, "head": 0, "position": position, "count": 1})
    extend, size = SwapCommand.EXTEND, config.block_size
    steps = [Set("record_beats", 3), Set("head_stride", 1 << 14),
             *(command(extend, sequence, size) for _ in range(2) for sequence in (0, 1)),  # no two blocks lie one behind the other
             command(SwapCommand.SWAP_OUT, 0), Settle(999), *(Answer("i_moved", {"error": k}) for k in range(2)),
             command(SwapCommand.SWAP_IN, 0), write(0), Settle(999), command(SwapCommand.SWAP_IN, 0), Settle(999), write(0), Settle(60)]
    events = [event for event in play(emit(SwapController(config), "swap_controller", config), steps, seed=0,
                                      surroundings=Surroundings({"o_move": ("i_moved", 8)})) if event.what == "left"]
    moves = [event.payload for event in events if event.name == "o_move"]
    out, failed, back = moves[:2], moves[2:4], moves[4:]
    assert [move["rows"] for move in moves] == 6 * [size]
    assert [move["source"] for move in back] == [move["source"] for move in failed] == [move["target"] for move in out]
    assert [event.payload["error"] for event in events if event.name == "o_swapped"] == [0, 1, 0]
    assert [event.payload["error"] for event in events if event.name == "o_write"] == [1, 0]


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
