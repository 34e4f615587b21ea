"""Random checkpoints: layout, reproducibility, memory, and that the models behave."""

import json
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import PROJECTIONS, Checkpoint, CheckpointError
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.random_checkpoint import SHAPES, shape_named, write_random_checkpoint
from llmrtl.sim.reference import Reference

from ..checkpoints import SMALL_LLAMA

TINY = SHAPES["tiny"]


def contents(folder):
    """All tensors, whatever file they are in."""
    checkpoint = Checkpoint.open(folder)
    return {name: (tensor.dtype, tensor.shape, tensor.data.tobytes()) for name, tensor in checkpoint._tensors.items()}


@pytest.mark.parametrize("shape", [TINY, SMALL_LLAMA], ids=["bitnet", "llama"])
def test_loads_as_the_shape_that_was_asked_for(tmp_path, shape):
    write_random_checkpoint(tmp_path, shape)
    checkpoint = Checkpoint.open(tmp_path)
    checkpoint.validate()
    assert checkpoint.model == shape
    trits = np.concatenate([checkpoint.projection(0, which).trits.reshape(-1) for which in PROJECTIONS])
    shares = np.bincount(trits + 1) / trits.size
    assert len(shares) == 3 and np.abs(shares - 1 / 3).max() < 5 / trits.size ** 0.5


def test_seed_decides_and_shards_do_not(tmp_path):
    for name, options in (("a", {"seed": 5}), ("b", {"seed": 5, "shard_bytes": 5000}), ("c", {"seed": 6})):
        write_random_checkpoint(tmp_path / name, TINY, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert all(a[name][2] != c[name][2] for name in a if not name.endswith("_scale"))
    shards = list((tmp_path / "b").glob("*.safetensors"))
    assert len(shards) > 5 and all(f"-of-{len(shards):05}." in shard.name for shard in shards)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in a.values())


def test_memory_is_that_of_a_shard(tmp_path):
    shape = replace(TINY, hidden_size=512, intermediate_size=1024, heads=32, layers=24, vocab_size=8192)
    embedding = 2 * shape.vocab_size * shape.hidden_size
    tracemalloc.start()
    try:
        write_random_checkpoint(tmp_path, shape, shard_bytes=embedding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * embedding < 0.7 * sum(file.stat().st_size for file in tmp_path.iterdir())


@pytest.mark.parametrize("shape", [TINY, replace(TINY, activation="silu", layers=6), SMALL_LLAMA],
                         ids=["relu2", "silu", "llama"])
def test_activations_stay_sane(tmp_path, shape):
    write_random_checkpoint(tmp_path, shape)
    capture = {}
    tokens = np.random.default_rng(1).integers(0, shape.vocab_size, 48)
    logits = Reference(Checkpoint.open(tmp_path)).forward(tokens, capture=capture)
    assert 1 < logits.std() < 4
    assert np.abs(capture["hidden_states"]).max() < 16
    assert len(set(logits.argmax(axis=1))) > 10


def test_published_shapes():
    small, large = SHAPES["bitnet-0.73b"], SHAPES["bitnet-2b-4t"]
    assert (small.parameters, small.ternary_parameters) == (728_842_752, 679_477_248)
    assert small.vocab_size * small.hidden_size == 49_155_072  # the LM head: 49.2 MB of int8
    assert 2.4e9 < large.parameters < 2.42e9 and large.ternary_parameters == 2_084_044_800


def test_shapes_by_name_and_file(tmp_path):
    assert shape_named("bitnet-0.73b") is SHAPES["bitnet-0.73b"]
    file = tmp_path / "shape.json"
    file.write_text(json.dumps(asdict(SMALL_LLAMA)))
    assert shape_named(str(file)) == SMALL_LLAMA
    for content, message in (('{"hidden_size": 32', "not a model shape"), ("[]", "must hold a JSON object, not list"),
                             (json.dumps(asdict(SMALL_LLAMA) | {"heads": 3, "kv_heads": 2}), "heads must be a multiple of kv_heads"),
                             (json.dumps(asdict(SMALL_LLAMA) | {"width": 3}), "no parameter 'width'"),
                             ('{"layers": 2}', "not a model shape: ModelShape needs hidden_size, ")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            shape_named(str(file))
    with pytest.raises(ValueError, match=r"shape must be one of tiny, bitnet-0\.73b, bitnet-2b-4t, or a \.json file, not 'huge'"):
        shape_named("huge")


@pytest.mark.parametrize("change, message", [
    ({"intermediate_size": 162}, "projection gate must have a multiple of 4 rows to be packed, not 162"),
    ({"head_dim": 8}, r"heads \* head_dim must equal hidden_size in sub-norms, not 4 \* 8 and 64"),
])
def test_shapes_that_the_format_cannot_hold(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_random_checkpoint(tmp_path / "model", replace(TINY, **change))
    assert not (tmp_path / "model").exists()


def test_refuses_a_folder_with_contents(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be an empty folder"):
        write_random_checkpoint(tmp_path, TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_interrupted_is_no_checkpoint(tmp_path):
    def stop(name):
        if name.startswith("model-00003"):
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path, TINY, shard_bytes=5000, progress=stop)
    with pytest.raises(CheckpointError, match="file is missing"):
        Checkpoint.open(tmp_path)


def test_command(tmp_path, capsys):
    assert main(["random-checkpoint", "tiny", "-o", str(tmp_path / "model"), "--seed", "3"]) == 0
    assert f"{TINY.parameters:,} parameters" in capsys.readouterr().out
    assert Checkpoint.open(tmp_path / "model").model == TINY
    with pytest.raises(SystemExit):
        main(["random-checkpoint", "tiny", "-o", str(tmp_path / "other"), "--seed", "-1"])
    assert "argument --seed: must be a whole number in 0..4294967295, not '-1'" in capsys.readouterr().err
