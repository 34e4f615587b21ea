"""Directories that stand alone: Verilog, registers, drivers and documents of an accelerator for the tools of others."""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.errors import ErrorCause
from ..accelerators.control.regmap import IDENTITY, VERSION, WINDOW_BITS, config_hash, register_map
from .emit import Emitted, write_if_changed
from .image import FORMAT_VERSION
from .regmap_export import c_header, systemrdl

__all__ = ["FORMATS", "export_files", "write_export"]

FORMATS = {"rtl": "any flow", "vivado": "AMD Vivado", "fusesoc": "FuseSoC", "litex": "LiteX"}
CLOCK_MHZ = 200  # of the block design: a target, Vivado's timing report decides

_ENVIRONMENT = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates" / "export"), undefined=StrictUndefined,
                           trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
_AXI = re.compile(r"(m_axi_gmem\d*|s_axi_csr)_((?:ar|aw|r|w|b)(\w+))")


def export_files(emitted: Emitted, config: AcceleratorConfig, format: str) -> dict[str, str]:
    """Path (relative) -> text of every file of the directory.

    ``ValueError`` for a format that there is not, a core without driver, or too many memory ports for the KV260.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if config.cache == "paged":
        raise ValueError(f"preset {config.name!r} runs batches, the drivers prompts: export one with another KV cache")
    values = _values(emitted, config)
    if format == "vivado" and len(values["memory_ports"]) > 4:
        raise ValueError(f"memory_ports must be at most 4, the high-performance ports of the KV260, not {config.memory_ports}")
    name = emitted.name

    def render(template: str, **more: Any) -> str:
        return _ENVIRONMENT.get_template(f"{template}.j2").render(values | more)

    files = {
        f"rtl/{name}.sv": (emitted.verilog, "the core, SystemVerilog"),
        f"rtl/{name}.json": (emitted.sidecar_text, "its configuration, ports, tool versions, hash"),
        "rtl/files.f": (f"--top-module {name}\n{name}.sv\n", "file list"),
        f"registers/{name}.rdl": (systemrdl(config, f"{name}_registers"), "registers, SystemRDL 2.0"),
        "driver/llmrtl_registers.h": (c_header(config), "registers, C"),
        "driver/llmrtl.h": (render("llmrtl.h"), "driver, C99 without a library"),
        "driver/llmrtl.c": (render("llmrtl.c"), "driver, C99 without a library"),
        "driver/llmrtl.py": (render("llmrtl.py"), "driver, Python with mmap (PYNQ and others)"),
        "doc/memory-image.md": (render("memory_image.md"), "format of the memory image"),
    }
    if format == "vivado":
        files |= {f"rtl/{name}_ip.v": (render("ip.v"), "wrapper with interface attributes"),
                  "rtl/files.f": (f"--top-module {name}_ip\n{name}.sv\n{name}_ip.v\n", "file list"),
                  "package_ip.tcl": (render("package_ip.tcl"), "packages the core as an IP"),
                  "kv260.tcl": (render("kv260.tcl"), "block design for the KV260 and its bitstream")}
    elif format == "fusesoc":
        files[f"{name}.core"] = render("fusesoc.core"), "FuseSoC core description"
    elif format == "litex":
        files["llmrtl_litex.py"] = render("litex.py"), "LiteX module"
    listed = [(file, what) for file, (_, what) in sorted(files.items())]
    return {file: text for file, (text, _) in files.items()} | {"README.md": render("readme.md", what=FORMATS[format], files=listed)}


def write_export(folder: Path, files: dict[str, str], progress: Callable[[str], None] = lambda name: None) -> None:
    """Write what differs."""
    for name, text in files.items():
        progress(name)
        write_if_changed(folder / name, text)


def _values(emitted: Emitted, config: AcceleratorConfig) -> dict[str, Any]:
    """What templates may use."""
    map_ = register_map(config)
    package = version("llmrtl")
    ports = emitted.sidecar["ports"]
    masters = sorted(port["name"].removesuffix("_rdata") for port in ports if re.fullmatch(r"m_axi_gmem\d*_rdata", port["name"]))
    masks = {register: {field.name: field.mask for field in map_[register].fields} for register in ("CONTROL", "STATUS")}
    return {
        "name": emitted.name, "config": config, "version": package, "version_major_minor": ".".join(package.split(".")[:2]),
        "register_map_version": VERSION, "image_format": FORMAT_VERSION, "identity": IDENTITY, "config_hash": config_hash(config),
        "window_bytes": 1 << WINDOW_BITS, "offsets": map_.offsets, "control": masks["CONTROL"], "status": masks["STATUS"],
        "causes": list(ErrorCause), "memory_ports": masters, "clock_mhz": CLOCK_MHZ,
        "ports": [port | {"range": f"[{port['width'] - 1}:0] " if port["width"] > 1 else "",
                          "attributes": list(_attributes(port["name"], masters, config))} for port in ports],
        "id_bits": next((port["width"] for port in ports if port["name"] == f"{masters[0]}_arid"), 0),
        "csr": list(_channels(ports, "s_axi_csr")), "memory_signals": list(_channels(ports, masters[0])),
    }


def _channels(ports: list[dict[str, Any]], interface: str) -> Iterator[dict[str, str]]:
    """AXI signals of an interface as LiteX names them: channel and field."""
    for port in ports:
        match = _AXI.fullmatch(port["name"])
        if match and match[1] == interface:
            channel = match[2][:len(match[2]) - len(match[3])]
            yield {"name": port["name"], "suffix": match[2], "channel": channel, "field": match[3], "direction": port["direction"]}


def _attributes(name: str, masters: list[str], config: AcceleratorConfig) -> Iterator[str]:
    """X_INTERFACE attributes of a port."""
    axi = _AXI.fullmatch(name)
    if name == "aclk":
        busses = ":".join((*masters, "s_axi_csr", "m_axis_tokens"))
        yield 'X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 aclk CLK"'
        yield f'X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {busses}, ASSOCIATED_RESET aresetn"'
    elif name == "aresetn":
        yield 'X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 aresetn RST"'
        yield 'X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW"'
    elif name == "irq":
        yield 'X_INTERFACE_INFO = "xilinx.com:signal:interrupt:1.0 irq INTERRUPT"'
        yield 'X_INTERFACE_PARAMETER = "SENSITIVITY LEVEL_HIGH"'
    elif axi:
        yield f'X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 {axi[1]} {axi[2].upper()}"'
        if axi[2] == "araddr":
            lite = axi[1] == "s_axi_csr"
            width = 32 if lite else config.port_bits
            burst = "" if lite else ", SUPPORTS_NARROW_BURST 0, MAX_BURST_LENGTH 256, HAS_LOCK 0, HAS_QOS 0, HAS_REGION 0"
            yield f'X_INTERFACE_PARAMETER = "PROTOCOL {"AXI4LITE" if lite else "AXI4"}, DATA_WIDTH {width}{burst}"'
    elif name.startswith("m_axis_tokens_"):
        yield f'X_INTERFACE_INFO = "xilinx.com:interface:axis:1.0 m_axis_tokens {name.removeprefix("m_axis_tokens_").upper()}"'
