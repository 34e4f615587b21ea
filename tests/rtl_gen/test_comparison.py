"""``llmrtl compare``: another program's logits, and files that are none."""

import json

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.sim.reference import Reference


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
    arrays["greedy_1"] = np.array([1, 50])
    np.savez(tmp_path / "expected.npz", **arrays)
    assert main(options) == 2
    assert "greedy_1 must hold token ids, in 0..49" in capsys.readouterr().err
    arrays["logits_0"] = np.full_like(arrays["logits_0"], np.nan)
    np.savez(tmp_path / "expected.npz", **arrays)
    assert main(options) == 2
    assert "logits_0 must hold finite numbers" in capsys.readouterr().err
    contents = bytearray((tmp_path / "expected.npz").read_bytes())
    contents[200] ^= 255
    (tmp_path / "expected.npz").write_bytes(contents)
    assert main(options) == 2
    assert "expected.npz: a damaged .npz archive: " in capsys.readouterr().err


@pytest.mark.parametrize("name, message", [
    ("config.json", "not an .npz archive"), ("absent.npz", "no such file"), ("", "no such file")])
def test_compare_with_something_else(model, capsys, name, message):
    assert main(["compare", str(model), str(model / name), "--preset", "tiny"]) == 2
    assert f"error: {model / name}: {message}\n" in capsys.readouterr().err


@pytest.mark.parametrize("option, value, message", [
    ("--tolerance", "nan", "must be a number from 0 to 1e+06, not 'nan'"),
    ("--tolerance", "-1", "must be a number from 0 to 1e+06, not '-1'"),
    ("--agreement", "5", "must be a number from 0 to 1, not '5'"),
    ("--agreement", "nan", "must be a number from 0 to 1, not 'nan'"),
])
def test_limits_of_compare(model, capsys, option, value, message):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(model), "expected.npz", option, value])
    assert stopped.value.code == 2 and f"argument {option}: {message}" in capsys.readouterr().err
