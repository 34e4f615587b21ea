"""Rows of K/V in the accelerator, as attention takes them beat by beat at long contexts; shapes of heads that are exempt, and by how
much, as the page says."""

from dataclasses import replace
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import pytest
from llmrtl.accelerators.control.entries import Entry, EntryKind
from llmrtl.accelerators.kv_records import KV_STORAGES, record_beats
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.random_checkpoint import SHAPES
from llmrtl.sim.bench.attention_rate import UTILIZATION, row_interval
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, write_checkpoint
from .tokens import said, steps

ROOT = Path(__file__).parents[1]
MONITOR = r"""
module row_monitor(input wire clock, input wire valid, input wire ready, input wire query);
  integer file, cycle = 0;
  reg [2:0] seen = 0;
  initial file = $fopen("rows.txt");
  always @(posedge clock) begin
    cycle <= cycle + 1;
    seen <= {query, valid, ready};
    if ({query, valid, ready} != seen) $fwrite(file, "%0d %0d\n", cycle, {query, valid, ready});
  end
endmodule
bind \NAME.core.attention  row_monitor monitor(.clock(attention_clk), .valid(i_rows__valid), .ready(i_rows__ready),
                                               .query(i_query__valid & i_query__ready));
"""
"""Tells when attention takes beats of rows and words of queries: a line with cycle and handshakes whenever one changes."""

READY, TAKEN, QUERY = 1, 3, 4


def operations(path, sizes, queries):
    """(beats, cycles from the first to the last one, of them without an offer, beats and cycles since the first head's queries are
    there) of the last operations, which have ``sizes`` beats and as many words of ``queries``, (of the first head, of all)."""
    changes = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    spans = [(cycle, end, state) for (cycle, state), (end, _) in pairwise(changes)]  # the last change is to no beat
    beats = [cycle for begin, end, state in spans if state & TAKEN == TAKEN for cycle in range(begin, end)][-sum(sizes):]
    words = [cycle for begin, end, state in spans if state & QUERY for cycle in range(begin, end)][-sum(every for _, every in queries):]
    assert len(beats) == sum(sizes) and len(words) == sum(every for _, every in queries)
    for size, (head, every) in zip(sizes, queries, strict=True):
        first, last = beats[0], beats[size - 1]
        starved = sum(max(0, min(end, last) - max(begin, first)) for begin, end, state in spans if state & TAKEN == READY)
        asked = max(first, words[head - 1])
        yield size, last - first + 1, starved, sum(cycle >= asked for cycle in beats[:size]), last - asked + 1
        del beats[:size], words[:every]


def monitored(config):
    emitted = emitted_accelerator(config)
    return build_driver(replace(emitted, verilog=emitted.verilog + MONITOR.replace("NAME", emitted.name)))


def check(image, name, rows, tokens=None, short=False):
    """Every attention over ``rows`` (of each token that is decoded, or of all tiles of a chunk of ``tokens``, one to a tile), of all
    heads of a layer: beats in at least 95 % of the cycles from its first beat to its last one, and in all of those in which it could
    take one. ``short``: rows of few heads, next to which the wait for the first head's queries is long, are counted behind it; as
    they fill the port, it may bring a word of the program every 500 cycles instead of one of them."""
    model = image.model
    sizes = [count * image.kv_record_beats * model.kv_heads for count in rows for _ in range(model.layers)]
    words = model.group * model.head_dim // image.config.vector_lanes
    queries = [(words, count * model.kv_heads * words) for count in tokens or [1] * len(rows) for _ in range(model.layers)]
    found = list(operations(Path("rows.txt"), sizes, queries))
    for beats, cycles, starved, behind, asked in found:
        print(f"{name}: {beats} beats in {cycles} cycles ({beats / cycles:.2%}), {starved} cycles without an offer; "
              f"{behind / asked:.2%} since the queries are there")
    assert len(found) == len(sizes) and min(rows) >= 256
    for beats, cycles, starved, behind, asked in found:
        if short:
            assert behind >= UTILIZATION * asked and starved <= beats // 500
        else:
            assert beats >= UTILIZATION * cycles and not starved


@pytest.mark.bench
@pytest.mark.parametrize("storage", KV_STORAGES)
def test_contiguous(tmp_path, monkeypatch, storage):
    """The shipped model at a context of 300; records of half as many beats."""
    config = replace(preset("edge"), name=f"edge_{storage}", kv_storage=storage)
    program = monitored(config)  # before the folder changes: it is kept
    monkeypatch.chdir(tmp_path)
    image = compile_model(Checkpoint.open(ROOT / "models/stories"), config, fraction_bits=20)
    image.save(tmp_path / "image")
    machine = Machine(image)
    machine.fill_cache(300)
    records = tmp_path / "cache.bin"
    run = simulate(program, image, tmp_path / "image.bin", [1], 2, start_position=300,
                   preload=[(machine.write_cache(records), records)])
    assert run.error is None and said(run) == [(step.token, step.value) for step in machine.generate([1], 2)]
    check(image, config.name, [301, 302])


@pytest.mark.bench
@pytest.mark.parametrize(("row_cycles", "kv_heads", "head_dim"), [(0, 5, 128), (0, 2, 128), (2, 5, 64), (2, 5, 32), (2, 2, 16)])
@pytest.mark.parametrize(("filled", "prompt"), [(256, 13), (2040, 1)], ids=["256", "2040"])
def test_wide_port(tmp_path, monkeypatch, filled, prompt, row_cycles, kv_heads, head_dim):
    """Layers with the attention of the 2B model on preset kv260, or with two of its five K/V heads: a chunk of a prompt, a tile per
    token, or a decoded token; then another one. With short rows also for smaller heads, with records of 2 and 3 beats."""
    config = preset("kv260")
    if row_cycles:
        config = replace(config, name="kv260_short", row_cycles=row_cycles)
    program = monitored(config)  # before the folder changes: it is kept
    monkeypatch.chdir(tmp_path)
    shape = replace(SHAPES["bitnet-2b-4t"], layers=2, intermediate_size=256, vocab_size=50, max_context=2048, bos=48, eos=49)
    assert (shape.group, shape.head_dim) == (config.query_lanes, config.max_head_dim)
    heads = kv_heads * shape.group
    shape = replace(shape, head_dim=head_dim, hidden_size=heads * head_dim, heads=heads, kv_heads=kv_heads)
    write_checkpoint(tmp_path / "model", shape, seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "model"), config, fraction_bits=20)
    image.save(tmp_path / "image")
    machine, tokens = Machine(image), [(5 * k + 1) % 48 for k in range(prompt)]
    machine.fill_cache(filled)
    records = tmp_path / "cache.bin"
    run = simulate(program, image, tmp_path / "image.bin", tokens, 2, start_position=filled,
                   preload=[(machine.write_cache(records), records)])
    assert run.error is None and said(run) == [(step.token, step.value) for step in machine.generate(tokens, 2)]
    check(image, config.name, [sum(filled + k for k in range(1, prompt + 1)), filled + prompt + 1], [prompt, 1], bool(row_cycles))


@pytest.mark.bench
def test_window(tmp_path, monkeypatch):
    """Sinks and a ring of 300 positions, which has gone around: three runs of rows per head."""
    config = preset("tiny_modes")
    program = monitored(config)  # before the folder changes: it is kept
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model", replace(SMALL_BITNET, hidden_size=64, head_dim=16), seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "model"), config, fraction_bits=20, window=(4, 300), context=400)
    image.save(tmp_path / "image")
    prompt = [(7 * k + 3) % 48 for k in range(330)]
    run = simulate(program, image, tmp_path / "image.bin", prompt, 4)
    assert run.error is None and said(run) == steps(image, prompt, 4)
    check(image, "tiny_modes", [304] * 3)


@pytest.mark.bench
@pytest.mark.parametrize(("head_dim", "row_cycles"), [(16, 0), (32, 0), (64, 0), (8, 3), (4, 3)])
def test_paged(tmp_path, monkeypatch, head_dim, row_cycles):
    """Two sequences that grow side by side, so that no two blocks of either lie one behind the other: a run of 16 rows for each block.
    A step in which both decode, then one of the second alone."""
    config = replace(preset("tiny_paged"), name="long_paged", sequences=3, max_context=512, row_cycles=row_cycles)
    program = monitored(config)
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model", replace(SMALL_BITNET, hidden_size=4 * head_dim, head_dim=head_dim, max_context=512), seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "model"), config, fraction_bits=20)
    image.save(tmp_path / "image")
    filled, texts = 272, [[(step * k + 3) % 48 for k in range(274)] for step in (7, 5)]

    def entry(sequence, begin, end, sample):
        return [Entry(EntryKind.TOKENS, sequence, end - begin, sample=sample).encode(), *texts[sequence][begin:end]]
    with Session(program, image, tmp_path / "image.bin") as session:
        for begin in range(0, filled, 2):
            session.step([word for sequence in range(2) for word in entry(sequence, begin, begin + 2, False)])
        found = said(session.step([word for sequence in range(2) for word in entry(sequence, filled, filled + 1, True)]))
        found += said(session.step(entry(1, filled + 1, filled + 2, True)))
    assert found == [steps(image, texts[0][:273], 1)[0], steps(image, texts[1][:273], 1)[0], steps(image, texts[1], 1)[0]]
    check(image, f"long_paged, head_dim {head_dim}", [273 * 2, 274], [2, 1])


def ranges(values, unit=""):
    least, most = min(values), max(values)
    return f"{least}{unit}" if least == most else f"{least} to {most}{unit}"


def exempt(presets=PRESETS.values()):
    """Lines of the table: shapes whose rows take more cycles than their beats by more than 5 %."""
    kinds = {}
    for config in presets:
        if config.cache != "evict":
            key = config.bus_bits, config.stored_kv_bits, config.vector_lanes, config.query_lanes, config.max_head_dim
            kinds.setdefault(key, []).append(config)
    for configs in kinds.values():
        config, shapes = configs[0], []
        for head_dim in range(config.vector_lanes, config.max_head_dim + 1, config.vector_lanes):
            record = record_beats(head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
            for lanes in range(1, config.query_lanes + 1):
                if record < UTILIZATION * (row := row_interval(config, head_dim, lanes)):
                    shapes.append((head_dim, lanes, record, row))
        for _, group in groupby(sorted(shapes, key=itemgetter(2, 3)), key=itemgetter(2, 3)):
            dims, lanes, beats, rows = zip(*group, strict=True)
            share = [round(100 * a / b) for a, b in zip(beats, rows, strict=True)]
            names = ", ".join(f"`{each.name}`" for each in configs)
            yield f"| {names} | {ranges(dims)} | {ranges(lanes)} | {ranges(beats)} | {ranges(rows)} | {ranges(share)} % |"


def test_exempt_shapes_are_listed():
    lines = (ROOT / "docs/attention.md").read_text().splitlines()
    begin = lines.index("| presets | head_dim | lanes | beats of a row | cycles | beats per cycle |")
    listed = lines[begin + 2:lines.index("", begin)]
    print("\n".join(exempt()))
    assert listed == list(exempt())


def test_no_shape_is_exempt_with_short_rows():
    assert not list(exempt([replace(config, row_cycles=2) for config in PRESETS.values() if config.cache != "evict"]))
    assert not list(exempt([replace(preset(name), row_cycles=3) for name in ("edge", "tiny_paged", "tiny_swap")]))
