"""The accelerator: core, memory ports, register block and token output, with standard AXI port names."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi import AXI4LiteSignature, AXI4Signature, merge_channels
from .config import AcceleratorConfig
from .control.errors import OUTSIDE_STREAMS, ErrorCause
from .control.frontend_ports import settings
from .control.registers import RegisterBlock
from .control.regmap import UNIT_EVENTS, WINDOW_BITS
from .core import Core, observe_layout
from .memory.arbiter import ReadArbiter
from .memory.bursts import default_burst_beats
from .memory.reader import BurstReader
from .memory.stripe import PortStripe
from .memory.writer import BurstWriter
from .streams import StreamBuffer, connect
from .streams.route import pass_fields

__all__ = ["Accelerator"]

RESET_CYCLES = 4  # the core's; its parts take Core.RESETS more to come out of it
READ_CLIENTS = 3  # program, data, weights


class Accelerator(wiring.Component):
    """Everything that a board or an SoC connects.

    Parameters
    ----------
    config : AcceleratorConfig
    observe : bool
        Adds the outputs ``observe_*`` and ``observe_sums_*`` (``valid``, ``tag``, ``elements``): the results of operations and
        of matrices, word by word (``core.observe_layout``), to find the first one that differs from the golden model. For
        simulation only.
    trace : bool
        Adds the outputs ``trace_busy``, ``trace_starved`` and ``trace_stalled`` (a bit per unit of ``Core.UNITS``),
        ``trace_tag`` (operation under way) and ``trace_linear_tag`` (matrix in the engine): what a timeline needs. For
        simulation only.

    Members
    -------
    aclk, aresetn : In(1)
        Clock and synchronous active-low reset of everything, for one cycle or more. ``STATUS.busy`` is 1, and a start refused, in the
        first 18 cycles after it.
    m_axi_gmem_* : AXI4 master, ``bus_bits`` wide, 32-bit addresses, IDs for the readers
        Program, weights, tables, K/V cache. INCR bursts that never cross 4 KiB. With ``memory_ports`` above 1 there are
        m_axi_gmem0_*, m_axi_gmem1_* and so on instead, ``port_bits`` wide and without IDs: every memory word lies in
        slices behind all of them, from the registers ``MEMORY_BASE_<port>`` on (``memory/stripe.py``).
    s_axi_csr_* : AXI4-Lite slave, 4 KiB
        ``control/regmap.py``.
    m_axis_tokens_* : AXI4-Stream master
        One transfer per generated token: ``tdata`` token id, ``tuser`` the largest logit (signed integer units),
        ``tlast`` on the final one. With selective recompute, of a run that gives a list: one transfer per token of the list, ``tdata``
        its number among those that were compared, ``tuser`` its position; none if the list is empty.
    irq : Out(1)
        A generation is done or an error is pending.

    Errors stop the run cleanly: no new transfer begins, those under way end (write data that the stopped core no longer
    gives is zero and belongs to the position that failed), the core is reset, ``STATUS`` and ``ERROR_CAUSE`` tell; the next
    start begins afresh.

    Latency and interval: per program; see ``sim/timing`` for the cycle model.
    """

    latency = None
    interval = None

    def __init__(self, config: AcceleratorConfig, *, observe: bool = False, trace: bool = False):
        self.config, self.observe, self.trace = config, observe, trace
        self._clients = READ_CLIENTS + config.attention_modes
        self._memory = AXI4Signature(config.bus_bits, id_bits=(self._clients - 1).bit_length())
        self._gmem = {"gmem": self._memory}  # by name
        if config.memory_ports > 1:
            self._gmem = {f"gmem{number}": AXI4Signature(config.port_bits) for number in range(config.memory_ports)}
        self._csr = AXI4LiteSignature(32, address_bits=WINDOW_BITS)
        ports: dict = {"aclk": In(1), "aresetn": In(1)}
        ports |= {f"m_axi_{port}_{name}": member for port, signature in self._gmem.items()
                  for name, member in signature.members.items()}
        ports |= {f"s_axi_csr_{name}": member.flip() for name, member in self._csr.members.items()}
        ports |= {"m_axis_tokens_tdata": Out(32), "m_axis_tokens_tuser": Out(64), "m_axis_tokens_tlast": Out(1),
                  "m_axis_tokens_tvalid": Out(1), "m_axis_tokens_tready": In(1), "irq": Out(1)}
        if observe:
            word = observe_layout(config)
            for what in ("observe", "observe_sums"):
                ports |= {f"{what}_valid": Out(1), f"{what}_tag": Out(16), f"{what}_elements": Out(word["elements"].width)}
        if trace:
            ports |= {f"trace_{event}": Out(len(Core.UNITS)) for event in UNIT_EVENTS}
            ports |= {"trace_tag": Out(16), "trace_linear_tag": Out(16)}
        super().__init__(ports)

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Accelerator":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn)]

        # The core has a reset of its own, from a register: it goes to thousands of flip-flops.
        core_reset = Signal(init=1)
        m.domains.core = ClockDomain(local=True)
        m.d.comb += [ClockSignal("core").eq(self.aclk), ResetSignal("core").eq(core_reset)]
        core = Core(config)
        m.submodules.core = DomainRenamer("core")(core)
        m.submodules.registers = registers = RegisterBlock(config, Core.UNITS)
        short_burst = min(16, default_burst_beats(config.bus_bits))
        m.submodules.program_reader = program = BurstReader(config.bus_bits, burst_beats=short_burst, outstanding=2,
                                                            buffer_beats=max(32, 2 * short_burst))
        m.submodules.data_reader = reader = BurstReader.for_config(config, config.data_beats)
        m.submodules.weight_reader = weights = BurstReader.for_config(config)
        m.submodules.arbiter = arbiter = ReadArbiter(config.bus_bits, self._clients, policy="priority")
        m.submodules.writer = writer = BurstWriter.for_config(config)
        m.submodules.tokens = tokens = StreamBuffer(core.o_token.p.shape())

        # Memory port, or ports.
        port = self._memory.create(path=("gmem",))
        masters = [port]
        if config.memory_ports > 1:
            m.submodules.stripe = stripe = PortStripe(config.bus_bits, config.memory_ports, id_bits=self._memory.id_bits,
                                                      outstanding=16)  # the readers may have 2 + 8 + 8: the last two wait
            connect(m, port, stripe.s_axi)
            for number, base in enumerate(stripe.base):
                pages = getattr(registers, f"memory_base_{number}")
                m.d.comb += base[len(base) - len(pages):].eq(pages)
            masters = list(stripe.m_axi)
        for (gmem, signature), master in zip(self._gmem.items(), masters, strict=True):
            for name, member in signature.members.items():
                outside, inside = getattr(self, f"m_axi_{gmem}_{name}"), getattr(master, name)
                m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        connect(m, program.m_axi, arbiter.s_axi[0])
        connect(m, reader.m_axi, arbiter.s_axi[1])
        connect(m, weights.m_axi, arbiter.s_axi[2])
        # Weights are read ahead, but not before rows that attention waits for: a burst at a time while it has many.
        m.d.sync += weights.limit.eq(Mux(core.attends & reader.wants, reader.full, weights.outstanding))
        given = None
        if config.attention_modes:
            m.submodules.part_reader = given = BurstReader(config.bus_bits, burst_beats=short_burst, outstanding=2,
                                                           buffer_beats=max(32, 2 * short_burst))
            connect(m, given.m_axi, arbiter.s_axi[3])
        merge_channels(m, port, read=arbiter.m_axi, write=writer.m_axi)

        # Commands under way; a halted core starts no more.
        halted = Signal(init=1)
        waiting: list[Signal] = []
        # (commands, their reader, its data) of partial results, where programs split an attention
        parts = [] if given is None else [(core.o_parts, given, core.i_parts)]
        for source, sink, ended in (
                (core.o_program, program.i_command, program.o.valid & program.o.ready & program.o.p.last),
                (core.o_data, reader.i_command, reader.o.valid & reader.o.ready & reader.o.p.last),
                (core.o_weights, weights.i_command, weights.o.valid & weights.o.ready & weights.o.p.last),
                (core.o_record, writer.i_command, writer.o_done.valid & writer.o_done.ready),
                *((commands, each.i_command, each.o.valid & each.o.ready & each.o.p.last) for commands, each, _ in parts)):
            m.d.comb += [sink.payload.eq(source.payload), sink.valid.eq(source.valid & ~halted),
                         source.ready.eq(sink.ready & ~halted)]
            under_way, ended_before = Signal(8), Signal()
            m.d.sync += [ended_before.eq(ended), under_way.eq(under_way + (sink.valid & sink.ready) - ended_before)]
            waiting.append(under_way)
        for source, sink in ((program.o, core.i_program), (reader.o, core.i_data), (weights.o, core.i_weights),
                             *((each.o, sink) for _, each, sink in parts)):
            m.d.comb += [sink.payload.eq(source.payload), sink.valid.eq(source.valid & ~halted),
                         source.ready.eq(sink.ready | halted)]
        m.d.comb += [
            writer.i.p.data.eq(Mux(halted, 0, core.o_record_data.p.data)), writer.i.valid.eq(core.o_record_data.valid | halted),
            core.o_record_data.ready.eq(writer.i.ready & ~halted),
        ]
        pass_fields(m, writer.o_done, core.i_record_done)
        with m.If(halted):
            m.d.comb += writer.o_done.ready.eq(1)

        # For the watchdog: what waits at the edge, a register late to keep wires short. A reader that has commands under way and
        # no data waits for memory; so does a writer that has sent all it has.
        writes = writer.m_axi
        waits = {
            "token": tokens.o.valid & ~tokens.o.ready,
            **{name: commands.any() & ~reads.o.valid
               for name, commands, reads in zip(("program", "data", "weights"), waiting[:READ_CLIENTS], (program, reader, weights),
                                                strict=True)},
            "read_address": Cat(master.arvalid & ~master.arready for master in masters).any(),
            "write_address": Cat(master.awvalid & ~master.awready for master in masters).any(),
            "write_data": Cat(master.wvalid & ~master.wready for master in masters).any(),
            "write_response": writes.bready & ~(writes.bvalid | writes.awvalid | writes.wvalid | writer.i.ready),
        }
        for _, each, _ in parts:
            waits["data"] |= waiting[-1].any() & ~each.o.valid
        m.d.sync += registers.outside_waits.eq(Cat(waits[name] for name in OUTSIDE_STREAMS))

        # The first error halts the core; when the port is quiet the core is reset and a new run may start.
        cycles = RESET_CYCLES + Core.RESETS
        count = Signal(range(cycles + 1), init=cycles)
        quiet = Signal()
        m.d.comb += quiet.eq(~Cat(waiting).any())
        m.d.sync += core_reset.eq(count > Core.RESETS)
        cause, info = Signal(8), Signal(32)
        m.d.sync += cause.eq(0)
        with m.If(program.error | reader.error | weights.error):
            m.d.sync += [cause.eq(ErrorCause.BUS_READ_ERROR),
                         info.eq(Mux(program.error, program.error_address,
                                     Mux(reader.error, reader.error_address, weights.error_address)))]
        for _, each, _ in parts:
            with m.Elif(each.error):
                m.d.sync += [cause.eq(ErrorCause.BUS_READ_ERROR), info.eq(each.error_address)]
        with m.Elif(writer.error):
            m.d.sync += [cause.eq(ErrorCause.BUS_WRITE_ERROR), info.eq(writer.error_address)]
        with m.Elif(core.error != 0):
            m.d.sync += [cause.eq(core.error), info.eq(core.error_info)]
        with m.FSM(init="RESET"):
            with m.State("RUN"):
                m.d.comb += [registers.raise_error.eq(cause), registers.raise_info.eq(info)]
                with m.If((cause != 0) | (registers.error_pending & core.busy)):
                    m.d.sync += halted.eq(1)
                    m.next = "HALT"
            with m.State("HALT"):
                with m.If(quiet):
                    m.d.sync += count.eq(cycles)
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += [program.clear.eq(1), reader.clear.eq(1), weights.clear.eq(1), writer.clear.eq(1),
                             *(each.clear.eq(1) for _, each, _ in parts)]
                with m.If(count.any()):
                    m.d.sync += count.eq(count - 1)
                with m.Else():
                    m.d.sync += halted.eq(0)
                    m.next = "RUN"

        if self.observe:
            for what in ("observe", "observe_sums"):
                m.d.comb += [getattr(self, f"{what}_{name}").eq(getattr(core, what)[name])
                             for name in ("valid", "tag", "elements")]

        if self.trace:
            # Beside the events, which are two registers late.
            for tag, now in ((self.trace_tag, core.tag), (self.trace_linear_tag, core.observe_sums.tag)):
                before = Signal.like(tag)
                m.d.sync += [before.eq(now), tag.eq(before)]
            for event in UNIT_EVENTS:
                m.d.comb += getattr(self, f"trace_{event}").eq(Cat(unit[event] for unit in core.events))

        # What is counted comes from all over the device. A core that is about to be reset has nothing to count.
        with m.If(core_reset):
            m.d.sync += [registers.saturated.eq(0), registers.events.eq(0)]
        with m.Else():
            m.d.sync += [registers.saturated.eq(core.saturations), registers.events.eq(core.events)]

        # Registers. The operation of a failed run stays visible after the core's reset.
        with m.If(core.busy & ~halted):
            m.d.sync += registers.operation.eq(core.tag)
        m.d.comb += [
            core.start.eq(registers.start), core.reseed.eq(registers.reseed), core.seed.eq(registers.seed),
            core.greedy.eq(registers.greedy), core.top_k.eq(registers.top_k),
            core.inverse_temperature.eq(registers.inverse_temperature),
            *(getattr(core, name).eq(getattr(registers, name)) for name in settings(config)),
            registers.busy.eq(core.busy | halted), registers.done.eq(core.done & ~core_reset),
            registers.position.eq(core.position), registers.tokens_generated.eq(core.generated),
            *([registers.kv_free_blocks.eq(core.kv_free_blocks), core.kv_address.eq(registers.kv_address),
               core.kv_heads.eq(registers.kv_heads)] if config.cache == "paged" else []),
            *([core.kv_swap_address.eq(registers.kv_swap_address), core.kv_swap_stride.eq(registers.kv_swap_stride),
               *(getattr(registers, name).eq(getattr(core, name)) for name in ("kv_rows_out", "kv_rows_in", "kv_clean_blocks"))]
              if config.swap_slots else []),
            *([registers.attention_missed.eq(core.attention_missed), registers.attention_passed.eq(core.attention_passed)]
              if config.attention_modes else []),
            *([registers.deviation_saturated.eq(core.deviation_saturated)] if config.selective_recompute else []),
            *([registers.means_saturated.eq(core.means_saturated)] if config.block_retrieval else []),
            registers.progress.eq(core.progress),
            registers.read_beats.eq(port.rvalid & port.rready), registers.write_beats.eq(port.wvalid & port.wready),
            registers.read_stall.eq(port.rvalid & ~port.rready),
            registers.read_idle.eq(~port.rvalid & Cat(waiting[:READ_CLIENTS]).any()),
            self.irq.eq(registers.irq),
        ]
        for name, member in self._csr.members.items():
            outside, inside = getattr(self, f"s_axi_csr_{name}"), getattr(registers.s_axi_csr, name)
            m.d.comb += inside.eq(outside) if member.flow is Out else outside.eq(inside)

        # Tokens; those that were generated leave even if an error follows. A core that is about to be reset says nothing.
        m.d.comb += [tokens.i.payload.eq(core.o_token.payload), tokens.i.valid.eq(core.o_token.valid & ~core_reset),
                     core.o_token.ready.eq(tokens.i.ready)]
        with m.If(tokens.i.valid & tokens.i.ready):
            m.d.sync += [registers.last_token.eq(tokens.i.p.token), registers.last_value.eq(tokens.i.p.value)]
        m.d.comb += [
            self.m_axis_tokens_tdata.eq(tokens.o.p.token), self.m_axis_tokens_tuser.eq(tokens.o.p.value),
            self.m_axis_tokens_tlast.eq(tokens.o.p.last), self.m_axis_tokens_tvalid.eq(tokens.o.valid),
            tokens.o.ready.eq(self.m_axis_tokens_tready),
        ]
        return m
