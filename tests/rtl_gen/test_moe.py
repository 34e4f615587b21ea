"""``llmrtl moe``: routing traces, bad input, and a layer on the simulated unit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.moe import UnitTimes
from llmrtl.rtl_gen.routing import random_routes, read_routes
from llmrtl.sim.random_layer import real
from llmrtl.sim.timing.experts import ExpertShape

CONFIG = EXPERT_PRESETS["tiny_duplex"]
TINY = ("moe", "--preset", "tiny_duplex", "--hidden", "16", "--intermediate", "16")


def trace(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_random_routes_have_top_k_experts_and_weights_of_sum_one():
    routes = random_routes(replace(CONFIG, top_k=3), np.random.default_rng(5), 20)
    assert all(len({expert for expert, _ in each}) == 3 and [e for e, _ in each] == sorted(e for e, _ in each) for each in routes)
    assert np.allclose([sum(real(np.array([w for _, w in each]), "fp16")) for each in routes], 1, atol=2e-3)


def test_routing_trace(tmp_path):
    routes = read_routes(trace(tmp_path, "token,expert,weight\n1,7,0.25\n0,3,1\n1,2,0.75\n"), CONFIG)
    assert routes == [[(3, 0x3C00)], [(2, 0x3A00), (7, 0x3400)]]


@pytest.mark.parametrize(("text", "message"), [
    ("", "the first line must be token,expert,weight"),
    ("0,1,0.5\n", "the first line must be token,expert,weight"),
    ("token,expert,weight\n", "there are no tokens"),
    ("token,expert,weight\n0,1\n", "line 2: must have 3 fields"),
    ("token,expert,weight\n0,8,0.5\n", "line 2: expert must be a whole number in 0..7, not '8'"),
    ("token,expert,weight\n0,-1,0.5\n", "line 2: expert must be a whole number in 0..7, not '-1'"),
    ("token,expert,weight\n32,1,0.5\n", "line 2: token must be a whole number in 0..31, not '32'"),
    ("token,expert,weight\n0,1,nan\n", "line 2: weight must be a number from 0 to 1, not 'nan'"),
    ("token,expert,weight\n0,1,1.5\n", "line 2: weight must be a number from 0 to 1, not '1.5'"),
    ("token,expert,weight\n0,1,0.5\n0,1,0.5\n", "line 3: token 0 has expert 1 already"),
    ("token,expert,weight\n0,1,0.5\n2,1,0.5\n", "token 1 has no expert"),
])
def test_bad_traces(tmp_path, capsys, text, message):
    assert main([*TINY, "--routing", str(trace(tmp_path, text))]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("options", "message"), [
    (("--hidden", "12"), "--hidden must be a multiple of 8 in 8..64 with preset tiny_duplex, not 12"),
    (("--intermediate", "136"), "--intermediate must be a multiple of 8 in 8..128 with preset tiny_duplex, not 136"),
    (("--tokens", "33"), "--tokens must be at most 32 with preset tiny_duplex, not 33"),
    (("--preset", "edge"), "preset must be one of duplex, narrow_duplex, tiny_duplex"),
    (("--routing", "missing.csv"), "missing.csv"),
    (("--expert", "8"), "--expert must be in 0..7, the experts of the layer, not 8"),
    (("--expert", "1", "--routing", "trace.csv"), "--expert and --routing both say where the tokens go: leave one of them out"),
])
def test_bad_options(capsys, options, message):
    assert main([*TINY, *options]) == 2
    assert message in capsys.readouterr().err


def test_trace_and_tokens_must_agree(tmp_path, capsys):
    path = trace(tmp_path, "token,expert,weight\n0,1,0.5\n")
    assert main([*TINY, "--routing", str(path), "--tokens", "2"]) == 2
    assert f"--tokens 2, but {path} has 1" in capsys.readouterr().err


def test_tables_rise_and_cross():
    """Duplex (arXiv:2409.01141): both take as long at about 32 tokens per expert."""
    config = EXPERT_PRESETS["duplex"]
    xpu, pim = UnitTimes(config, ExpertShape(64, 7)).tables(64)
    assert xpu[0] == pim[0] == 0 and xpu == sorted(xpu) and pim == sorted(pim)
    assert pim[8] < xpu[8] / 3 and pim[64] > xpu[64]
    assert 24 <= next(n for n in range(65) if pim[n] > xpu[n]) <= 40


def test_one_expert_gets_all_tokens(tmp_path):
    path = tmp_path / "summary.json"
    assert main([*TINY, "--tokens", "12", "--expert", "5", "--split", "xpu", "--json", str(path)]) == 0
    summary = json.loads(path.read_text())
    assert [each["tokens"] for each in summary["experts"]] == [0, 0, 0, 0, 0, 12, 0, 0]
    assert summary["relative_rms_error"] < 1e-3


@pytest.mark.bench
@pytest.mark.parametrize("element", ["fp16", "int8"])
def test_layer(tmp_path, capsys, element):
    path = tmp_path / "summary.json"
    assert main([*TINY, "--tokens", "12", "--split", "logic-pim", "--element", element, "--json", str(path)]) == 0
    assert "golden_match: true" in capsys.readouterr().out
    summary = json.loads(path.read_text())
    assert summary["golden_match"] and summary["timing_violations"] == 0
    assert sum(each["tokens"] for each in summary["experts"]) == 24
    words = 3 * 16 * (1 if element == "int8" else 2)  # of an expert: 16 elements are a word or two
    used = sum(bool(each["tokens"]) for each in summary["experts"])
    assert summary["bytes"] == used * words * 16
