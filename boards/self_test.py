"""A ternary engine that tests itself and says so on a serial line: for boards without memory for a model."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..accelerators.integers import ceil_div
from ..accelerators.link import UartReceiver, UartTransmitter
from ..accelerators.presets import preset
from ..accelerators.ternary.engine import TernaryEngine
from ..accelerators.ternary.feeder import activation_word
from ..rtl_gen.emit import Emitted, emit
from ..sim.golden import ternary as golden
from .board import Board, Pin

__all__ = ["COLUMNS", "CONFIG", "ROWS", "SelfTest", "SelfTestTop", "emitted_top", "report", "used_pins"]

CONFIG = replace(preset("tiny"), name="self_test", token_lanes=1, tables=7, max_vector=48, max_block_rows=16, vector_memory=64)
"""21 ternary multiply-accumulates per cycle."""

ROWS, COLUMNS = 16, 44  # the last K tile is not full
START_CYCLES = 64


def report(right: bool) -> bytes:
    """What comes over the line."""
    return f"ternary {ROWS}x{COLUMNS} {'ok' if right else 'WRONG'}\r\n".encode()


class Rom(wiring.Component):
    """Gives the words of a table one after another, every other cycle.

    Members
    -------
    restart : In(1)
        Begin again.
    o : Out(stream of width bits)
    busy : Out(1)
        There is a word that has not left.
    """

    def __init__(self, width: int, words: Sequence[int]):
        self.width, self.words = width, list(words)
        super().__init__({"restart": In(1), "o": Out(stream.Signature(width)), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=self.width, depth=len(self.words), init=self.words)
        read = table.read_port()
        index, fetched = Signal(range(len(self.words) + 1), init=len(self.words)), Signal()
        m.d.comb += [self.busy.eq(index != len(self.words)), read.addr.eq(index), self.o.p.eq(read.data), self.o.valid.eq(fetched)]
        m.d.sync += fetched.eq(self.busy)
        with m.If(fetched):
            m.d.sync += fetched.eq(~self.o.ready)
            with m.If(self.o.ready):
                m.d.sync += index.eq(index + 1)
        with m.If(self.restart):
            m.d.sync += [index.eq(0), fetched.eq(0)]
        return m


class SelfTest(wiring.Component):
    """Multiplies a matrix of random trits with a random vector, both in tables on the chip, compares every sum with the golden model's
    (at build time), and sends ``report``; after reset, and again for each byte that comes.

    Parameters
    ----------
    clock_hz, baud : int
        Of the clock and of the serial line.
    seed : int
        Of matrix and vector.
    broken : bool
        Expect a wrong sum: to see that one is found.

    Members
    -------
    aclk : In(1)
        Clock. There is no reset: the test begins 64 cycles after configuration.
    rx : In(1), tx : Out(1)
        Serial line.
    right, wrong : Out(1)
        Result of the last test; both are low while it runs.
    """

    def __init__(self, clock_hz: int, baud: int, *, seed: int = 1, broken: bool = False):
        self.clock_hz, self.baud = clock_hz, baud
        rng = np.random.default_rng(seed)
        trits, q = rng.integers(-1, 2, (ROWS, COLUMNS)), rng.integers(-127, 128, COLUMNS)
        self._weights = golden.lane_words(trits, CONFIG)
        self._sums = [int(value) for value in golden.matvec(trits, q)]
        if broken:
            self._sums[random.Random(seed).randrange(ROWS)] += 1
        lanes = CONFIG.vector_lanes
        values = np.pad(q, (0, -COLUMNS % lanes)).reshape(-1, lanes)
        word = activation_word(CONFIG)
        self._activations = [
            word.const({"token": 0, "q": [int(value) for value in row], "last": number == len(values) - 1}).as_bits()
            for number, row in enumerate(values)]
        super().__init__({"aclk": In(1), "rx": In(1), "tx": Out(1), "right": Out(1), "wrong": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.domains.start = ClockDomain(local=True, reset_less=True)
        m.d.comb += [ClockSignal().eq(self.aclk), ClockSignal("start").eq(self.aclk)]
        count, running = Signal(range(START_CYCLES)), Signal()
        m.d.start += [count.eq(count + ~running), running.eq(running | (count == START_CYCLES - 1))]
        m.d.comb += ResetSignal().eq(~running)

        engine = TernaryEngine(CONFIG)
        m.submodules.engine = engine
        m.submodules.uart_rx = uart_rx = UartReceiver(self.clock_hz, self.baud)
        m.submodules.uart_tx = uart_tx = UartTransmitter(self.clock_hz, self.baud)
        m.d.comb += [uart_rx.rx.eq(self.rx), self.tx.eq(uart_tx.tx)]
        bits = CONFIG.sum_bits
        tables = {
            "activations": Rom(len(Value.cast(engine.i_activations.p)), self._activations),
            "weights": Rom(CONFIG.lane_bits, self._weights),
            "sums": Rom(bits, [value & (1 << bits) - 1 for value in self._sums]),
            **{f"text_{int(right)}": Rom(8, report(right)) for right in (True, False)}}
        for name, table in tables.items():
            m.submodules[name] = table
        for name, port in (("activations", engine.i_activations), ("weights", engine.i_weights)):
            m.d.comb += [Value.cast(port.p).eq(tables[name].o.p), port.valid.eq(tables[name].o.valid),
                         tables[name].o.ready.eq(port.ready)]
        command = engine.i_command
        m.d.comb += [command.p.tiles.eq(ceil_div(COLUMNS, CONFIG.tile_activations)), command.p.rows.eq(ROWS),
                     command.p.block_rows.eq(CONFIG.max_block_rows), command.p.tokens.eq(1)]

        # The sums one after another, each when the one that must come is there.
        expected, got = tables["sums"].o, engine.o_sums
        differs = Signal()
        m.d.comb += [expected.ready.eq(got.valid), got.ready.eq(expected.valid)]
        both = got.valid & expected.valid
        with m.If(both & (got.p.sums[0].as_unsigned() != expected.p)):
            m.d.sync += differs.eq(1)

        texts = tables["text_1"].o, tables["text_0"].o
        with m.FSM():
            with m.State("BEGIN"):
                m.d.comb += [tables[name].restart.eq(1) for name in ("activations", "weights", "sums")]
                m.d.sync += [differs.eq(0), self.right.eq(0), self.wrong.eq(0)]
                m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += command.valid.eq(1)
                with m.If(command.ready):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(both & got.p.last):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += [tables["text_1"].restart.eq(1), tables["text_0"].restart.eq(1)]
                m.d.sync += [self.right.eq(~differs), self.wrong.eq(differs)]
                m.next = "READY"
            with m.State("READY"):  # also while the report is sent
                m.d.comb += uart_rx.o.ready.eq(1)
                with m.If(uart_rx.o.valid & ~Cat(tables[name].busy for name in ("text_0", "text_1")).any()):
                    m.next = "BEGIN"
        for text, chosen in zip(texts, (self.right, self.wrong), strict=True):
            with m.If(chosen):
                m.d.comb += [uart_tx.i.p.byte.eq(text.p), uart_tx.i.valid.eq(text.valid), text.ready.eq(uart_tx.i.ready)]
            with m.Else():
                m.d.comb += text.ready.eq(1)
        return m


class SelfTestTop(wiring.Component):
    """``SelfTest`` on a board's clock.

    Members
    -------
    aclk, rx : In(1), tx : Out(1)
    leds : Out(2)
        Right, wrong; as the board's lights want them.
    """

    def __init__(self, target: Board):
        self.target = target
        super().__init__({"aclk": In(1), "rx": In(1), "tx": Out(1), "leds": Out(2)})

    def elaborate(self, platform):
        m = Module()
        target = self.target
        m.submodules.test = test = SelfTest(round(1e6 * target.input_mhz), target.baud)
        inverted = sum(used_pins(target)[f"leds[{number}]"].inverted << number for number in range(2))
        m.d.comb += [test.aclk.eq(self.aclk), test.rx.eq(self.rx), self.tx.eq(test.tx),
                     self.leds.eq(Cat(test.right, test.wrong) ^ inverted)]
        return m


def emitted_top(target: Board) -> Emitted:
    return emit(SelfTestTop(target), target.name.replace("-", "_"), None)


def used_pins(target: Board) -> dict[str, Pin]:
    """Pin of each bit of the ports of ``SelfTestTop``."""
    lights = [pin for name in target.lights for pin in target.pins(name)]
    names = {"aclk": target.platform.default_clk, "rx": "uart.rx", "tx": "uart.tx"}
    return {port: target.pins(name)[0] for port, name in names.items()} | {f"leds[{number}]": lights[number] for number in range(2)}
