"""The ``llmrtl`` command as a user types it: right input, wrong input."""

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from llmrtl.accelerators.control import regmap
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen import run_command
from llmrtl.rtl_gen.cli import build_parser, main
from llmrtl.rtl_gen.commands import console_file
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.registry import UNITS, build
from llmrtl.sim.native.build import BuildError
from llmrtl.sim.native.run import simulate

ROOT = Path(__file__).parents[2]


def run(model, tmp_path, *options):
    return main(["run", "--checkpoint", str(model), "--preset", "tiny", "--json", str(tmp_path / "summary.json"), *options])


def test_run_writes_a_summary(model, tmp_path, capsys, folder):
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
    assert f"summary: {folder / 'summary.json'}, {tmp_path / 'summary.json'}\n" in printed
    assert json.loads((folder / "summary.json").read_text()) == summary
    for each in (folder, tmp_path):
        assert printed == console_file(each / "summary.json").read_text()


def test_places_of_outputs(model, tmp_path, folder, capsys):
    """The summary without --json; folders are made."""
    reads = tmp_path / "new/deep/reads.csv"
    assert main(["run", "--checkpoint", str(model), "--preset", "tiny", "--prompt-ids", "1", "--tokens", "1", "--ignore-eos",
                 "--read-trace", str(reads)]) == 0
    assert json.loads((folder / "summary.json").read_text())["tokens_generated"] == 1
    assert f"summary: {folder / 'summary.json'}\n" in capsys.readouterr().out
    assert reads.read_text().startswith("cycle,port,address,bytes\n")


def test_summary_where_it_is_anyway(folder):
    path = folder / "../run/summary.json"
    assert main(["run", "--checkpoint", "absent", "--json", str(path)]) == 2
    assert not path.exists()


@pytest.mark.parametrize("error, text", [
    (BuildError("building failed"), "building failed"), (RuntimeError("status 2"), "status 2"), (KeyboardInterrupt(), "interrupted"),
    (AssertionError(), "AssertionError")])
def test_summary_of_a_run_that_fails(model, tmp_path, folder, monkeypatch, error, text):
    """Also of one that fails for a reason that nobody has thought of."""
    def fail(*arguments, **options):
        raise error
    monkeypatch.setattr(run_command, "compiled_image", fail)
    if isinstance(error, AssertionError):
        with pytest.raises(AssertionError):
            run(model, tmp_path, "--prompt-ids", "1", "--tokens", "1")
    else:
        assert run(model, tmp_path, "--prompt-ids", "1", "--tokens", "1") == (130 if text == "interrupted" else 2)
    for each in (folder, tmp_path):
        summary = json.loads((each / "summary.json").read_text())
        assert summary["golden_match"] is False and summary["error"] == text
        assert summary["command"].startswith("llmrtl run --checkpoint ")
        assert not console_file(each / "summary.json").exists()


@pytest.mark.parametrize(("preset_name", "version", "text"), [
    ("tiny", (0, 2, 0), "the core's register map has version 0.1.0, this driver is for version 0.2.0: generate the core again"),
    ("tiny_int4", (0, 1, 0), "the image is for 'tiny_int4' with hash ")])
def test_a_core_for_others_is_refused_before_the_run(model, tmp_path, folder, capsys, monkeypatch, preset_name, version, text):
    core = emitted_accelerator(preset("tiny"))
    monkeypatch.setattr(run_command, "emitted_accelerator", lambda *arguments, **options: core)
    monkeypatch.setattr(regmap, "VERSION", version)
    monkeypatch.setattr(run_command, "generate", lambda *arguments, **options: pytest.fail("the run began"))
    assert run(model, tmp_path, "--preset", preset_name, "--prompt-ids", "1", "--tokens", "1") == 2
    assert text in capsys.readouterr().err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["golden_match"] is False and text in summary["error"]


def test_sampled_run(model, tmp_path):
    options = ("--prompt-ids", "1,2,3", "--tokens", "6", "--ignore-eos", "--temperature", "2", "--top-k", "4", "--seed")
    tokens = []
    for seed in ("7", "7", "8"):
        assert run(model, tmp_path, *options, seed) == 0
        tokens.append(json.loads((tmp_path / "summary.json").read_text())["tokens"])
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.bench  # builds an accelerator of its own; what it calls is in tests/sim/test_hidden_states.py
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


def test_window(model, tmp_path, capsys):
    """Beyond the cache and beyond the model's longest context (24)."""
    assert run(model, tmp_path, "--prompt-ids", "1,2,3", "--tokens", "40", "--ignore-eos", "--window", "8", "--sinks", "2") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["golden_match"] is True and summary["tokens_generated"] == 40 and summary["preset"] == "tiny_window"
    cache = summary["kv_cache"]
    assert (cache["kind"], cache["sinks"], cache["recent"], cache["positions"], cache["text_positions"]) == ("window", 2, 8, 11, 42)
    assert cache["bytes"] == 11 * cache["bytes_per_position"]
    sizes = {"int4": 64, "int8": 96, "int16": 160, "fp16": 128}
    assert (cache["storage"], cache["bytes_per_position"], cache["bytes_per_position_and_layer"]) == ("int8", 96, 48)
    assert cache["bytes_per_position_in"] == sizes
    assert f"2 sinks and the latest 8 positions: {cache['bytes']:,} bytes" in capsys.readouterr().out


@pytest.mark.bench
def test_window_of_the_readme(tmp_path, capsys):
    """README's command, with fewer tokens, but twice around the ring: the shipped model on the default preset."""
    lines = (ROOT / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("    llmrtl run") and "--window" in line).strip().partition("   #")[0]
    assert command == "llmrtl run --checkpoint models/stories --window 128 --sinks 4 --tokens 600 --ignore-eos"
    arguments = command.replace("models/stories", str(ROOT / "models/stories")).replace("--tokens 600", "--tokens 270").split()[1:]
    assert main([*arguments, "--json", str(tmp_path / "summary.json")]) == 0
    summary, printed = json.loads((tmp_path / "summary.json").read_text()), capsys.readouterr().out
    assert summary["golden_match"] is True and summary["tokens_generated"] == 270 and summary["preset"] == "edge_window"
    cache = summary["kv_cache"]
    assert (cache["kind"], cache["sinks"], cache["recent"]) == ("window", 4, 128)
    # A chunk is written before its first token has read all that it sees.
    assert cache["positions"] == 4 + 128 + preset("edge").token_lanes - 1 < 270 - 128
    assert cache["bytes"] == cache["positions"] * cache["bytes_per_position"]
    assert f"4 sinks and the latest 128 positions: {cache['bytes']:,} bytes" in printed and "golden_match: true" in printed
    assert summary["text"].startswith("Once upon a time") and summary["text"] in printed


@pytest.mark.bench  # an accelerator of its own; it is that of tests/test_evict_accelerator.py
def test_budget(model, tmp_path, capsys):
    """Beyond the cache and beyond the model's longest context (24)."""
    options = ("--prompt-ids", "1,2,3", "--tokens", "40", "--ignore-eos", "--budget", "8", "--recent", "3", "--threshold", "0.5")
    assert run(model, tmp_path, *options, "--preset", "tiny_evict") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["golden_match"] is True and summary["tokens_generated"] == 40 and summary["preset"] == "tiny_evict"
    cache = summary["kv_cache"]
    assert (cache["kind"], cache["sinks"], cache["recent"], cache["positions"], cache["text_positions"]) == ("evict", 1, 3, 8, 42)
    assert cache["threshold"] == 2048 and cache["bytes"] == 8 * cache["bytes_per_position"]
    says = f"a budget of 8 rows per head, 1 sinks and the latest 3 positions among them: {cache['bytes']:,} bytes"
    assert says in " ".join(capsys.readouterr().out.split())


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
    (("--prompt-ids", "1", "--sinks", "4"), "--sinks has no effect without --window or --budget: all positions are kept"),
    (("--prompt-ids", "1", "--recent", "4"), "--recent has no effect without --budget"),
    (("--prompt-ids", "1", "--window", "4", "--budget", "8"), "give --window or --budget, not both: they are different KV caches"),
    (("--prompt-ids", "1", "--budget", "33"), "budget must be in 1..32 rows on preset 'tiny_evict', not 33"),
    (("--prompt-ids", "1", "--budget", "8", "--high-precision"), "with cache = 'evict', chunks must be 1, kv_bits 8"),
    (("--prompt-ids", "1", "--window", "124", "--sinks", "4"),
     "must together be at most 127 on preset 'tiny_window', max_context less a chunk's token_lanes - 1, not 4 + 124"),
    (("--prompt-ids", "1", "--window", "8", "--fill-context", "9"),
     "--fill-context fills a KV cache of which all positions are seen: it does not go with --window, --budget or --blocks"),
    (("--prompt-ids", "1", "--window", "8", "--context", "9", "--tokens", "10"), "need a context of 10; this model on preset "
                                                                                 "'tiny_window' has 9"),
    (("--prompt-ids", "1", "--preset", "tiny_window"),
     "the KV cache of preset 'tiny_window' keeps a window: give one (--window, --sinks)"),
    (("--prompt-ids", "1", "--preset", "tiny_paged"), "preset 'tiny_paged' serves several sequences at a time: use `llmrtl serve-sim`"),
    (("--prompt-ids", "1", "--window", "8", "--preset", "tiny_swap"),
     "--window needs a KV cache of kind 'window', preset 'tiny_swap' is one with 'paged'"),
    (("--prompt-ids", "1", "--budget", "8", "--preset", "tiny_short"),
     "--budget needs a KV cache of kind 'evict', which preset 'tiny_short' cannot have: row_cycles must be 0 or at least 2"),
    (("--prompt-ids", "1", "--top-k", "4"), "--top-k has no effect without --temperature"),
    (("--prompt-ids", "1", "--seed", "4"), "--seed has no effect without --temperature or --prompt-length"),
    (("--prompt-ids", "1", "--preset", "huge"),
     "preset must be one of edge, kv260, tiny, tiny_evict, tiny_int4, tiny_modes, tiny_paged, tiny_recompute, tiny_retrieval, "
     "tiny_short, tiny_swap, tiny_window, ulx3s, not 'huge'\n"),
    (("--prompt-ids", "1", "--preset", "egde"),
     "preset must be one of edge, kv260, tiny, tiny_evict, tiny_int4, tiny_modes, tiny_paged, tiny_recompute, tiny_retrieval, "
     "tiny_short, tiny_swap, tiny_window, ulx3s, not 'egde'; did you mean 'edge'?\n"),
])
def test_bad_run(model, tmp_path, capsys, folder, unbuilt, options, message):
    """Nothing is begun, and no summary of an earlier run is left to be taken for one of this."""
    (tmp_path / "summary.json").write_text('{"golden_match": true}')
    assert run(model, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists() and not list(folder.iterdir())


def test_seed_of_a_random_prompt(model, tmp_path, monkeypatch):
    prompts = []

    def stop(image, file, emitted, prompt, *arguments, **options):
        prompts.append(prompt)
        raise RuntimeError("seen")
    monkeypatch.setattr(run_command, "generate", stop)
    for name in ("emitted_accelerator", "build_driver", "_check_core"):
        monkeypatch.setattr(run_command, name, lambda *arguments, **options: None)
    for seed in ((), ("--seed", "1"), ("--seed", "2")):
        assert run(model, tmp_path, "--prompt-length", "8", "--tokens", "1", *seed) == 2
    assert prompts[0] == prompts[1] != prompts[2] and len(prompts[0]) == 8


def test_a_prompt_that_is_no_text(tmp_path, capsys, unbuilt):
    """Bytes of the command line that are not UTF-8; in JSON, half of a pair."""
    stories = str(ROOT / "models/stories")
    assert main(["run", "--checkpoint", stories, "--preset", "tiny", "--prompt", "a\udcff"]) == 2
    assert "the prompt must be Unicode text; character 1 is '\\udcff'" in capsys.readouterr().err
    (tmp_path / "requests.json").write_text('[{"prompt": "\\ud800", "tokens": 3}]')
    assert main(["serve-sim", str(tmp_path / "requests.json"), "--checkpoint", stories, "--preset", "tiny_paged"]) == 2
    assert "the prompt must be Unicode text; character 0 is '\\ud800'" in capsys.readouterr().err


@pytest.mark.parametrize("text, preset, message", [
    ("[]", "tiny_recompute",
     "serve-sim needs a KV cache of kind 'paged', which preset 'tiny_recompute' cannot have: with selective_recompute, cache must be"),
    ("[]", "tiny_window", "serve-sim needs a KV cache of kind 'paged', preset 'tiny_window' is one with 'window'"),
    ("[" * 100_000, "tiny_paged", "requests.json: not JSON: maximum recursion depth"),
    ("9" * 5000, "tiny_paged", "requests.json: not JSON: Exceeds the limit"),
])
def test_bad_service(tmp_path, capsys, unbuilt, text, preset, message):
    """With the shipped model, as none is named."""
    (tmp_path / "requests.json").write_text(text)
    assert main(["serve-sim", str(tmp_path / "requests.json"), "--preset", preset]) == 2
    assert message in capsys.readouterr().err


def test_damaged_tokenizer(model, tmp_path, capsys, unbuilt):
    shutil.copytree(model, tmp_path / "model")
    for text in ("{", '{"version": "1.0"}', ""):
        (tmp_path / "model/tokenizer.json").write_text(text)
        assert run(tmp_path / "model", tmp_path, "--prompt-ids", "1") == 2
        assert f"{tmp_path / 'model/tokenizer.json'}: not a tokenizer that can be read: " in capsys.readouterr().err


@pytest.mark.parametrize("options, message", [
    (("--tokens", "0"), "--tokens: must be a whole number in 1..1048576, not '0'"),
    (("--prompt-length", "1e9"), "--prompt-length: must be a whole number in 1..1048576, not '1e9'"),
    (("--fill-context", "-1"), "--fill-context: must be a whole number in 1..1048576, not '-1'"),
    (("--window", "0"), "--window: must be a whole number in 1..1048576, not '0'"),
    (("--sinks", "-1"), "--sinks: must be a whole number in 0..1048576, not '-1'"),
    (("--context", "0"), "--context: must be a whole number in 1..1048576, not '0'"),
    (("--top-k", "0"), "--top-k: must be a whole number in 1..1048576, not '0'"),
    (("--seed", "-1"), "--seed: must be a whole number in 0..4294967295, not '-1'"),
    (("--fraction-bits", "30"), "--fraction-bits: must be a whole number in 0..24, not '30'"),
    (("--latency", "-1"), "--latency: must be a whole number in 0..100000, not '-1'"),
    (("--latency", "100001"), "--latency: must be a whole number in 0..100000, not '100001'"),
    (("--stall", "-1"), "--stall: must be a whole number in 0..99, not '-1'"),
    (("--stall", "100"), "--stall: must be a whole number in 0..99, not '100'"),
    (("--prompt-ids", "a,b"), "must be token ids separated by commas"),
    (("--temperature", "-1"), "must be a number from 0.001 to 1000, not '-1'"),
    (("--temperature", "nan"), "must be a number from 0.001 to 1000, not 'nan'"),
    (("--clock-mhz", "0"), "must be a number of MHz from 1 to 1200, not '0'"),
    (("--clock-mhz", "fast"), "must be a number of MHz from 1 to 1200, not 'fast'"),
    (("--memory-model", "dream"), "invalid choice: 'dream'"),
])
def test_options_that_do_not_parse(model, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        run(model, tmp_path, *options)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("options, message", [
    ({"latency": -1}, "latency must be in 0..100000, not -1"),
    ({"latency": 100_001}, "latency must be in 0..100000, not 100001"),
    ({"stall": 100}, "stall must be in 0..99, not 100"),
    ({"reset_at": -5}, "reset_at must be in 0.."),
    ({"clock_mhz": 0.5}, "clock_mhz must be in 1..1200, not 0.5"),
    ({"clock_mhz": float("nan")}, "clock_mhz must be in 1..1200, not nan"),
])
def test_simulate_has_the_same_limits(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate(None, None, None, [1], 1, **options)
    with pytest.raises(ValueError, match=r"count must be in 1\.\.4294967295, not 0"):
        simulate(None, None, None, [1], 0)


def test_missing_checkpoint(tmp_path, capsys):
    assert main(["run", "--checkpoint", str(tmp_path / "none"), "--prompt-ids", "1"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_unknown_unit(tmp_path, capsys):
    assert main(["verilog", "gearbocks", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(", not 'gearbocks'; did you mean 'gearbox'?\n") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command, name", [("verilog", "acelerator"), ("synth", "acelerator")])
def test_the_accelerator_is_a_unit_too(capsys, command, name):
    assert main([command, name]) == 2
    assert "unit must be one of accelerator, " in (error := capsys.readouterr().err)
    assert error.endswith(", not 'acelerator'; did you mean 'accelerator'?\n")


def test_unwritable_output(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["verilog", "gearbox", "--preset", "tiny", "-o", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name, entry in UNITS.items():
        head, purpose = re.search(rf"^{name} +(.*)\n    (.*)$", out, re.MULTILINE).groups()
        component = build(name, entry.config())
        assert " ".join(type(component).__doc__.replace("``", "").split()).startswith(purpose), name
        if isinstance(component.latency, int):
            assert head.startswith(f"latency {component.latency}, interval "), name
        assert head.endswith(entry.component.removeprefix("llmrtl.accelerators.")), name
    assert "ternary_engine         latency 12, interval 1  ternary.engine:TernaryEngine\n    Ternary matrix times vectors" in out
    assert "(multiply 9, add 6, reciprocal 17, rsqrt 43)" in out and "accelerator            latency varies" in out
    assert all(f"│ {name} " in out for name in ("tiny", "edge", "kv260"))


def test_image(model, tmp_path, capsys):
    stem = tmp_path / "image"
    assert main(["image", str(stem), "--checkpoint", str(model), "--preset", "tiny", "--program"]) == 0
    out = capsys.readouterr().out
    assert "layers.0.qkv" in out and "LINEAR" in out and "bits per ternary weight" in out
    assert main(["image", str(stem), "--preset", "tiny", "--fraction-bits", "0", "--sinks", "0"]) == 2
    assert "--preset, --fraction-bits, --sinks: only with --checkpoint" in capsys.readouterr().err
    windowed = tmp_path / "windowed"
    assert main(["image", str(windowed), "--checkpoint", str(model), "--preset", "tiny", "--window", "8"]) == 0
    assert "KV cache of 9 positions (sinks and a ring) for texts of up to 24" in capsys.readouterr().out
    path = stem.with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:-4])
    assert main(["image", str(stem)]) == 2
    assert "truncated" in capsys.readouterr().err


def subparsers():
    parser = build_parser()
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("command", subparsers())
def test_help_teaches(command, capsys):
    """Every argument is explained, and the examples are commands that parse."""
    subparser = subparsers()[command]
    for action in subparser._actions:
        assert action.help and len(action.help.split()) > 1, action.dest
    head, *examples = subparser.epilog.splitlines()
    assert head == ("example:" if len(examples) == 1 else "examples:") and examples
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == "llmrtl" and build_parser().parse_args(arguments).command == command
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and all(example in printed for example in examples)
