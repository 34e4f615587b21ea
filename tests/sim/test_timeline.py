"""The timeline of a run, against the program that was executed and the accelerator's own counters. An accelerator of its own is built
for it: with `make bench`."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from llmrtl.accelerators.control.isa import Opcode, decode_program
from llmrtl.accelerators.control.regmap import UNIT_NAMES
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.generate import compiled_image
from llmrtl.sim.native.timeline import MEMORY, Timeline

from ..checkpoints import SMALL_BITNET, write_checkpoint

CLOCK_MHZ, TOKENS = 100, 3
EVENTS_LATE = 2  # registers between the operation under way and the events of the units (``Core``)
UNITS = {  # at work on an operation; keys and queries are quantized by the unit that normalizes
    Opcode.EMBED: {"embedding"}, Opcode.NORM: {"norm_quantize"}, Opcode.LINEAR: {"engine"}, Opcode.ROPE: {"rope"},
    Opcode.APPEND: {"norm_quantize", "cache"}, Opcode.ATTEND: {"norm_quantize", "attention"}, Opcode.RESIDUAL: {"residual"},
    Opcode.GLU: {"glu"}, Opcode.HEAD: {"head", "sampler"}, Opcode.END: set()}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Image, summary, trace and picture of a run with a prompt of one token: every token is a pass through the program."""
    folder = tmp_path_factory.mktemp("timeline")
    write_checkpoint(folder / "small", replace(SMALL_BITNET, max_context=24), seed=3)
    assert main(["run", "--checkpoint", str(folder / "small"), "--preset", "tiny", "--prompt-ids", "1", "--tokens", str(TOKENS),
                 "--ignore-eos", "--clock-mhz", str(CLOCK_MHZ), "--json", str(folder / "summary.json"),
                 "--trace", str(folder / "trace.json")]) == 0
    assert not (folder / "trace.csv").exists()
    image, _ = compiled_image(Checkpoint.open(folder / "small"), preset("tiny"))
    return (image, json.loads((folder / "summary.json").read_text()), json.loads((folder / "trace.json").read_text()),
            (folder / "trace.png").read_bytes())


@pytest.fixture(scope="module")
def slices(traced):
    """(operation, first cycle, cycle behind the last one) of each unit, in the order of the trace."""
    events = traced[2]["traceEvents"]
    threads = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert list(threads.values()) == list(UNIT_NAMES)
    found = {unit: [] for unit in UNIT_NAMES}
    for event in events:
        if event["ph"] == "X":
            begin = round(event["ts"] * CLOCK_MHZ)
            assert event["ts"] * CLOCK_MHZ == pytest.approx(begin) and event["cat"] == threads[event["tid"]]
            assert event["dur"] * CLOCK_MHZ == pytest.approx(event["args"]["cycles"])
            found[event["cat"]].append((event["name"], begin, begin + event["args"]["cycles"]))
    return found


@pytest.mark.bench
@pytest.mark.parametrize("unit", UNIT_NAMES)
def test_every_operation_in_every_token(traced, slices, unit):
    """A unit works on its operations of the program, in that order, once per token; the first token is out before the next."""
    image, summary, _, _ = traced
    program = decode_program(image.data[image.program_address:].tobytes())
    own = [image.operations[op.tag] for op in program if unit in UNITS[op.opcode]]
    assert own and [name for name, _, _ in slices[unit]] == own * TOKENS
    behind = summary["cycles_prefill"] + 1 + EVENTS_LATE
    assert slices[unit][len(own) - 1][2] <= behind and slices[unit][len(own)][1] > summary["cycles_prefill"]


@pytest.mark.bench
@pytest.mark.parametrize("unit", UNIT_NAMES)
def test_busy_cycles_are_those_that_the_accelerator_counted(traced, slices, unit):
    summary = traced[1]
    assert sum(end - begin for _, begin, end in slices[unit]) == summary["units"][unit]["busy"]
    assert all(0 <= begin < end <= summary["cycles_total"] for _, begin, end in slices[unit])
    assert all(end <= begin for (_, _, end), (_, begin, _) in pairwise(slices[unit]))


@pytest.mark.bench
def test_memory_port(traced):
    """The samples tell the beats that were read, but for those behind the last one."""
    _, summary, trace, _ = traced
    samples = [(event["ts"] * CLOCK_MHZ, event["args"]["data beats per cycle"])
               for event in trace["traceEvents"] if event["name"] == MEMORY]
    beats, before = 0.0, 0.0
    for cycle, share in samples:
        assert 0 <= share <= 1 and before < cycle
        beats, before = beats + share * (cycle - before), cycle
    rounding = 0.5e-4 * before
    read, unseen = summary["registers"]["READ_BEATS"], max(0, summary["cycles_total"] - before)
    assert len(samples) > TOKENS and read - unseen - rounding <= beats <= read + rounding


@pytest.mark.bench
def test_picture(traced):
    assert traced[3].startswith(b"\x89PNG\r\n\x1a\n") and traced[3].endswith(b"IEND\xaeB`\x82")


def test_a_unit_that_is_busy_at_the_end(tmp_path):
    """Two operations back to back are two slices; what is under way at the last line ends there."""
    (tmp_path / "run.csv").write_text("cycle,busy,tag,linear_tag,read_beats,write_beats\n"
                                      "0,0,0,0,0,0\n5,2,0,1,3,0\n9,2,1,1,4,0\n12,3,1,1,4,0\n2000,3,1,1,1004,0\n")
    timeline = Timeline(tmp_path / "run.csv", ["first", "second"])
    assert [(each.unit, each.operation, each.start, each.end) for each in timeline.slices] == [
        ("norm_quantize", "first", 5, 9), ("norm_quantize", "second", 9, 2000), ("engine", "second", 12, 2000)]
    assert timeline.beats == [(2000, 1004 / 2000)]
