"""``llmrtl verilog``: what it writes, of presets and of configurations in files."""

import json

from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.regmap_export import c_header, systemrdl


def test_verilog(tmp_path, capsys):
    assert main(["verilog", "gearbox", "--preset", "tiny", "-o", str(tmp_path)]) == 0
    assert "module gearbox" in (tmp_path / "gearbox.sv").read_text()
    assert json.loads((tmp_path / "gearbox.json").read_text())["config"]["name"] == "tiny"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gearbox.json", "gearbox.sv"]


def test_verilog_of_a_configuration_in_a_file(tmp_path, capsys):
    file = tmp_path / "mine.json"
    file.write_text('{"preset": "tiny", "row_cycles": 2, "query_lanes": 3}')
    assert main(["verilog", "attention_scores", "--preset", str(file), "-o", str(tmp_path)]) == 0
    sidecar = json.loads((tmp_path / "attention_scores.json").read_text())
    assert [sidecar["config"][name] for name in ("name", "row_cycles", "query_lanes")] == ["mine", 2, 3]
    file.write_text('{"preset": "tiny", "row_cycles": 1}')
    assert main(["verilog", "attention_scores", "--preset", str(file), "-o", str(tmp_path / "none")]) == 2
    assert f"llmrtl verilog: error: {file}: not a configuration: row_cycles must be 0 or" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_verilog_of_the_accelerator_comes_with_its_registers(tmp_path, capsys):
    assert main(["verilog", "accelerator", "--preset", "tiny", "-o", str(tmp_path)]) == 0
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert sorted(files) == [f"accelerator_tiny{suffix}" for suffix in (".h", ".json", ".rdl", ".sv")]
    assert set(capsys.readouterr().out.split()) == {str(tmp_path / name) for name in files}
    assert files["accelerator_tiny.h"] == c_header(preset("tiny")) and files["accelerator_tiny.rdl"] == systemrdl(preset("tiny"))
