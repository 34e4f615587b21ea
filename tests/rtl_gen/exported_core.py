"""The exported core as a user's bench has it: cocotb and the AXI models of cocotbext-axi, nothing of llmrtl."""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiStreamBus, AxiStreamSink


@cocotb.test()
async def generates(dut):
    """Registers are set, memory is filled, tokens come out: those that were expected, by the stream and by the registers."""
    task = json.loads(Path(os.environ["TASK"]).read_text())
    offsets = task["offsets"]
    cocotb.start_soon(Clock(dut.aclk, 4, unit="ns").start())
    dut.aresetn.value = 0
    memory = AxiRam(AxiBus.from_prefix(dut, "m_axi_gmem"), dut.aclk, dut.aresetn, reset_active_level=False, size=1 << 16)
    registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_csr"), dut.aclk, dut.aresetn, reset_active_level=False)
    tokens = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_tokens"), dut.aclk, dut.aresetn, reset_active_level=False)
    await ClockCycles(dut.aclk, 4)
    dut.aresetn.value = 1
    await ClockCycles(dut.aclk, 64)

    async def read(name):
        return int.from_bytes((await registers.read(offsets[name], 4)).data, "little")

    assert await read("IDENTITY") == int.from_bytes(b"LRTL", "little")
    assert await read("CONFIG_HASH") == task["config_hash"]
    memory.write(0, Path(task["data"]).read_bytes())
    for number, token in enumerate(task["prompt"]):
        memory.write(task["prompt_address"] + number * task["word_bytes"], token.to_bytes(task["word_bytes"], "little"))
    for name, value in task["registers"].items():
        await registers.write(offsets[name], value.to_bytes(4, "little"))
    frames = []
    while len(frames) < len(task["tokens"]):
        frame = await with_timeout(tokens.recv(), 2, "ms") if not frames else await with_timeout(tokens.recv(), 1, "ms")
        frames += [int.from_bytes(bytes(frame.tdata[at:at + 4]), "little") for at in range(0, len(frame.tdata), 4)]
    assert frames == task["tokens"]
    assert await read("LAST_TOKEN") == task["tokens"][-1]
    assert await read("ERROR_CAUSE") == 0
    await RisingEdge(dut.aclk)
    assert dut.irq.value == 1
