"""K/V caches of random records: many records at once, and the same ones in the golden model and in memory."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.isa import Opcode, decode_program
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.sim.golden.cache import pack_record, pack_records, stored, stored_scale, unpack_record
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.golden.numerics import Scalar

from ..checkpoints import SMALL_BITNET, write_checkpoint

TINY = preset("tiny")


@pytest.fixture(scope="module", params=[(8, 32), (16, 32), (8, 128), (4, 128)],
                ids=["8 bits", "16 bits", "header in K's tail", "4 bits"])
def image(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    write_checkpoint(folder, SMALL_BITNET, seed=3)
    kv_bits, bus_bits = request.param
    formats = {"kv_storage": "int4"} if kv_bits == 4 else {"kv_bits": kv_bits}
    config = replace(TINY, bus_bits=bus_bits, tables=64, **formats)
    return compile_model(Checkpoint.open(folder), config, fraction_bits=20, context=12)


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 512])
@pytest.mark.parametrize("kv_bits", [4, 8, 16])
@pytest.mark.parametrize("head_dim", [2, 20, 64, 96])
def test_many_records_are_the_records(head_dim, kv_bits, bus_bits):
    rng = np.random.default_rng(head_dim)
    half, count = 1 << kv_bits - 1, 9
    keys, values = rng.integers(-half, half, (2, count, head_dim))
    keys[0], values[0] = -half, half - 1
    scales = [[Scalar(int(rng.integers(1 << 23, 1 << 24)), int(rng.integers(-60, 60))) for _ in range(count)] for _ in range(2)]
    scales[0][1] = scales[1][2] = Scalar(0, 0)
    stored = [np.array([stored_scale(scale) for scale in each]) for each in scales]
    packed = pack_records(keys, values, *stored, kv_bits=kv_bits, bus_bits=bus_bits)
    for n in range(count):
        beats = pack_record(keys[n], values[n], scales[0][n], scales[1][n], kv_bits=kv_bits, bus_bits=bus_bits)
        assert packed[n].tobytes() == b"".join(beat.to_bytes(bus_bits // 8, "little") for beat in beats)
    with pytest.raises(ValueError, match=f"elements must fit {kv_bits} bits"):
        pack_records(keys, values + 1, *stored, kv_bits=kv_bits, bus_bits=bus_bits)


def records_in(image, file, base, positions):
    """(layer, head, position, record) of a cache file, read as the hardware addresses it."""
    raw, config = file.read_bytes(), image.config
    size = image.kv_record_beats * config.bus_bytes
    appends = [op for op in decode_program(image.data[image.program_address:].tobytes()) if op.opcode is Opcode.APPEND]
    for layer, op in enumerate(appends):
        for head in range(op.count):
            for position in range(positions):
                start = op.address + head * image.kv_head_stride + position * size - base
                beats = [int.from_bytes(raw[start + at:start + at + config.bus_bytes], "little")
                         for at in range(0, size, config.bus_bytes)]
                yield layer, head, position, unpack_record(beats, SMALL_BITNET.head_dim, kv_bits=config.stored_kv_bits,
                                                           bus_bits=config.bus_bits)


def test_file_holds_what_was_appended(image, tmp_path):
    """Not filled but computed: the trace of every APPEND is in the file."""
    appended = {}
    tags = {op.tag: layer for layer, op in enumerate(
        op for op in decode_program(image.data[image.program_address:].tobytes()) if op.opcode is Opcode.APPEND)}

    def trace(tag, position, values):
        if tag in tags:
            appended.setdefault((tags[tag], position), []).append(values)
    machine = Machine(image, trace=trace)
    machine.chunk([1, 2, 3])
    base = machine.write_cache(tmp_path / "cache.bin")
    seen = 0
    for layer, head, position, (key, value, *_) in records_in(image, tmp_path / "cache.bin", base, 3):
        assert np.array_equal(np.concatenate([key, value]), stored(appended[layer, position][head], image.config))
        seen += 1
    assert seen == 3 * SMALL_BITNET.layers * SMALL_BITNET.kv_heads


def test_filled_cache(image, tmp_path):
    machine = Machine(image)
    machine.fill_cache(7, seed=2)
    assert machine.position == 7
    base = machine.write_cache(tmp_path / "cache.bin")
    size = (tmp_path / "cache.bin").stat().st_size
    assert image.prompt_address < base and base + size <= image.memory_bytes
    largest = (1 << image.config.stored_kv_bits - 1) - 1
    vectors = set()
    for _, _, _, (key, value, key_scale, value_scale) in records_in(image, tmp_path / "cache.bin", base, 7):
        for elements, (mantissa, exponent) in ((key, key_scale), (value, value_scale)):
            assert np.abs(elements).max() == largest and 1 << 15 <= mantissa < 1 << 16
            assert 2.0 ** -8 < largest * mantissa * 2.0 ** exponent < 2.0 ** 8
            vectors.add(elements.tobytes())
    assert len(vectors) == 2 * 7 * SMALL_BITNET.layers * SMALL_BITNET.kv_heads


def test_what_follows_depends_on_seed_and_length_alone(image):
    def logits(positions, seed, before=()):
        machine = Machine(image)
        machine.fill_cache(positions, seed)
        for token in before:
            machine.chunk([token])
        return machine.chunk([5])[-1].tolist()
    assert logits(7, 2) == logits(7, 2)
    assert len({tuple(logits(*arguments)) for arguments in ((7, 2), (7, 3), (6, 2))}) == 3
    assert logits(7, 2, [4]) != logits(7, 2, [3])


def test_refusals(image, tmp_path):
    machine = Machine(image)
    with pytest.raises(ValueError, match="the cache is empty"):
        machine.write_cache(tmp_path / "cache.bin")
    for positions in (0, 12):
        with pytest.raises(ValueError, match=rf"positions to fill must be in 1\.\.11, not {positions}"):
            machine.fill_cache(positions)
    machine.fill_cache(11)
    assert len(list(machine.generate([1], 1))) == 1
    with pytest.raises(OverflowError):
        machine.chunk([1])
    with pytest.raises(ValueError, match="must be empty to be filled, it holds 12 positions"):
        machine.fill_cache(3)
