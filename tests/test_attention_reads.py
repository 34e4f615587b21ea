"""K/V rows that the accelerator reads, counted in the bursts on its memory port: those that a tile of tokens sees, and hardly any
more, whatever keeps the rows, wherever a chunk of a prompt begins."""

import csv
from collections import Counter
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.isa import Opcode, decode_program
from llmrtl.accelerators.presets import preset, with_cache
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate

from .checkpoints import SMALL_BITNET, write_checkpoint
from .tokens import said, steps

TINY = preset("tiny")
FOUR = replace(TINY, name="four", token_lanes=4, chunks=2, query_lanes=8, bus_bits=64, vector_lanes=4, tables=16)
"""Tiles of four tokens, two chunks in flight."""

BENCH = pytest.mark.bench
CASES = [(TINY, None), (preset("tiny_window"), (4, 8)),
         *(pytest.param(preset("tiny_window"), window, marks=BENCH) for window in ((0, 5), (1, 1), (2, 13))),
         pytest.param(FOUR, None, marks=BENCH),
         *(pytest.param(with_cache(FOUR, "window"), window, marks=BENCH) for window in ((4, 8), (0, 5), (3, 20)))]
MOST = 1.05
FIRST, SECOND, TOKENS = 17, 24, 6
"""Two prompts one after the other, then tokens: the second begins in the middle of a chunk of the text."""


def visible(position, window):
    """Positions that a token sees."""
    if window is None:
        return {*range(position + 1)}
    sinks, recent = window
    return {*range(min(sinks, position + 1)), *range(max(0, position + 1 - recent), position + 1)}


def tiles(begin, length, decoded, config, group):
    """Positions of the tokens that share their rows: pieces of the chunks of a prompt, then one token after another."""
    end, tile = begin + length, config.query_lanes // group
    for chunk in range(begin, end, config.token_lanes):
        for first in range(chunk, last := min(chunk + config.token_lanes, end), tile):
            yield range(first, min(first + tile, last))
    for position in range(end, end + decoded):
        yield range(position, position + 1)


def rows_read(image, path):
    """Rows of each (layer, head) in the bursts of a run, of which every one from the cache lies in one of them."""
    attends = [op for op in decode_program(image.data[image.program_address:].tobytes()) if op.opcode is Opcode.ATTEND]
    row, counts = image.kv_record_beats * image.config.bus_bytes, Counter()
    with open(path, newline="") as file:
        for burst in csv.DictReader(file):
            address, size = int(burst["address"]), int(burst["bytes"])
            if address < image.kv_address:
                assert address + size <= image.kv_address
                continue
            layer = max(k for k, op in enumerate(attends) if op.address <= address)
            head, offset = divmod(address - attends[layer].address, image.kv_head_stride)
            assert head < attends[layer].count and offset + size <= image.kv_capacity * row
            counts[layer, head] += size
    assert all(size % row == 0 for size in counts.values())
    return {where: size // row for where, size in counts.items()}


@pytest.mark.parametrize(("config", "window"), CASES, ids=lambda each: getattr(each, "name", str(each)))
def test_rows_read(tmp_path, config, window):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "model"), config, fraction_bits=20, window=window, context=64)
    image.save(tmp_path / "image")
    program, file, cache = build_driver(emitted_accelerator(config)), tmp_path / "image.bin", tmp_path / "cache.bin"
    prompt, group = [(7 * k + 3) % 48 for k in range(FIRST + SECOND)], SMALL_BITNET.heads // SMALL_BITNET.kv_heads
    simulate(program, image, file, prompt[:FIRST], 1, dump=[(image.kv_address, cache)], read_trace=tmp_path / "first.csv")
    run = simulate(program, image, file, prompt[FIRST:], TOKENS, start_position=FIRST, preload=[(image.kv_address, cache)],
                   read_trace=tmp_path / "second.csv")
    assert run.error is None and said(run) == steps(image, prompt, TOKENS)
    for name, *cut in (("first", 0, FIRST, 0), ("second", FIRST, SECOND, TOKENS - 1)):
        seen = sum(len(set().union(*(visible(position, window) for position in tile))) for tile in tiles(*cut, config, group))
        read = rows_read(image, tmp_path / f"{name}.csv")
        print(f"{config.name}, {window}, {name} prompt: {seen} rows seen, {read} read")
        assert len(read) == SMALL_BITNET.layers * SMALL_BITNET.kv_heads
        assert all(seen <= rows <= MOST * seen for rows in read.values())
