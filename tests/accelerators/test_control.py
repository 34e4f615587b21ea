"""Front end, executor, vector memory and their like, in configurations beyond the presets."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_unit

TINY, EDGE = preset("tiny"), preset("edge")

ONE = replace(TINY, name="one_lane", token_lanes=1, query_lanes=1, max_heads=1, kv_bits=16, vector_memory=2000)
ODD = replace(EDGE, name="odd", vector_lanes=4, token_lanes=3, query_lanes=6, table_rows=2, max_context=300)
ROWS = replace(EDGE, name="all_rows", vector_lanes=4, table_rows=4, token_lanes=2)
WIDE = replace(EDGE, name="wide_bus", vector_lanes=4, bus_bits=512, tables=104, token_lanes=5)
PAIR = replace(TINY, name="two_chunks", chunks=2, token_lanes=3, vector_memory=2040)

CASES = [("vector_memory", ONE), ("vector_memory", ODD), ("vector_memory", ROWS), ("vector_memory", PAIR),
         ("replay_buffer", WIDE), ("head_exponents", ONE), ("head_exponents", ODD), ("front_end", ONE),
         ("front_end", ODD), ("front_end", WIDE), ("executor", ONE), ("executor", ODD)]

LONG = (("vector_memory", ROWS), ("vector_memory", PAIR), ("front_end", ODD), ("front_end", WIDE), ("executor", ODD))
"""With ``make bench``: others in ``CASES`` have what is particular about them."""


@pytest.mark.parametrize(("name", "config"), [
    pytest.param(*case, id=f"{case[0]}-{case[1].name}", marks=pytest.mark.bench if case in LONG else ()) for case in CASES])
def test_beyond_the_presets(name, config):
    emitted = emit_unit(name, config)
    assert lint(emitted) == []
    report = run_unit(UNITS[name], config)
    assert report.ok, str(report)
