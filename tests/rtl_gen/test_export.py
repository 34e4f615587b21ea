"""Exported directories stand alone; their drivers work against golden models, their scripts against stand-ins of the tools."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.config import AcceleratorConfig
from llmrtl.accelerators.control.regmap import config_hash, register_map
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.top import Accelerator
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.emit import Emitted
from llmrtl.rtl_gen.export import FORMATS, export_files, write_export
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.image import Image
from llmrtl.rtl_gen.ports import describe_ports
from llmrtl.rtl_gen.verilator import VERILATOR, verilator_environment
from llmrtl.sim.golden.machine import Machine

from ..boards.golden_board import GoldenBoard
from ..checkpoints import SMALL_BITNET, write_checkpoint

PROMPT = [1, 2, 3]
PRESETS = ("tiny", "kv260")


def stand_in(config: AcceleratorConfig) -> Emitted:
    """The ports of the core, and nothing behind them: for what does not look inside."""
    ports = describe_ports(Accelerator(config))
    name = f"accelerator_{config.name}"
    lines = [f"  {port['direction']}put wire [{port['width'] - 1}:0] {port['name']}" for port in ports]
    outputs = [f"  assign {port['name']} = 0;" for port in ports if port["direction"] == "out"]
    verilog = "\n".join(["/* verilator lint_off UNUSEDSIGNAL */", "/* verilator lint_off WIDTHEXPAND */", f"module {name} (",
                         ",\n".join(lines), ");", *outputs, "endmodule", "/* verilator lint_on UNUSEDSIGNAL */", ""])
    return Emitted(name, verilog, {"unit": name, "config": config.to_json(), "ports": ports})


def exported(folder: Path, config: AcceleratorConfig, format: str) -> Path:
    write_export(folder, export_files(stand_in(config), config, format))
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_checkpoint(folder / "small", replace(SMALL_BITNET, max_context=24), seed=3)
    compile_model(Checkpoint.open(folder / "small"), preset("tiny"), fraction_bits=16, stem=folder / "image")
    return folder / "image"


def golden_tokens(image, count):
    return [step.token for step in Machine(Image.load(image)).generate(PROMPT, count, eos=None)]


def lint(folder: Path) -> str:
    done = subprocess.run([str(VERILATOR), "--lint-only", "-Wall", "-f", "files.f"], cwd=folder / "rtl", capture_output=True, text=True,
                          check=False, env={**os.environ, **verilator_environment()})
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_directory_stands_alone(tmp_path, name, format):
    folder = exported(tmp_path / "out", preset(name), format)
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    here = str(Path(__file__).parents[2])
    for path in present:
        text = (folder / path).read_text()
        assert here not in text and "../" not in text and not re.search(r'(?<![\w.])/(home|tmp|root|work)/', text), path
    listed = re.findall(r"^\| `([^`]+)` \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert set(listed) | {"README.md"} == present
    assert set((folder / "rtl/files.f").read_text().split()[2:]) <= {path.removeprefix("rtl/") for path in present}
    for core in folder.glob("*.core"):
        files = re.findall(r"^ +- ([\w/.]+\.(?:sv|c|h))", core.read_text(), re.MULTILINE)
        assert len(files) == 4 and set(files) <= present
    assert lint(folder) == ""


def test_what_cannot_be_exported_is_refused(capsys, tmp_path):
    tiny = preset("tiny")
    with pytest.raises(ValueError, match="format must be one of rtl, vivado, fusesoc, litex, not 'quartus'"):
        export_files(stand_in(tiny), tiny, "quartus")
    paged = preset("tiny_paged")
    with pytest.raises(ValueError, match="preset 'tiny_paged' runs batches"):
        export_files(stand_in(paged), paged, "rtl")
    assert main(["export", "--format", "rtl", "--preset", "tinny", "-o", str(tmp_path)]) == 2
    assert "tinny" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_every_port_has_its_interface(tmp_path, name):
    config = preset(name)
    text = (exported(tmp_path, config, "vivado") / f"rtl/accelerator_{name}_ip.v").read_text()
    before = {}
    for attributes, port in re.findall(r"((?:  \(\* .* \*\)\n)*)  (?:in|out)put wire (?:\[\d+:0\] )?(\w+)", text):
        before[port] = attributes
    assert before.keys() == {port["name"] for port in describe_ports(Accelerator(config))}
    for port, attributes in before.items():
        assert "X_INTERFACE_INFO" in attributes, port
    busses = [f"m_axi_gmem{number}" for number in range(4)] if name == "kv260" else ["m_axi_gmem"]
    for bus in busses:
        assert f'"xilinx.com:interface:aximm:1.0 {bus} ARADDR"' in before[f"{bus}_araddr"]
        assert f"DATA_WIDTH {config.port_bits}," in before[f"{bus}_araddr"]
    assert f"ASSOCIATED_BUSIF {':'.join([*busses, 's_axi_csr', 'm_axis_tokens'])}, ASSOCIATED_RESET aresetn" in before["aclk"]
    assert "AXI4LITE, DATA_WIDTH 32" in before["s_axi_csr_araddr"]
    assert '"xilinx.com:interface:axis:1.0 m_axis_tokens TDATA"' in before["m_axis_tokens_tdata"]


STUBS = """
set seen {}
proc unknown args { lappend ::seen $args; return [lindex $args end] }
proc get_property args { if {[lindex $args 0] eq "PROGRESS"} { return 100% }; return 0.5 }
"""


@pytest.mark.parametrize("name", PRESETS)
def test_scripts_name_what_there_is(tmp_path, name):
    tkinter = pytest.importorskip("tkinter")
    folder = exported(tmp_path, preset(name), "vivado")
    ports = {port["name"] for port in describe_ports(Accelerator(preset(name)))}
    busses = {name.removesuffix("_araddr") for name in ports if name.endswith("_araddr")}
    for script in ("package_ip.tcl", "kv260.tcl"):
        interpreter = tkinter.Tcl()
        interpreter.eval(STUBS)
        interpreter.eval(f"source {{{folder / script}}}")
        calls = [interpreter.splitlist(call) for call in interpreter.splitlist(interpreter.eval("set seen"))]
        assert len(calls) > 20
        if script == "package_ip.tcl":
            (files,) = [call[-1] for call in calls if call[0] == "add_files"]
            assert all(Path(file).is_file() for file in interpreter.splitlist(files))
            continue
        for call in calls:
            for kind, known in (("get_bd_pins", ports), ("get_bd_intf_pins", busses)):
                if call[0] == kind and call[1].startswith("accelerator/"):
                    assert call[1].removeprefix("accelerator/") in known, call
        connected = {call[1] for call in calls if call[0] == "get_bd_intf_pins" and call[1].startswith("accelerator/")}
        assert connected == {f"accelerator/{bus}" for bus in busses}
        high_performance = {call[1] for call in calls if call[0] == "get_bd_intf_pins" and "/S_AXI_HP" in call[1]}
        assert len(high_performance) == preset(name).memory_ports


@pytest.mark.parametrize("name", PRESETS)
def test_litex_connects_every_port(tmp_path, monkeypatch, name):
    config, instances = preset(name), []
    folder = exported(tmp_path, config, "litex")

    class Anything:
        def __init__(self, *arguments, **options):
            vars(self)["options"] = options

        def __getattr__(self, name):
            made = Anything()
            setattr(self, name, made)
            return made

        def __iadd__(self, other):
            return self

        def __call__(self, *arguments, **options):
            return self

        def __invert__(self):
            return self

    modules = {"litex": {}, "litex.gen": {"LiteXModule": Anything}, "litex.soc": {}, "litex.soc.interconnect": {},
               "litex.soc.interconnect.axi": {"AXILiteInterface": Anything, "AXIInterface": Anything},
               "litex.soc.interconnect.stream": {"Endpoint": Anything},
               "litex.soc.interconnect.csr_eventmanager": {"EventManager": Anything, "EventSourceLevel": Anything},
               "migen": {"ClockSignal": Anything, "ResetSignal": Anything, "Signal": Anything,
                         "Instance": lambda core, **ports: instances.append((core, ports))}}
    for module, members in modules.items():
        made = types.ModuleType(module)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, module, made)
    for name_ in ("axi", "stream"):
        setattr(sys.modules["litex.soc.interconnect"], name_, sys.modules[f"litex.soc.interconnect.{name_}"])
    _module(folder / "llmrtl_litex.py", "llmrtl_litex").Accelerator(Anything())
    ((core, ports),) = instances
    assert core == f"accelerator_{name}"
    expected = {f"{'i' if port['direction'] == 'in' else 'o'}_{port['name']}" for port in describe_ports(Accelerator(config))}
    assert ports.keys() == expected


def _module(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [*PRESETS, "tiny_window"])
def test_systemrdl_by_its_compiler(tmp_path, name):
    compiler_module = pytest.importorskip("systemrdl")
    config = preset(name)
    folder = exported(tmp_path, config, "rtl")
    compiler = compiler_module.RDLCompiler()
    compiler.compile_file(str(folder / f"registers/accelerator_{name}.rdl"))
    top = compiler.elaborate().top
    found = {}
    for register in top.registers():
        found[register.inst_name] = register.absolute_address, {
            field.inst_name: (field.low, field.width, field.is_sw_readable, field.is_sw_writable) for field in register.fields()}
    want = {register.name: (register.offset, {
        field.name: (field.low, field.width, field.access not in ("wo", "pulse"), field.writable) for field in register.fields})
        for register in register_map(config)}
    assert found == want


HARNESS = """
#include <stdint.h>
uint32_t (*on_read)(uint32_t);
void (*on_write)(uint32_t, uint32_t);
uint32_t sim_read(uintptr_t address) { return on_read((uint32_t)address); }
void sim_write(uintptr_t address, uint32_t value) { on_write((uint32_t)address, value); }
"""


def compiled_driver(folder: Path, config: AcceleratorConfig):
    """The C driver as a library, and its structure."""
    (folder / "harness.c").write_text(HARNESS)
    (folder / "io.h").write_text("#include <stdint.h>\nuint32_t sim_read(uintptr_t);\nvoid sim_write(uintptr_t, uint32_t);\n"
                                 "#define LLMRTL_READ32(a) sim_read(a)\n#define LLMRTL_WRITE32(a, v) sim_write(a, v)\n")
    common = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffreestanding"]
    subprocess.run([*common, "-c", "driver/llmrtl.c", "-o", "plain.o"], cwd=folder, check=True)  # with its own accesses
    subprocess.run([*common, "-shared", "-fPIC", "-include", "io.h", "driver/llmrtl.c", "harness.c", "-o", "driver.so"], cwd=folder,
                   check=True)
    symbols = subprocess.run(["nm", "-u", "plain.o"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in symbols if name != "U"} <= {"_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}  # no libc

    class CImage(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint32) for name in (
            "format_version", "config_hash", "program_address", "prompt_address", "kv_capacity", "kv_record_beats", "kv_head_stride",
            "sinks", "recent", "positions")]

    class CDevice(ctypes.Structure):
        _fields_ = [("registers", ctypes.c_size_t), ("memory", ctypes.c_void_p * config.memory_ports),
                    ("base", ctypes.c_uint32 * config.memory_ports), ("image", CImage), ("position", ctypes.c_uint32),
                    ("control", ctypes.c_uint32), ("cause", ctypes.c_uint32), ("info", ctypes.c_uint32),
                    ("message", ctypes.c_char * 128)]

    return ctypes.CDLL(str(folder / "driver.so")), CDevice()


@pytest.fixture
def c_driver(tmp_path, image):
    """The C driver on a golden board; `open` gives what llmrtl_open returns."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    loaded = Image.load(image)
    config = loaded.config
    board = GoldenBoard(loaded)
    library, device = compiled_driver(exported(tmp_path, config, "rtl"), config)
    base = 0x40000
    word = ctypes.c_uint32
    callbacks = (ctypes.CFUNCTYPE(word, word)(lambda address: board.values[address - base]),
                 ctypes.CFUNCTYPE(None, word, word)(lambda address, value: board.set_register(address - base, value)))
    for name, callback in zip(("on_read", "on_write"), callbacks, strict=True):
        ctypes.c_void_p.in_dll(library, name).value = ctypes.cast(callback, ctypes.c_void_p).value
    device.registers = base
    device.memory[0] = ctypes.addressof((ctypes.c_uint8 * len(board.memory)).from_buffer(board.memory))
    values = device.image
    values.format_version, values.config_hash = 1, config_hash(config)
    for name in ("program_address", "prompt_address", "kv_capacity", "kv_record_beats", "kv_head_stride"):
        setattr(values, name, getattr(loaded, name))
    values.positions = loaded.positions
    return types.SimpleNamespace(library=library, device=device, board=board, image=loaded, keep=callbacks,
                                 open=lambda: library.llmrtl_open(ctypes.byref(device)))


def test_c_driver_generates_the_golden_tokens(c_driver, image):
    library, device = c_driver.library, ctypes.byref(c_driver.device)
    assert c_driver.open() == 0
    data = c_driver.image.data.tobytes()
    library.llmrtl_write_memory(device, 0, data, ctypes.c_size_t(len(data)))
    library.llmrtl_begin(device, 1, 1, 0, 0, 1)
    tokens, following, found = list(PROMPT), ctypes.c_uint32(), []
    for _ in range(6):
        assert library.llmrtl_feed(device, (ctypes.c_uint32 * len(tokens))(*tokens), len(tokens), ctypes.byref(following)) == 0
        found.append(following.value)
        tokens = [following.value]
    assert found == golden_tokens(image, 6)
    assert c_driver.device.position == len(PROMPT) + 5
    assert library.llmrtl_feed(device, (ctypes.c_uint32 * 99)(), 99, ctypes.byref(following)) == 5
    assert c_driver.device.message == b"the context has room for tokens: 16"


def test_c_driver_refuses_other_versions(c_driver):
    device, board = c_driver.device, c_driver.board
    board.set_version(0, 7, 0)
    assert c_driver.open() == 2
    assert device.message == b"the core's register map has version 0.7, this driver is for version 0.1"
    board.set_version(0, 1, 3)
    assert c_driver.open() == 0
    device.image.format_version = 4
    assert c_driver.open() == 4
    assert device.message == b"the image has format version 4, this driver is for version 1"
    device.image.format_version, device.image.config_hash = 1, 5
    assert c_driver.open() == 4 and device.message.startswith(b"the image is for configuration hash 5, the core has hash ")
    board.values[board.map.offsets["CONFIG_HASH"]] = 6
    assert c_driver.open() == 3 and device.message.startswith(b"the core's configuration has hash 6, this driver is for hash ")
    board.values[board.map.offsets["IDENTITY"]] = 0
    assert c_driver.open() == 1


def test_c_driver_scatters_words_over_the_ports(tmp_path):
    config = preset("kv260")
    library, device = compiled_driver(exported(tmp_path, config, "rtl"), config)
    memories = [(ctypes.c_uint8 * 256)() for _ in range(config.memory_ports)]
    for port, memory in enumerate(memories):
        device.memory[port] = ctypes.addressof(memory)
    data = bytes(range(200))
    library.llmrtl_write_memory(ctypes.byref(device), 128, data, ctypes.c_size_t(len(data)))
    word, slice_ = config.bus_bytes, config.port_bits // 8
    linear = bytes(128) + data + bytes(-len(data) % word)
    for port, memory in enumerate(memories):
        want = b"".join(linear[at + port * slice_:at + (port + 1) * slice_] for at in range(0, len(linear), word))
        assert bytes(memory)[:len(want)] == want


class Registers:
    """32-bit words of a golden board."""

    def __init__(self, board):
        self.board = board

    def __getitem__(self, word):
        return self.board.values[4 * word]

    def __setitem__(self, word, value):
        self.board.set_register(4 * word, value)


def test_python_driver(tmp_path, image):
    driver = _module(exported(tmp_path, preset("tiny"), "vivado") / "driver/llmrtl.py", "llmrtl_driver")
    board = GoldenBoard(Image.load(image))
    memory = np.frombuffer(board.memory, dtype=np.uint8)
    device = driver.Accelerator(Registers(board), [memory], [0], image)
    device.load()
    device.begin()
    assert list(device.generate(PROMPT, 6)) == golden_tokens(image, 6)
    device.begin(temperature=1.7, top_k=4, seed=99)
    machine = Machine(Image.load(image), seed=99, greedy=False, top_k=4, inverse_temperature=1 / 1.7)
    assert list(device.generate(PROMPT, 6)) == [step.token for step in machine.generate(PROMPT, 6, eos=None)]
    with pytest.raises(ValueError, match="tokens can be appended, not 99"):
        device.feed([1] * 99)
    board.set_version(1, 1, 0)
    with pytest.raises(driver.AcceleratorError, match=r"register map has version \(1, 1, 0\), this driver is for version \(0, 1, 0\)"):
        driver.Accelerator(Registers(board), [memory], [0], image)
    assert f".config_hash = {config_hash(preset('tiny'))}u" in driver.c_image(image.with_suffix(".json"))


def test_python_driver_refuses_another_image(tmp_path, image):
    driver = _module(exported(tmp_path, preset("tiny"), "rtl") / "driver/llmrtl.py", "llmrtl_driver")
    board = GoldenBoard(Image.load(image))
    other = tmp_path / "other.json"
    shutil.copy(image.with_suffix(".bin"), tmp_path / "other.bin")
    text = image.with_suffix(".json").read_text()
    other.write_text(text.replace('"format_version": 1', '"format_version": 8'))
    with pytest.raises(driver.AcceleratorError, match="has format version 8, this driver is for version 1"):
        driver.Accelerator(Registers(board), [None], [0], other)
    other.write_text(re.sub(r'"config_hash": \d+', '"config_hash": 5', text))
    with pytest.raises(driver.AcceleratorError, match="the image for 0x00000005"):
        driver.Accelerator(Registers(board), [None], [0], other)


@pytest.mark.bench
@pytest.mark.parametrize("format", FORMATS)
def test_the_real_core_lints_where_it_was_exported(tmp_path, format):
    assert main(["export", "--format", format, "--preset", "tiny", "-o", str(tmp_path / "out")]) == 0
    assert lint(tmp_path / "out") == ""
    assert (tmp_path / "out/rtl/accelerator_tiny.sv").read_text() == emitted_accelerator(preset("tiny")).verilog
