"""``llmrtl estimate``: figures with their kinds, plot, wrong input."""

import json

import pytest
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.report import Book, Measurement

from ..checkpoints import SMALL_BITNET, write_checkpoint


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


def estimate(tmp_path, *options):
    file = tmp_path / "estimate.json"
    assert main(["estimate", "--json", str(file), *options]) == 0
    content = json.loads(file.read_text())
    return content, {figure["name"]: figure for figure in content["figures"]}


def test_figures_of_a_shape(tmp_path, capsys):
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(SMALL_BITNET.to_json()))
    content, figures = estimate(tmp_path, "--preset", "tiny", "--model", str(shape), "--context", "32", "--prompt", "8",
                                "--clock-mhz", "100", "--plot", str(tmp_path / "roof" / "line.png"))
    assert (tmp_path / "roof" / "line.png").read_bytes().startswith(b"\x89PNG\r\n")
    prefill, token = figures["prefill/cycles"], figures["decode/cycles_per_token"]
    assert prefill["kind"] == token["kind"] == "projected" and "its error was not measured here" in prefill["note"]
    assert figures["prefill/time_to_first_token"]["value"] == pytest.approx(prefill["value"] / 100e6)
    assert figures["decode/tokens_per_second"]["value"] == pytest.approx(100e6 / token["value"])
    assert figures["decode/tokens_per_second"]["kind"] == "derived"
    assert 0 < figures["decode/port_utilization"]["value"] < 1 and 0 < figures["prefill/lane_utilization"]["value"] < 1
    parts = sum(figures[f"decode/bytes_of_{kind}"]["value"] for kind in ("ternary_weights", "lm_head", "cache"))
    assert parts < figures["decode/bytes_read_per_token"]["value"]
    # 2 layers, 2 KV heads, header of 8 bytes, K and V of 8 elements in words of 4 bytes.
    sizes = {"": 4 * 24, "_and_layer": 2 * 24, "/int4": 4 * 16, "/int8": 4 * 24, "/int16": 4 * 40, "/fp16": 4 * 32}
    for name, size in sizes.items():
        figure = figures[f"cache/bytes_per_token{name}"]
        assert (figure["value"], figure["kind"], figure["unit"]) == (size, "derived", "bytes")
    assert figures["decode/bytes_written_per_token"]["value"] == 4 * 24
    assert figures["area/ecp5"]["value"] is None and "llmrtl synth accelerator --preset tiny" in figures["area/ecp5"]["note"]
    for point in content["points"]:
        roof = content["roofs"][point["phase"]]
        if point["name"] == "linears":
            assert point["macs_per_cycle"] <= roof
        assert point["macs_per_cycle"] <= point["operations_per_byte"] / 2 * content["port_bytes"] * 1.001
    printed = capsys.readouterr().out
    assert "projected" in printed and "not measured" in printed and "its error was not measured here" in printed


def test_a_checkpoint_and_its_shape_are_estimated_alike(tmp_path):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=1)
    (tmp_path / "shape.json").write_text(json.dumps(SMALL_BITNET.to_json()))
    options = ("--preset", "tiny", "--context", "16", "--model")
    both = [estimate(tmp_path, *options, str(tmp_path / name))[1] for name in ("model", "shape.json")]
    assert [figure["value"] for figure in both[0].values()] == [figure["value"] for figure in both[1].values()]


def test_records_of_4_bits(tmp_path):
    """Less memory traffic for the cache; where the memory is the bound, fewer cycles."""
    options = ("--model", "stories", "--context", "64", "--memory-efficiency", "0.4")
    int8, int4 = (estimate(tmp_path, "--preset", name, *options)[1] for name in ("tiny", "tiny_int4"))
    own = int4["cache/bytes_per_token"]["value"]
    assert own == int4["cache/bytes_per_token/int4"]["value"] == int8["cache/bytes_per_token/int4"]["value"]
    assert "int4" in int4["cache/bytes_per_token"]["note"] and "int8" in int8["cache/bytes_per_token"]["note"]
    assert int4["decode/bytes_of_cache"]["value"] == 64 * own
    assert int4["decode/bytes_of_cache"]["value"] < 0.6 * int8["decode/bytes_of_cache"]["value"]
    assert int4["decode/cycles_per_token"]["value"] < int8["decode/cycles_per_token"]["value"]


def test_shipped_model_and_efficiency(tmp_path):
    options = ("--preset", "edge", "--model", "stories", "--context", "64")
    full, half = (estimate(tmp_path, *options, "--memory-efficiency", share)[1] for share in ("1", "0.5"))
    assert half["decode/cycles_per_token"]["value"] > 1.3 * full["decode/cycles_per_token"]["value"]
    assert half["decode/memory_utilization"]["value"] == pytest.approx(2 * half["decode/port_utilization"]["value"])


def test_stored_results_are_quoted(tmp_path, build):
    """Areas of this preset, and the error of the model."""
    book = Book(build / "bench")
    command = "llmrtl synth accelerator --preset edge --target ecp5 --pnr"
    book.add("accelerator", [Measurement("accelerator/ecp5/lut", 54321, "", "measured", command)])
    book.add("timing", [Measurement(f"case/{phase}/error", error, "%", "derived", "make bench", "model / RTL - 1")
                        for phase, error in (("prefill", 0.004), ("decode", -0.0123))])
    for topic in book.topics:
        book.save(topic)
    _, figures = estimate(tmp_path, "--preset", "edge", "--model", "stories", "--context", "20")
    assert figures["area/ecp5/lut"]["value"] == 54321 and figures["area/ecp5/lut"]["command"] == command
    assert "area/ecp5" not in figures and figures["area/xcup"]["value"] is None
    assert "within 1.23% of RTL in 2 comparisons" in figures["prefill/cycles"]["note"]
    _, figures = estimate(tmp_path, "--preset", "tiny", "--model", "tiny", "--context", "20")
    assert figures["area/ecp5"]["value"] is None  # of another preset


@pytest.mark.parametrize("options, message", [
    (("--model", "gpt-9"), "model must be one of stories, tiny, bitnet-0.73b, bitnet-2b-4t, a checkpoint or a .json file, not 'gpt-9'"),
    (("--model", "absent.json"), "absent.json: no such file"),
    (("--model", "bitnet-0.73b", "--preset", "edge"), "preset 'edge' cannot run this model: head_dim 96 exceeds max_head_dim 64"),
    (("--model", "bitnet-0.73b", "--preset", "huge"), "preset must be one of"),
    (("--model", "bitnet-0.73b", "--context", "2049"), "context must be in 1..2048, not 2049"),
    (("--model", "bitnet-0.73b", "--context", "1"), "context must be at least 2, a prompt and a token, not 1"),
    (("--model", "bitnet-0.73b", "--context", "20", "--prompt", "20"), "prompt must be in 1..19"),
])
def test_bad_input(tmp_path, capsys, options, message):
    arguments = ["estimate", "--json", str(tmp_path / "none.json"), *(() if "--context" in options else ("--context", "20")), *options]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_memory_efficiency_out_of_range(capsys):
    with pytest.raises(SystemExit):
        main(["estimate", "--model", "stories", "--context", "20", "--memory-efficiency", "0"])
    assert "argument --memory-efficiency: must be a number from 0.01 to 1, not '0'" in capsys.readouterr().err
