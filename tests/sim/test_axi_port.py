"""The AXI4 checker and memory model find what is wrong; no simulator needed."""

import numpy as np
import pytest
from llmrtl.sim.bench.agents import BenchFailure
from llmrtl.sim.memory.axi_memory import AxiMemory, Fault
from llmrtl.sim.memory.axi_port import CHANNELS, AxiPort, burst_problem

WIDTHS = {"id": 2, "addr": 32, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3, "data": 32, "resp": 2,
          "last": 1, "strb": 4, "valid": 1, "ready": 1}


class Handle:
    """A port of a design that is not there."""

    def __init__(self, width):
        self.width = width
        self.value = 0

    def __len__(self):
        return self.width

    def __setattr__(self, name, value):
        if name == "value" and isinstance(value, int):
            value = f"{value:0{self.width}b}"
        object.__setattr__(self, name, value)


@pytest.fixture
def ports():
    return {f"m_axi__{channel}{name}": Handle(WIDTHS[name])
            for channel, fields in CHANNELS.items() for name in (*fields, "valid", "ready")}


class Master:
    """Sets signals by short names and steps the checker."""

    def __init__(self, ports):
        self.ports = ports
        self.port = AxiPort(ports)
        self.cycle = 0

    def set(self, **values):
        for name, value in values.items():
            self.ports[f"m_axi__{name}"].value = value

    def step(self, **values):
        self.set(**values)
        seen = self.port.sample(self.cycle)
        self.cycle += 1
        return seen

    def transfer(self, channel, **values):
        seen = self.step(**{f"{channel}{name}": value for name, value in values.items()},
                         **{f"{channel}valid": 1, f"{channel}ready": 1})
        self.set(**{f"{channel}valid": 0, f"{channel}ready": 0})
        return seen[channel]

    def ask(self, channel="ar", address=0, beats=1, name=0):
        return self.transfer(channel, addr=address, len=beats - 1, size=2, burst=1, id=name)


@pytest.fixture
def master(ports):
    return Master(ports)


def test_legal_traffic(master):
    master.ask(address=0xFF8, beats=2, name=1)
    master.ask(address=0x1000, beats=1, name=2)
    master.transfer("r", id=1, data=5, last=0)
    master.transfer("r", id=2, data=6, last=1)
    assert master.port.pending() == "m_axi has open 1 read bursts"
    assert master.transfer("r", id=1, data=7, last=1)["data"] == 7
    master.transfer("w", data=1, strb=15, last=0)
    master.transfer("w", data=2, strb=15, last=1)
    master.ask("aw", beats=2)
    master.transfer("b")
    assert master.port.pending() is None
    assert master.port.most_outstanding == 2


@pytest.mark.parametrize(("address", "beats", "size", "burst", "message"), [
    (0xFFC, 2, 2, 1, "burst of 2 beats from 0xffc crosses 4 KiB"),
    (0x2, 1, 2, 1, "address 0x2 is not aligned to 4 bytes"),
    (0, 1, 1, 1, "size is 2 bytes on a bus of 4"),
    (0, 1, 2, 2, "burst type is 2, not INCR"),
])
def test_illegal_bursts(address, beats, size, burst, message):
    assert burst_problem(address, beats, size, burst, 4) == message


def refused(message):
    return pytest.raises(BenchFailure, match=f"^{message}$")


def test_burst_is_checked(master):
    with refused("m_axi AR channel: burst of 3 beats from 0xffc crosses 4 KiB"):
        master.ask(address=0xFFC, beats=3)


def test_valid_dropped(master):
    master.step(arvalid=1, arsize=2, arburst=1)
    with refused("m_axi AR channel: valid was dropped before ready"):
        master.step(arvalid=0)


def test_payload_changed(master):
    master.step(wvalid=1, wdata=1)
    with refused("m_axi W channel: the payload changed before ready: data from 0{31}1 to 0{30}11"):
        master.step(wdata=3)
    assert master.port.stalls["w"] == 1


def test_unknown(master):
    with refused("m_axi AR channel: valid is x after reset"):
        master.step(arvalid="x")
    with refused("m_axi W channel: the payload is {.*'last': 'x'}"):
        master.step(arvalid=0, wvalid=1, wready=1, wlast="x")


@pytest.mark.parametrize(("last", "beats", "message"), [
    (1, 2, "m_axi R channel: last is 1 with 1 beats left"),
    (0, 1, "m_axi R channel: last is 0 with 0 beats left")])
def test_rlast(master, last, beats, message):
    master.ask(beats=beats)
    with refused(message):
        master.transfer("r", last=last)


def test_read_data_without_burst(master):
    master.ask(name=1)
    with refused("m_axi R channel: a beat for ID 2, which has no open burst"):
        master.transfer("r", id=2, last=1)


def test_wlast_missing(master):
    master.ask("aw", beats=1)
    with refused("m_axi W channel: last is 0 on beat 1 of 1"):
        master.transfer("w", last=0)


def test_wlast_early(master):
    master.transfer("w", last=1)
    with refused("m_axi W channel: last came on beat 1 of a burst of 2"):
        master.ask("aw", beats=2)


def test_response_without_burst(master):
    master.ask("aw")
    with refused("m_axi B channel: a response for ID 0, which has no finished burst"):
        master.transfer("b")


def test_no_such_port(ports):
    with pytest.raises(ValueError, match="prefix must be that of an AXI4 port, not 's_axi'"):
        AxiPort(ports, "s_axi")


def test_memory_refuses_other_arrays(ports):
    with pytest.raises(TypeError, match="data must be a one-dimensional array of uint8, not int64"):
        AxiMemory(ports, np.zeros(4, dtype=np.int64))


def play(memory, ports, requests, cycles):
    """Ask for bursts one a cycle; return the beats (cycle, ID, data, response)."""
    beats = []
    requests = list(requests)
    for cycle in range(cycles):
        for name in ("arvalid", "awvalid", "wvalid"):
            ports[f"m_axi__{name}"].value = 0
        ports["m_axi__rready"].value = 1
        memory.drive()
        if requests:
            name, address, count = requests[0]
            burst = {"id": name, "addr": address, "len": count - 1, "size": 2, "burst": 1, "valid": 1}
            for field, value in burst.items():
                ports[f"m_axi__ar{field}"].value = value
            if ports["m_axi__arready"].value == "1":
                requests.pop(0)
        if ports["m_axi__rvalid"].value == "1":
            beats.append((cycle, *(int(ports[f"m_axi__r{field}"].value, 2)
                                   for field in ("id", "data", "resp"))))
        memory.sample(cycle)
    assert not requests and memory.pending() is None
    return beats


def test_memory_latency_and_faults(ports):
    memory = AxiMemory(ports, np.arange(64, dtype=np.uint8))
    memory.latency = 5
    memory.faults = [Fault(8, 12)]
    beats = play(memory, ports, [(0, 4, 3), (1, 56, 4)], 30)
    assert [cycle for cycle, *_ in beats] == [5, 6, 7, 8, 9, 10, 11]
    assert [response for *_, response in beats] == [0, 2, 0, 0, 0, 3, 3]
    assert beats[0][2] == 0x07060504


def test_memory_mixes_ids_only(ports):
    memory = AxiMemory(ports, np.arange(64, dtype=np.uint8))
    memory.reorder = True
    beats = play(memory, ports, [(0, 0, 8), (1, 0, 8), (0, 32, 4)], 60)
    assert [name for _, name, *_ in beats] != sorted(name for _, name, *_ in beats)
    firsts = [value & 0xFF for _, name, value, _ in beats if name == 0]
    assert firsts == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44]


def test_memory_contents_are_compared(ports):
    memory = AxiMemory(ports, np.zeros(64, dtype=np.uint8))
    memory.want = memory.data.copy()
    memory.finish()
    memory.want[9] = 7
    with refused("m_axi: 1 bytes are wrong after the run, the first at 0x9: 0x00, expected 0x07"):
        memory.finish()
