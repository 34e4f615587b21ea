"""The ``llmrtl`` command as a user types it: right input, wrong input."""

import json
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.commands import console_file
from llmrtl.sim.reference import Reference

from ..checkpoints import SMALL_BITNET, write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "small"
    write_checkpoint(folder, replace(SMALL_BITNET, max_context=24), seed=3)
    return folder


def run(model, tmp_path, *options):
    return main(["run", "--checkpoint", str(model), "--preset", "tiny", "--json", str(tmp_path / "summary.json"), *options])


def test_run_writes_a_summary(model, tmp_path, capsys):
    assert run(model, tmp_path, "--prompt-ids", "1,2,3", "--tokens", "6", "--ignore-eos") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["golden_match"] is True and summary["tokens_generated"] == 6
    for name in ("cycles_prefill", "cycles_per_decoded_token", "bytes_read_per_token", "bytes_written_per_token",
                 "read_utilization_decode", "parameters", "checkpoint_sha256", "verilog_sha256"):
        assert summary[name], name
    assert set(summary["units"]["engine"]) == {"busy", "starved", "stalled"}
    assert summary["command"] == (f"llmrtl run --checkpoint {model} --preset tiny --json {tmp_path / 'summary.json'} "
                                  "--prompt-ids 1,2,3 --tokens 6 --ignore-eos")
    printed = capsys.readouterr().out
    assert "golden_match: true" in printed and "1 2 3 " in printed
    assert printed == console_file(tmp_path / "summary.json").read_text()


def test_sampled_run(model, tmp_path):
    options = ("--prompt-ids", "1,2,3", "--tokens", "6", "--ignore-eos", "--temperature", "2", "--top-k", "4", "--seed")
    tokens = []
    for seed in ("7", "7", "8"):
        assert run(model, tmp_path, *options, seed) == 0
        tokens.append(json.loads((tmp_path / "summary.json").read_text())["tokens"])
    assert tokens[0] == tokens[1] != tokens[2]


def test_final_hidden_states_are_compared(model, tmp_path, capsys):
    options = ("--prompt-ids", "1,2,3", "--tokens", "3", "--ignore-eos", "--fill-context", "4")
    for compared, says in ((True, "token, its logit and its final hidden state equal"), (False, "token and its logit equal")):
        assert run(model, tmp_path, *options, *["--check-hidden"] * compared) == 0
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["golden_match"] is True and summary["hidden_state_compared"] is compared
        assert says in capsys.readouterr().out


def test_filled_context(model, tmp_path):
    """Hardware and golden model start from the same random records, and read them all."""
    options = ("--prompt-ids", "1,2", "--tokens", "2", "--ignore-eos")
    values = []
    for fill in ("15", "14"):
        assert run(model, tmp_path, *options, "--fill-context", fill) == 0
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["golden_match"] is True and summary["fill_context"] == int(fill)
        values.append(summary["bytes_read_per_token"])
    assert values[0] > values[1]  # one record more


def test_run_on_a_dram_model(model, tmp_path, capsys):
    options = ("--prompt-ids", "1,2,3", "--tokens", "3", "--ignore-eos", "--memory-model", "ddr4", "--clock-mhz", "100")
    assert run(model, tmp_path, *options, "--read-trace", str(tmp_path / "reads.csv")) == 0
    memory = json.loads((tmp_path / "summary.json").read_text())["memory"]
    assert memory["model"] == "ddr4" and memory["bound_gb_s"] == pytest.approx(0.4)
    assert (tmp_path / "reads.csv").read_text().startswith("cycle,port,address,bytes\n")
    assert "ddr4 memory, decode" in capsys.readouterr().out


@pytest.mark.parametrize("options, message", [
    (("--prompt-ids", "1,50"), "prompt token id 50 is outside the vocabulary of 50 (ids 0..49)"),
    (("--prompt-ids", "1,-1"), "prompt token id -1 is outside the vocabulary"),
    (("--prompt", "hello"), "there is no tokenizer.json; give the prompt as --prompt-ids"),
    (("--prompt-ids", "1,2,3", "--tokens", "23"), "prompt of 3 and 23 tokens need a context of 25; "
                                                  "this model on preset 'tiny' has 24"),
    (("--prompt-ids", "1,2", "--tokens", "2", "--fill-context", "22"), "22 filled positions, prompt of 2 and 2 tokens need a "
                                                                       "context of 25; this model on preset 'tiny' has 24"),
    (("--prompt-ids", "1", "--context", "25"), "context must be in 1..24, not 25"),
    (("--prompt-ids", "1", "--temperature", "1", "--top-k", "9"), "--top-k must be at most 8 on preset 'tiny', not 9"),
    (("--prompt-ids", "1", "--seed", "-1"), "--seed must be in 0..4294967295, not -1"),
    (("--prompt-ids", "1", "--fraction-bits", "30"), "fraction_bits must be in 0..24, not 30"),
    (("--prompt-ids", "1", "--preset", "huge"), "preset must be one of"),
])
def test_bad_run(model, tmp_path, capsys, options, message):
    assert run(model, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("options, message", [
    (("--tokens", "0"), "must be a whole number of at least 1"),
    (("--prompt-ids", "a,b"), "must be token ids separated by commas"),
    (("--temperature", "-1"), "must be a positive number"),
    (("--clock-mhz", "0"), "must be a number of MHz from 1 to 1200, not '0'"),
    (("--memory-model", "dream"), "invalid choice: 'dream'"),
])
def test_options_that_do_not_parse(model, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        run(model, tmp_path, *options)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_missing_checkpoint(tmp_path, capsys):
    assert main(["run", "--checkpoint", str(tmp_path / "none"), "--prompt-ids", "1"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_verilog(tmp_path, capsys):
    assert main(["verilog", "gearbox", "--preset", "tiny", "-o", str(tmp_path)]) == 0
    assert "module gearbox" in (tmp_path / "gearbox.sv").read_text()
    assert json.loads((tmp_path / "gearbox.json").read_text())["config"]["name"] == "tiny"


def test_unknown_unit(tmp_path, capsys):
    assert main(["verilog", "gearbocks", "-o", str(tmp_path)]) == 2
    assert "gearbox" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_unwritable_output(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["verilog", "gearbox", "--preset", "tiny", "-o", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "norm_quantize" in out and "edge" in out and "accelerator" in out


def test_image(model, tmp_path, capsys):
    stem = tmp_path / "image"
    assert main(["image", str(stem), "--checkpoint", str(model), "--preset", "tiny", "--program"]) == 0
    out = capsys.readouterr().out
    assert "layers.0.qkv" in out and "LINEAR" in out and "bits per ternary weight" in out
    path = stem.with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:-4])
    assert main(["image", str(stem)]) == 2
    assert "truncated" in capsys.readouterr().err


def test_compare(model, tmp_path, capsys):
    reference = Reference(Checkpoint.open(model))
    arrays = {}
    for i, ids in enumerate(([1, 2, 3], [5, 6, 7, 8])):
        arrays |= {f"input_ids_{i}": np.array(ids), f"logits_{i}": reference.forward(ids),
                   f"greedy_{i}": np.array(reference.greedy(ids, 6))}
    np.savez(tmp_path / "expected.npz", **arrays)
    options = ["compare", str(model), str(tmp_path / "expected.npz"), "--preset", "tiny"]
    assert main([*options, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["total"]["float_agreement"] == 1 and len(figures["prompts"]) == 2
    capsys.readouterr()
    arrays["logits_1"] = arrays["logits_1"] + 0.01
    np.savez(tmp_path / "expected.npz", **arrays)
    assert main(options) == 1
    assert "float reference: error 1.0" in capsys.readouterr().out
    del arrays["greedy_1"]
    np.savez(tmp_path / "expected.npz", **arrays)
    assert main(options) == 2
    assert "array greedy_1 is missing" in capsys.readouterr().err
    (tmp_path / "expected.npz").write_bytes(b"junk")
    assert main(options) == 2


def test_help_teaches(capsys):
    for command in ("run", "compare", "verilog", "list", "image", "random-checkpoint", "synth", "bench"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert len(capsys.readouterr().out) > 100
