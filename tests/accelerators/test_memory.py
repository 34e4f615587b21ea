"""Memory units: refused parameters, parameters beyond the presets."""

import dataclasses

import pytest
from amaranth.hdl import Module
from llmrtl.accelerators.axi import AXI4LiteSignature, AXI4Signature, AXI4StreamSignature, merge_channels
from llmrtl.accelerators.memory.arbiter import ReadArbiter, WriteArbiter
from llmrtl.accelerators.memory.bursts import BurstSplitter
from llmrtl.accelerators.memory.reader import BurstReader
from llmrtl.accelerators.memory.stripe import PortStripe
from llmrtl.accelerators.memory.writer import BurstWriter
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.bench.simulators import icarus_missing

needs_icarus = pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))

STANDARD_READ = {"arid", "araddr", "arlen", "arsize", "arburst", "arcache", "arprot", "arvalid", "arready",
                 "rid", "rdata", "rresp", "rlast", "rvalid", "rready"}
STANDARD_WRITE = {"awid", "awaddr", "awlen", "awsize", "awburst", "awcache", "awprot", "awvalid", "awready",
                  "wdata", "wstrb", "wlast", "wvalid", "wready", "bid", "bresp", "bvalid", "bready"}


def test_signature_names():
    assert set(AXI4Signature(64, id_bits=2).members) == STANDARD_READ | STANDARD_WRITE
    assert set(AXI4Signature(64, write=False).members) == STANDARD_READ - {"arid", "rid"}
    assert set(AXI4Signature(64, read=False).members) == STANDARD_WRITE - {"awid", "bid"}
    assert set(AXI4LiteSignature().members) >= {"awaddr", "wstrb", "bresp", "araddr", "rdata"}
    assert set(AXI4StreamSignature(32, keep=True).members) == {"tdata", "tkeep", "tlast", "tvalid", "tready"}


@pytest.mark.parametrize(("build", "message"), [
    (lambda: AXI4Signature(48), "data_bits must be a power of two, not 48"),
    (lambda: AXI4Signature(64, read=False, write=False), "read or write must be true, not both false"),
    (lambda: AXI4Signature(64, id_bits=17), r"id_bits must be in 0..16, not 17"),
    (lambda: AXI4LiteSignature(128), r"data_bits must be in 32..64, not 128"),
    (lambda: AXI4StreamSignature(12), "data_bits must be a multiple of 8, not 12"),
    (lambda: BurstSplitter(64, 48), "burst_beats must be a power of two, not 48"),
    (lambda: BurstReader(1024, burst_beats=64), r"burst_beats must be in 2..32, not 64"),
    (lambda: BurstReader(64, buffer_beats=32), r"buffer_beats must be in 64..65536, not 32"),
    (lambda: BurstReader(64, outstanding=1), r"outstanding must be in 2..64, not 1"),
    (lambda: BurstWriter(16), r"bus_bits must be in 32..1024, not 16"),
    (lambda: BurstWriter(64, outstanding=65), r"outstanding must be in 2..64, not 65"),
    (lambda: ReadArbiter(64, 1), r"clients must be in 2..16, not 1"),
    (lambda: ReadArbiter(64, 2, policy="fair"), "policy must be one of round_robin, priority, not 'fair'"),
    (lambda: ReadArbiter(64, 2, client_id_bits=9), r"client_id_bits must be in 0..8, not 9"),
    (lambda: WriteArbiter(64, 17), r"clients must be in 2..16, not 17"),
    (lambda: WriteArbiter(48, 2), "bus_bits must be a power of two, not 48"),
    (lambda: PortStripe(96, 2, id_bits=1), "bus_bits must be a power of two, not 96"),
    (lambda: PortStripe(64, 1, id_bits=1), r"ports must be in 2..8, not 1"),
    (lambda: PortStripe(64, 3, id_bits=1), "ports must be a power of two, not 3"),
    (lambda: PortStripe(32, 8, id_bits=1), r"bus_bits must be at least 8 \* ports, not 32 and 8 ports"),
    (lambda: PortStripe(64, 2, id_bits=0), r"id_bits must be in 1..16, not 0"),
    (lambda: PortStripe(64, 2, id_bits=1, outstanding=1), r"outstanding must be in 2..64, not 1"),
    (lambda: PortStripe(64, 2, id_bits=1, skew_beats=2), r"skew_beats must be in 3..65536, not 2"),
])
def test_refused_parameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_merge_refuses_other_widths():
    m = Module()
    m._MustUse__silence = True
    port, write = AXI4Signature(64).create(), AXI4Signature(64, read=False).create()
    with pytest.raises(ValueError, match="data_bits of read must be that of port, 64, not 32"):
        merge_channels(m, port, read=AXI4Signature(32, write=False).create(), write=write)
    with pytest.raises(ValueError, match="id_bits of read must be at most that of port, 0, not 1"):
        merge_channels(m, port, read=AXI4Signature(64, id_bits=1, write=False).create(), write=write)


MENU = ("back_to_back", "idle_gaps", "back_pressure", "sink_stalled_from_start", "reset_mid_stream",
        "boundary", "stress")


def run(component, bench, config, folder, cases, module="memory"):
    emitted = emit(component, "unit", config)
    assert lint(emitted) == []
    report = run_bench(emitted, f"llmrtl.sim.bench.{module}:{bench}", "icarus", seed=5, cases=cases,
                       folder=folder)
    assert report.ok, str(report)
    assert len(report.passed) == len(cases)


@needs_icarus
@pytest.mark.parametrize("change", [
    {"prefetch_beats": 16}, {"bus_bits": 512, "vector_lanes": 32, "tables": 128}], ids=str)
def test_reader_of_other_configurations(change, tmp_path):
    config = dataclasses.replace(preset("edge"), **{"max_head_dim": 64, "vector_memory": 4096, **change})
    run(BurstReader.for_config(config), "BurstReaderBench", config, tmp_path, (*MENU, "failing_memory"))


@needs_icarus
@pytest.mark.parametrize("outstanding", [2, 3, 16])
def test_outstanding(outstanding, tmp_path):
    config = preset("tiny")
    run(BurstReader(32, burst_beats=32, outstanding=outstanding, buffer_beats=50), "SmallReaderBench", config,
        tmp_path / "reader", MENU)
    run(BurstWriter(32, outstanding=outstanding), "BurstWriterBench", config, tmp_path / "writer", MENU)


@needs_icarus
@pytest.mark.parametrize(("policy", "clients"), [
    ("round_robin", 2), *(pytest.param(policy, clients, marks=pytest.mark.bench)
                          for policy, clients in (("priority", 3), ("round_robin", 5), ("priority", 5)))])
def test_arbiter(clients, policy, tmp_path):
    cases = (*MENU, "errors_reach_their_client", *(["round_robin"] if policy == "round_robin" else []))
    run(ReadArbiter(64, clients, policy=policy), "ReadArbiterBench", preset("edge"), tmp_path, cases)


@needs_icarus
@pytest.mark.parametrize(("ports", "options"), [
    pytest.param(8, {"id_bits": 4}, marks=pytest.mark.bench),
    pytest.param(4, {"id_bits": 1, "outstanding": 2, "skew_beats": 3}, marks=pytest.mark.bench),
    (2, {"id_bits": 1, "outstanding": 64, "skew_beats": 100})], ids=str)
def test_stripe(ports, options, tmp_path):
    run(PortStripe(64, ports, **options), "PortStripeBench", preset("edge"), tmp_path,
        (*MENU, "valid_does_not_wait", "errors_of_one_port", "other_bases"), module="stripe")
