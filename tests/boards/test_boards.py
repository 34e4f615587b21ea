"""Boards as data: pins, clocks, margins at the SDRAM, constraints."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from llmrtl.accelerators.memory.sdram_chips import CHIPS, SDRAM_PRESETS, SdramConfig, slowest
from llmrtl.accelerators.presets import preset
from llmrtl.boards import bitstream as module
from llmrtl.boards import gowin, ice40
from llmrtl.boards.bitstream import CELLS, Bitstream, build_bitstream
from llmrtl.boards.board import BOARDS, board
from llmrtl.boards.bring_up import BringUp
from llmrtl.boards.ecp5 import Ecp5Top, Pll, constraints, with_pll_attributes
from llmrtl.boards.self_test import used_pins
from llmrtl.boards.system import System
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.yowasp import ToolError

ULX3S = BOARDS["ulx3s-85f"]


def top(target=ULX3S):
    return Ecp5Top(target, System(preset(target.preset), target.memory, baud=target.baud))


def bring_up(target):
    return Ecp5Top(target, BringUp(target.memory, baud=target.baud))


def test_ulx3s():
    assert (ULX3S.input_mhz, ULX3S.clock_mhz) == (25, 60)
    assert [pin.site for pin in ULX3S.pins("sdram.ba")] == ["P19", "N20"]
    assert len(ULX3S.pins("led")) == 8
    assert ULX3S.pins("sdram.we")[0].inverted and not ULX3S.pins("sdram.clk")[0].inverted
    with pytest.raises(ValueError, match=r"ulx3s-85f has no pins called 'sdram\.odt'"):
        ULX3S.pins("sdram.odt")
    with pytest.raises(ValueError, match="did you mean 'ulx3s-85f'"):
        board("ulx3s-86f")


WITH_MEMORY = {name: each for name, each in BOARDS.items() if each.memory is not None}


@pytest.mark.parametrize("target", WITH_MEMORY.values(), ids=list(WITH_MEMORY))
def test_every_board_with_memory(target):
    located = re.findall(r'LOCATE COMP "(.+)" SITE "(.+)";', constraints(bring_up(target)))
    assert len(located) == len({site for _, site in located})
    assert min(target.margins().values()) > 1


def test_sdram_pins_need_margins():
    assert min(replace(ULX3S, sdram_phase=0.0).margins().values()) < 0
    assert min(replace(ULX3S, memory=replace(ULX3S.memory, clock_mhz=110.0)).margins().values()) < 0


def test_self_test_of_a_board_without_memory():
    target = BOARDS["icebreaker"]
    assert (target.clock_mhz, target.margins()) == (12, {})
    assert ice40.constraints(target) == "set_io aclk 35\nset_io rx 6\nset_io tx 9\nset_io leds[0] 37\nset_io leds[1] 11\n"


def test_self_test_of_a_gowin_board():
    """Its lights are on when their pins are low."""
    target = BOARDS["tang-nano-9k"]
    assert (target.clock_mhz, target.device, target.margins()) == (27, "GW1NR-LV9QN88PC6/I5", {})
    assert [pin.inverted for pin in used_pins(target).values()] == [False, False, False, True, True]
    located = re.findall(r'IO_LOC "(.+)" (.+);\nIO_PORT "(.+)" (.+);', gowin.constraints(target))
    assert [(port, site) for port, site, _, _ in located] == [
        ("aclk", "52"), ("rx", "18"), ("tx", "17"), ("leds[0]", "10"), ("leds[1]", "11")]
    assert [port for port, _, _, _ in located] == [port for _, _, port, _ in located]
    assert {attributes for _, _, port, attributes in located if port == "rx"} == {"IO_TYPE=LVCMOS33 PULL_MODE=UP"}


@pytest.mark.parametrize(("name", "flow"), [("icebreaker", ice40), ("tang-nano-9k", gowin)])
@pytest.mark.bench
def test_self_test_builds(name, flow, tmp_path, monkeypatch):
    """Meets timing, is as docs/boards.md has it, and is built once."""
    for package in flow.PACKAGES:
        pytest.importorskip(package.replace("-", "_"), reason="needs the extra [boards]")
    built = build_bitstream(BOARDS[name], None, tmp_path / "first")
    assert built.met and built.used["IO"] == 5
    page = (Path(__file__).parents[2] / "docs/boards.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    told = re.findall(r"([\d,]+) of ([\d,]+) (\w+)", row)
    assert "LUT" in [resource for _, _, resource in told]
    assert told == [(f"{built.used[resource]:,}", f"{built.available[resource]:,}", resource) for _, _, resource in told]
    assert f" {min(built.fmax_mhz.values()):.1f} MHz |" in row
    data = (tmp_path / f"first/{name}{flow.SUFFIXES[1]}").read_bytes()
    assert hashlib.sha256(data).hexdigest() == built.sha256 and len(data) == built.bytes > 50_000
    assert json.loads((tmp_path / f"first/{name}.json").read_text())["used"] == built.used
    monkeypatch.setattr(flow, "place", None)
    assert build_bitstream(BOARDS[name], None, tmp_path / "second") == built


def test_missing_place_and_route(tmp_path, monkeypatch):
    """The extra that it comes with is named, before anything runs."""
    monkeypatch.setattr(gowin, "PACKAGES", ("llmrtl-has-no-such-package",))
    with pytest.raises(ToolError, match=r"llmrtl-has-no-such-package is not installed, .* pip install 'llmrtl\[boards\]'"):
        build_bitstream(BOARDS["tang-nano-9k"], None, tmp_path)


def test_constraints_name_every_pin_once():
    text = constraints(top())
    located = re.findall(r'LOCATE COMP "(.+)" SITE "(.+)";', text)
    assert len(located) == len({site for _, site in located}) == 1 + 2 + 8 + 1 + 16 + 5 + 2 + 13 + 2 + 1
    assert ("sdram_dq[15]", "J17") in located and ("clock", "G2") in located
    assert 'IOBUF PORT "sdram_clk" DRIVE=4 IO_TYPE=LVCMOS33 PULLMODE=NONE SLEWRATE=FAST;' in text
    assert 'FREQUENCY PORT "clock" 25 MHZ;' in text


def test_pll():
    """Dividers as ``ecppll -i 25 -o 60`` finds them."""
    pll = Pll.find(25, 60, 76.5)
    assert (pll.reference, pll.feedback, pll.output, pll.steps) == (5, 12, 10, 17)
    assert pll.phase == 76.5
    with pytest.raises(ValueError, match=r"phase must be a multiple of 4\.5 degrees, not 77"):
        Pll.find(25, 60, 77)
    with pytest.raises(ValueError, match="no PLL makes"):
        Pll.find(25, 61.7001, 0)
    assert with_pll_attributes("  EHXPLLL #(\n").count('ICP_CURRENT = "12"') == 1


def test_cycles_are_rounded_to_the_safe_side():
    cycles = CHIPS["AS4C16M16SA-7"].cycles(100.0)
    assert (cycles.rcd, cycles.rp, cycles.ras, cycles.rfc, cycles.rrd, cycles.wr, cycles.mrd) == (3, 3, 5, 7, 2, 2, 2)
    assert cycles.refresh == 781 and cycles.power_up == 20_000
    winbond = CHIPS["W9825G6JH-6I"].cycles(20.0)
    assert (winbond.rrd, winbond.wr, winbond.mrd) == (2, 2, 2)  # clocks, whatever they last
    long = replace(CHIPS["AS4C16M16SA-7"], rc=100).cycles(100.0)
    assert long.ras + long.rp == 10


def test_slowest_chip():
    either = CHIPS["16Mx16"]
    assert (either.rc, either.rrd, either.rrd_clocks, either.hold_ns, either.ras_most) == (63, 14, 2, 2.5, 100_000)
    assert either.bytes == 32 << 20 and CHIPS["AS4C32M16SB-7"].bytes == 64 << 20
    with pytest.raises(ValueError, match="organised alike"):
        slowest("x", either, CHIPS["AS4C32M16SB-7"])


@pytest.mark.parametrize(("change", "message"), [
    ({"chip": "16Mx61"}, "chip must be one of .*did you mean '16Mx16'"),
    ({"clock_mhz": 120.0, "cas_latency": 2}, r"clock_mhz must be in 20\.\.100\.0 with 16Mx16 and cas_latency 2, not 120\.0"),
    ({"cas_latency": 4}, "cas_latency must be in 2..3, not 4"),
    ({"bus_bits": 256}, "bus_bits must be in 32..128, not 256"),
    ({"pad_cycles": -1}, "pad_cycles must be in 0..4, not -1"),
])
def test_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SdramConfig(**SDRAM_PRESETS["ulx3s_sdram"].to_json() | change)


@pytest.fixture
def built():
    return Bitstream("ulx3s-85f", "LFE5U-85F", "memory", 60.0, {"clock": 75.0}, 1, dict.fromkeys(CELLS, 1), dict.fromkeys(CELLS, 10),
                     {"read setup": 1.5}, 1000, "0" * 64, {})


def test_bitstream_that_misses_timing_is_a_failure(built, monkeypatch, tmp_path, capsys):
    for changes, met in (({}, True), ({"fmax_mhz": {"clock": 59.9}}, False), ({"margins_ns": {"read setup": -0.1}}, False)):
        found = replace(built, **changes)
        assert found.met is met
        monkeypatch.setattr(module, "build_bitstream", lambda *_, found=found, **__: found)
        assert main(["bitstream", "--board", "ulx3s-85f", "--memory", "-o", str(tmp_path)]) == (not met)
        assert ("timing is not met" in capsys.readouterr().out) is not met


@pytest.mark.parametrize(("arguments", "message"), [
    (["--board", "ulx3s"], "did you mean 'ulx3s-85f'"),
    (["--board", "icepi-zero"], "no accelerator fits icepi-zero: take --memory"),
    (["--board", "ulx3s-85f", "--memory", "--preset", "tiny"], "--preset has no effect with --memory"),
    (["--board", "icebreaker", "--memory"], "icebreaker has no memory: there is the self-test"),
    (["--board", "tang-nano-9k", "--preset", "tiny"], "tang-nano-9k has no memory: there is the self-test"),
])
def test_bitstream_is_refused(arguments, message, capsys):
    assert main(["bitstream", *arguments]) == 2
    assert message in capsys.readouterr().err
