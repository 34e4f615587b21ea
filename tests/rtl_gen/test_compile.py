"""Compiler and image: contents, limits, damaged files."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
from llmrtl.accelerators.control.isa import SCALARS, Opcode, decode_program
from llmrtl.accelerators.model_shape import ModelShape
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import CompileError, compile_model, fraction_bits_for, plan
from llmrtl.rtl_gen.image import Image, ImageError, MemoryMap
from llmrtl.rtl_gen.tensors import embedding_table
from llmrtl.sim.golden import ternary

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint

TINY = preset("tiny")


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=5)
    return Checkpoint.open(tmp_path / "model")


@pytest.fixture
def image(checkpoint):
    return compile_model(checkpoint, TINY, fraction_bits=20)


def test_sections_tile_the_image(image):
    end = 0
    for section in image.sections:
        assert section.address == end and section.address % TINY.bus_bytes == 0
        end += section.bytes
    assert end == image.data.size == image.prompt_address


def test_weights_come_back(checkpoint, image):
    sections = {section.name: section for section in image.sections}
    section = sections["layers.0.qkv"]
    trits = np.concatenate([checkpoint.projection(0, which).trits for which in "qkv"])
    raw = image.data[section.address:section.address + section.bytes]
    assert np.array_equal(ternary.unpack(raw, *trits.shape, TINY), trits)


def test_program(image):
    program = list(decode_program(image.data[image.program_address:].tobytes()))
    assert [op.opcode for op in program[:3]] == [Opcode.EMBED, Opcode.NORM, Opcode.LINEAR]
    assert len(program) == 4 + 14 * SMALL_BITNET.layers
    assert [op.tag for op in program] == list(range(len(image.operations)))
    caches = [op.address for op in program if op.opcode is Opcode.ATTEND]
    stride = SMALL_BITNET.kv_heads * image.kv_head_stride
    assert caches == [caches[0] + layer * stride for layer in range(SMALL_BITNET.layers)]
    assert caches[-1] + stride == image.memory_bytes
    assert caches[0] >= image.prompt_address + TINY.bus_bytes * image.kv_capacity


def test_same_input_same_bytes(checkpoint, image):
    assert np.array_equal(compile_model(checkpoint, TINY, fraction_bits=20).data, image.data)


@pytest.mark.parametrize("change, message", [
    ({"max_context": 64}, None),
    ({"head_dim": 30, "heads": 2, "kv_heads": 2, "sub_norms": False}, None),
    ({"head_dim": 66, "heads": 2, "kv_heads": 2, "sub_norms": False},
     "head_dim 66, 68 with both halves in whole words, exceeds max_head_dim 64"),
    ({"vocab_size": 2000}, "vocab_size 2000 exceeds max_vocab 1024"),
    ({"intermediate_size": 600}, "intermediate_size 600 exceeds max_vector 528"),
])
def test_model_that_does_not_fit(tmp_path, change, message):
    shape = replace(SMALL_BITNET, **change)
    write_checkpoint(tmp_path / "model", shape, seed=1)
    checkpoint = Checkpoint.open(tmp_path / "model")
    if message is None:
        compile_model(checkpoint, TINY, fraction_bits=20)
    else:
        with pytest.raises(CompileError, match=f"preset 'tiny' cannot run this model: {message}"):
            compile_model(checkpoint, TINY, fraction_bits=20)


def test_bad_arguments(checkpoint):
    with pytest.raises(CompileError, match=r"fraction_bits must be in 0\.\.24, not 25"):
        compile_model(checkpoint, TINY, fraction_bits=25)
    with pytest.raises(CompileError, match=r"context must be in 1\.\.\d+, not 0"):
        compile_model(checkpoint, TINY, fraction_bits=20, context=0)


@pytest.mark.parametrize("peak, bits", [(0.0, 24), (1.0, 24), (15.0, 24), (16.0, 23), (1e4, 14), (1e12, 0)])
def test_fraction_bits(peak, bits):
    assert fraction_bits_for(peak) == bits
    assert peak * 8 * 2.0 ** bits < 2 ** 31 or bits == 0


def test_save_and_load(image, tmp_path):
    image.save(tmp_path / "image")
    image.save(tmp_path / "image-1.5b-0")  # a stem with dots
    assert sorted(path.name for path in tmp_path.glob("image-*")) == ["image-1.5b-0.bin", "image-1.5b-0.json"]
    assert Image.load(tmp_path / "image-1.5b-0").sha256 == Image.load(tmp_path / "image-1.5b-0.json").sha256 == image.sha256
    loaded = Image.load(tmp_path / "image")
    assert np.array_equal(loaded.data, image.data)
    assert (loaded.config, loaded.model, loaded.sections) == (image.config, image.model, image.sections)


@pytest.mark.parametrize("damage, message", [
    (lambda raw: raw[:-8], "must have .* bytes, has"),
    (lambda raw: raw + b"\0" * 8, "must have .* bytes, has"),
    (lambda raw: b"\x01" + raw[1:] if raw[:1] != b"\x01" else b"\x02" + raw[1:], "SHA-256 differs"),
    (lambda raw: b"", "empty"),
])
def test_damaged_image(image, tmp_path, damage, message):
    image.save(tmp_path / "image")
    path = tmp_path / "image.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match=message):
        Image.load(tmp_path / "image")


def test_missing_or_foreign_manifest(image, tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        Image.load(tmp_path / "image")
    image.save(tmp_path / "image")
    manifest = tmp_path / "image.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(ImageError, match="image format version must be 1, not 99; compile it again"):
        Image.load(tmp_path / "image")


def test_unwritable_output_leaves_nothing(image, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OSError):
        image.save(blocker / "image")
    assert list(tmp_path.glob(".*")) == []


def test_shape_is_checked():
    with pytest.raises(ValueError, match="heads must be a multiple of kv_heads, not 3 and 2"):
        ModelShape(96, 256, 1, 3, 2, 32, 300, 128, 1e4, 1e-6, "silu", False, True)


def test_compiled_into_a_file(checkpoint, image, tmp_path):
    stem = tmp_path / "image"
    written = compile_model(checkpoint, TINY, fraction_bits=20, stem=stem)
    assert isinstance(written.data, np.memmap) and np.array_equal(written.data, image.data)
    loaded = Image.load(stem)
    assert isinstance(loaded.data, np.memmap) and np.array_equal(loaded.data, image.data)
    assert loaded.sha256 == written.sha256 == image.sha256 == hashlib.sha256(image.data.tobytes()).hexdigest()
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["image.bin", "image.json"]


def test_interrupted_compilation_leaves_the_old_image(checkpoint, tmp_path):
    stem = tmp_path / "image"
    compile_model(checkpoint, TINY, fraction_bits=20, stem=stem)
    before = stem.with_suffix(".bin").read_bytes()

    def stop(name):
        if name == "layer 1":
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        compile_model(checkpoint, TINY, fraction_bits=10, stem=stem, progress=stop)
    assert stem.with_suffix(".bin").read_bytes() == before and Image.load(stem).fraction_bits == 20
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["image.bin", "image.json"]


@pytest.mark.parametrize("fraction_bits", [6, 20])
def test_embedding_is_rounded_once(checkpoint, fraction_bits):
    """To as many bits as fit 16, but never finer than the residual stream."""
    weights = checkpoint.embedding().astype(np.float64)
    table, shift = embedding_table(checkpoint.embedding(), TINY, fraction_bits)
    step = 2.0 ** (shift - fraction_bits)
    assert np.array_equal(table[:, :weights.shape[1]], np.rint(weights / step)) and not table[:, weights.shape[1]:].any()
    assert shift == 0 if fraction_bits == 6 else np.abs(table).max() + 1 >= 1 << 14 and shift > 0


@pytest.mark.parametrize("shape", [SMALL_BITNET, SMALL_LLAMA, replace(SMALL_BITNET, hidden_size=40, head_dim=10)])
def test_plan_needs_no_weights(tmp_path, shape):
    """The same sections and addresses as those of an image; the program differs in scales and shifts only."""
    write_checkpoint(tmp_path / "model", shape, seed=5)
    image = compile_model(Checkpoint.open(tmp_path / "model"), TINY, fraction_bits=20, context=33)
    planned = plan(shape, TINY, context=33)
    for each in fields(MemoryMap):
        assert getattr(planned, each.name) == getattr(image, each.name), each.name
    weightless = dict.fromkeys(SCALARS, (0, 0)) | {"shift": 0}
    compiled = decode_program(image.data[image.program_address:].tobytes())
    assert [replace(op, **weightless) for op in planned.program] == [replace(op, **weightless) for op in compiled]


def test_plan_refuses_what_does_not_fit():
    with pytest.raises(CompileError, match="head_dim 136, 144 with both halves in whole words, exceeds max_head_dim 128"):
        plan(replace(SMALL_BITNET, head_dim=136, sub_norms=False), preset("kv260"))
    with pytest.raises(CompileError, match=r"context must be in 1\.\.64, not 65"):
        plan(SMALL_BITNET, TINY, context=65)
