"""Trit-group code, packing, odd configurations of the ternary engine and its model of cycles."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from llmrtl.accelerators.config import AcceleratorConfig
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.ternary.code import decode, encode, entries, steps
from llmrtl.accelerators.ternary.timing import TernaryTiming
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_unit
from llmrtl.sim.golden import ternary

GROUP_SIZES = range(1, 6)
_SMALL = {"query_lanes": 4, "max_vector": 240, "max_block_rows": 64, "vector_memory": 512, "max_head_dim": 64,
          "max_context": 128, "max_vocab": 1024}
ODD = [AcceleratorConfig(name=name, **{**_SMALL, **parameters}) for name, parameters in {
    "g1": {"bus_bits": 32, "vector_lanes": 2, "token_lanes": 3, "tables": 8, "table_rows": 2, "group_size": 1},
    "g2": {"bus_bits": 64, "vector_lanes": 4, "token_lanes": 3, "tables": 6, "table_rows": 4, "group_size": 2},
    "g3": {"bus_bits": 64, "vector_lanes": 2, "token_lanes": 2, "tables": 14, "table_rows": 1, "group_size": 3},
    "g4": {"bus_bits": 64, "vector_lanes": 4, "token_lanes": 1, "tables": 5, "table_rows": 2, "group_size": 4},
    "g4_odd": {"bus_bits": 128, "vector_lanes": 4, "token_lanes": 2, "tables": 21, "table_rows": 1, "group_size": 4,
               "max_block_rows": 8},
    "g5": {"bus_bits": 32, "vector_lanes": 2, "token_lanes": 1, "tables": 4, "table_rows": 1, "group_size": 5},
    # A tile of 21 activations ends inside a word; vectors are sent ahead.
    "ahead": {"bus_bits": 64, "vector_lanes": 4, "token_lanes": 3, "tables": 7, "table_rows": 2, "chunks": 2},
    # Lanes share memories of activations; the last word of a tile has no activation to spare.
    "shared": {"bus_bits": 64, "vector_lanes": 4, "token_lanes": 3, "tables": 10, "table_rows": 2, "chunks": 2, "buffer_tokens": 2},
    "shared_4": {"bus_bits": 64, "vector_lanes": 4, "token_lanes": 5, "tables": 8, "table_rows": 2, "buffer_tokens": 4},
    "wide": {"bus_bits": 512, "vector_lanes": 16, "token_lanes": 1, "tables": 32, "table_rows": 4},
}.items()]


@pytest.mark.parametrize("size", GROUP_SIZES)
def test_entries_are_the_positive_half_and_each_is_one_step_from_the_one_before(size):
    order = entries(size)
    assert len(set(order)) == len(order) == (3 ** size + 1) // 2
    assert order[0] == (0,) * size
    assert all(next(trit for trit in group if trit) == 1 for group in order[1:])
    total = np.zeros(size, dtype=int)
    for group, (element, sign) in zip(order[1:], steps(size), strict=True):
        total[element] += sign
        assert tuple(total) == group


@pytest.mark.parametrize("size", GROUP_SIZES)
def test_code_words(size):
    groups = np.array(list(product((-1, 0, 1), repeat=size)))
    indices = encode(groups)
    assert indices.dtype == np.uint8 and len(set(indices.tolist())) == 3 ** size
    assert (decode(indices, size) == groups).all()
    sign = 1 << (len(entries(size)) - 1).bit_length()
    assert int(indices.max()) == sign + len(entries(size)) - 1 and sign not in indices
    for group, index in zip(groups, indices.tolist(), strict=True):
        assert (np.array(entries(size)[index & (sign - 1)]) * (-1 if index & sign else 1) == group).all()


def test_documented_order():
    assert entries(2) == ((0, 0), (0, 1), (1, 1), (1, 0), (1, -1))


def test_code_refuses():
    with pytest.raises(ValueError, match=r"trits must be -1, 0 or \+1, not 2"):
        encode(np.array([[0, 2, 1]]))
    with pytest.raises(TypeError, match="trits must be an array of integers, not of float64"):
        encode(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"group_size must be in 1\.\.5, not 6"):
        encode(np.zeros((2, 6), dtype=int))
    for index in (14, 16, 31, 32, -1):  # no entry, negative zero, no entry, too long, negative
        with pytest.raises(ValueError, match=f"{index} is no index of a group of 3 trits"):
            decode(np.array([0, index]), 3)


@pytest.mark.parametrize("config", ODD, ids=lambda config: config.name)
@pytest.mark.parametrize("shape", [(1, 1), (5, 239), (64, 40), (150, 240)])
def test_pack(config, shape):
    trits = np.random.default_rng(1).integers(-1, 2, shape)
    image = ternary.pack(trits, config)
    assert image.dtype == np.uint8 and image.size == ternary.bus_beats(*shape, config) * config.bus_bytes
    assert (ternary.unpack(image, *shape, config) == trits).all()
    words = ternary.lane_words(trits, config)
    assert len(words) == ternary.words(*shape, config)
    bits = int.from_bytes(image.tobytes(), "little")
    assert bits == sum(word << position * config.lane_bits for position, word in enumerate(words))


def test_memory_order():
    """Block, tile, row group, row, table: each element put where the contract says."""
    config = replace(ODD[1], max_block_rows=32)  # blocks of 8 row groups of 4 rows
    rows, columns = 45, 29
    trits = np.random.default_rng(2).integers(-1, 2, (rows, columns))
    indices = []
    for block in range(0, 48, 32):
        for tile in range(0, 36, 12):
            for group in range(block, min(block + 32, 48), 4):
                for row in range(group, group + 4):
                    for column in range(tile, tile + 12, 2):
                        pair = [int(trits[row, c]) if row < rows and c < columns else 0 for c in (column, column + 1)]
                        indices.append(int(encode(np.array(pair))))
    bits = sum(index << position * config.index_bits for position, index in enumerate(indices))
    assert int.from_bytes(ternary.pack(trits, config).tobytes(), "little") == bits
    assert (ternary.tiles(columns, config), ternary.row_groups(rows, config)) == (3, 12)


def test_pack_refuses():
    config = preset("tiny")
    with pytest.raises(ValueError, match="columns must be at most max_vector = 528, not 529"):
        ternary.pack(np.zeros((1, 529), dtype=int), config)
    with pytest.raises(ValueError, match=r"trits must be \[rows, columns\], not of shape \(3,\)"):
        ternary.pack(np.zeros(3, dtype=int), config)
    with pytest.raises(ValueError, match=r"trits must be -1, 0 or \+1, not -2"):
        ternary.pack(np.full((1, 3), -2), config)
    with pytest.raises(ValueError, match="the image of 2 x 24 trits must have 12 bytes, not 8"):
        ternary.unpack(np.zeros(8, dtype=np.uint8), 2, 24, config)
    with pytest.raises(ValueError, match="31 is no index of a group of 3 trits"):
        ternary.unpack(np.full(12, 255, dtype=np.uint8), 2, 24, config)


def test_matvec():
    rng = np.random.default_rng(3)
    trits, q = rng.integers(-1, 2, (5000, 70)), rng.integers(-127, 128, (3, 72))
    want = [[sum(int(w) * int(x) for w, x in zip(row, token, strict=False)) for row in trits[:7]] for token in q]
    sums = ternary.matvec(trits, q)
    assert sums.dtype == np.int64 and sums[:, :7].tolist() == want
    assert (ternary.matvec(trits, q[1]) == sums[1]).all()
    with pytest.raises(ValueError, match=r"with 70 columns, not of shape \(69,\)"):
        ternary.matvec(trits, q[0, :69])


def test_cycles_of_a_matrix():
    timing = TernaryTiming(preset("edge"))
    assert (timing.builders, timing.slices, timing.build, timing.latency) == (4, 4, 56, 12)
    assert timing.matrix(row_groups=256, tiles=4, block_row_groups=1024) == 4 * 256
    assert timing.matrix(row_groups=10, tiles=4, block_row_groups=8) == 7 * 56 + 2


@pytest.mark.parametrize("config", [
    pytest.param(config, id=config.name, marks=() if config.name in ("g1", "g4_odd", "shared", "ahead") else pytest.mark.bench)
    for config in ODD])
def test_odd_configurations(config):
    report = run_unit(UNITS["ternary_engine"], config)
    assert report.ok, str(report)


@pytest.mark.bench
@pytest.mark.parametrize("unit", ["ternary_feeder", "ternary_table", "ternary_lanes", "ternary_accumulators"])
@pytest.mark.parametrize("config", [config for config in ODD if config.name in ("g1", "g4", "ahead", "shared", "shared_4")],
                         ids=lambda config: config.name)
def test_parts_of_odd_configurations(unit, config):
    report = run_unit(UNITS[unit], config)
    assert report.ok, str(report)


@pytest.mark.bench
@pytest.mark.parametrize("unit", ["ternary_feeder", "ternary_table", "ternary_lanes", "ternary_accumulators", "ternary_engine"])
def test_kv260(unit):
    """Here and not among the presets of the registry, which would also be run in Icarus: that takes too long."""
    config = preset("kv260")
    assert lint(emit_unit(UNITS[unit], config)) == []
    report = run_unit(UNITS[unit], config)
    assert report.ok, str(report)
