"""C header and SystemRDL: every register and field, at the places of the map."""

import re
import shutil
import subprocess

import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.regmap import register_map
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.regmap_export import c_header, systemrdl

TINY = preset("tiny")


def macros():
    return dict(re.findall(r"#define LLMRTL_(\w+) +(\w+)", c_header(TINY)))


def test_header_has_every_register():
    found = macros()
    for register in register_map(TINY):
        assert int(found[f"{register.name}_OFFSET"], 16) == register.offset


def test_header_has_fields_and_causes():
    found = macros()
    assert (found["CONTROL_GREEDY_SHIFT"], found["CONTROL_GREEDY_MASK"]) == ("8", "0x00000100u")
    assert found["VERSION_MAJOR_SHIFT"] == "16"
    assert "PROGRAM_ADDRESS_PROGRAM_ADDRESS_SHIFT" not in found
    for cause in ErrorCause:
        assert int(found[f"ERROR_{cause.name}"]) == cause


def test_header_serves_every_configuration():
    assert c_header(TINY) == c_header(preset("edge"))


def test_exports_have_the_bases_of_the_memory_ports():
    config = preset("kv260")
    assert config.memory_ports == 4
    header, text = c_header(config), systemrdl(config)
    for port in range(config.memory_ports):
        assert re.search(rf"#define LLMRTL_MEMORY_BASE_{port}_OFFSET +{0x100 + 4 * port:#05x}\n", header)
        assert f" memory_base_{port}[31:12] = 20'h0;" in text
        assert f"}} MEMORY_BASE_{port} @ {0x100 + 4 * port:#05x};" in text
    assert "MEMORY_BASE" not in c_header(TINY) + systemrdl(TINY)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_header_compiles(tmp_path):
    (tmp_path / "registers.h").write_text(c_header(TINY))
    (tmp_path / "main.c").write_text('#include "registers.h"\n#include "registers.h"\n'
                                     "int values[] = {LLMRTL_STATUS_OFFSET, LLMRTL_STATUS_DONE_MASK};\n")
    subprocess.run(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "main.c"], cwd=tmp_path,
                   check=True)


def test_systemrdl_has_every_field():
    text = systemrdl(TINY)
    assert text.count("{") == text.count("}")
    for register in register_map(TINY):
        assert f"}} {register.name} @ {register.offset:#05x};" in text
        for field in register.fields:
            assert f" {field.name}[{field.low + field.width - 1}:{field.low}] = " in text
    for access in ("sw = r; hw = w;", "woclr", "singlepulse", "encode = error_cause"):
        assert access in text
