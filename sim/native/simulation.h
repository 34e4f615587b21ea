// The accelerator between a host and its memory, cycle by cycle: registers are written and read, bursts are served, tokens printed.
//
// Inputs change at the falling edge of the clock, and all handshakes are taken at the rising one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "Vaccelerator.h"
#include "interface.h"
#include "memory.h"
#include "options.h"
#include "pins.h"
#include "recorders.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Waves = VerilatedFstC;
#elif VM_TRACE
#include "verilated_vcd_c.h"
using Waves = VerilatedVcdC;
#endif

constexpr uint32_t OKAY = 0, SLVERR = 2, DECERR = 3;

// What can be made to stand still (option stop_channels).
enum Channel : uint32_t { READ_ADDRESS = 1, READ_DATA = 2, WRITE_ADDRESS = 4, WRITE_DATA = 8, WRITE_RESPONSE = 16, TOKENS = 32 };

using Ports = Memory<MEMORY_PORTS, PORT_BYTES>;

class Simulation {
public:
    Simulation(const Options& options, Ports& memory)
        : options(options), memory(memory), context(new VerilatedContext), dut(new Vaccelerator(context.get())),
          pins{FOR_EACH_PORT(BIND)}, read_trace(options.read_trace), observations(options.observe), timeline(options.timeline),
          hidden_states(options.hidden_tag, options.hidden_lanes, options.hidden_elements) {
#if VM_TRACE
        if (!options.wave.empty()) {
            context->traceEverOn(true);
            trace.reset(new Waves);
            dut->trace(trace.get(), 99);
            trace->open(options.wave.c_str());
        }
#endif
    }

    ~Simulation() {
#if VM_TRACE
        if (trace) trace->close();
#endif
    }

    void reset(int cycles = 1) {
        dut->aresetn = 0;
        for (int i = 0; i < cycles; i++) tick();
        memory.clear();
        dut->aresetn = 1;
        tick();
    }

    // False if the accelerator refuses the value.
    bool write_register(uint32_t offset, uint32_t value) {
        dut->s_axi_csr_awaddr = offset; dut->s_axi_csr_awvalid = 1;
        dut->s_axi_csr_wdata = value; dut->s_axi_csr_wstrb = 15; dut->s_axi_csr_wvalid = 1;
        dut->s_axi_csr_bready = 1;
        bool address = false, data = false, response = false;
        while (!response) {
            tick();
            if (aw_taken) { address = true; }
            if (w_taken) { data = true; }
            if (b_taken) response = true;
            dut->s_axi_csr_awvalid = !address; dut->s_axi_csr_wvalid = !data;
        }
        dut->s_axi_csr_bready = 0;
        if (b_response != OKAY) std::printf("refused %u %u\n", offset, value);
        return b_response == OKAY;
    }

    uint32_t read_register(uint32_t offset) {
        dut->s_axi_csr_araddr = offset; dut->s_axi_csr_arvalid = 1; dut->s_axi_csr_rready = 1;
        bool address = false;
        for (;;) {
            tick();
            if (ar_taken) address = true;
            dut->s_axi_csr_arvalid = !address;
            if (r_taken) { dut->s_axi_csr_rready = 0; return r_data; }
        }
    }

    // Cycles, tokens, beats and digests count from here on.
    void begin_run() {
        start = cycle;
        generated = 0;
        hidden_states.clear();
        for (auto& port : memory.ports) port.read_beats = port.write_beats = 0;
        if (memory.dram) memory.dram->statistics = {};
    }

    // Cycles of the run.
    uint64_t elapsed() const { return cycle - start; }

    // Whether a token waits to be taken.
    bool token_waits() const { return dut->m_axis_tokens_tvalid; }

    // Memory gives no errors any more, and nothing stands still.
    void end_faults() {
        memory.error_end = 0;
        recovered = true;
    }

    void tick() {
        auto& d = *dut;
        d.aclk = 0;
        drive_memory();
        d.eval();
#if VM_TRACE
        if (trace) trace->dump(10 * cycle);
#endif
        if (d.aresetn) {
            aw_taken = d.s_axi_csr_awvalid && d.s_axi_csr_awready;
            w_taken = d.s_axi_csr_wvalid && d.s_axi_csr_wready;
            b_taken = d.s_axi_csr_bvalid && d.s_axi_csr_bready;
            ar_taken = d.s_axi_csr_arvalid && d.s_axi_csr_arready;
            r_taken = d.s_axi_csr_rvalid && d.s_axi_csr_rready;
            r_data = d.s_axi_csr_rdata;
            if (b_taken) b_response = d.s_axi_csr_bresp;
            take_memory();
            record();
        } else {
            std::fill(r_offered, r_offered + MEMORY_PORTS, false);
            std::fill(b_offered, b_offered + MEMORY_PORTS, false);
        }
        d.aclk = 1;
        d.eval();
#if VM_TRACE
        if (trace) trace->dump(10 * cycle + 5);
#endif
        cycle++;
    }

private:
    // Beats of whole memory words, read and written.
    std::pair<uint64_t, uint64_t> word_beats() const {
        uint64_t reads = 0, writes = 0;
        for (auto& port : memory.ports) { reads += port.read_beats; writes += port.write_beats; }
        return {reads / MEMORY_PORTS, writes / MEMORY_PORTS};
    }

    bool stopped(Channel channel) const {
        return options.stop_channels & channel && !recovered && cycle - start >= options.stop_at;
    }

    void drive_memory() {
        memory.begin_cycle(cycle);
        for (uint32_t p = 0; p < MEMORY_PORTS; p++) {
            Pins& pin = pins[p];
            auto& port = memory.ports[p];
            pin.arready = !memory.stall() && memory.takes_read(p) && !stopped(READ_ADDRESS);
            pin.awready = !memory.stall() && memory.takes_write(p) && !stopped(WRITE_ADDRESS);
            pin.wready = !memory.stall() && memory.takes_data(p) && !stopped(WRITE_DATA);
            // An offer, once made, stands until it is taken.
            r_offered[p] = r_offered[p] || (memory.read_ready(p) && !memory.stall() && !stopped(READ_DATA));
            pin.rvalid = r_offered[p];
            if (r_offered[p]) {
                const Burst& burst = port.reads.front();
                pin.rlast = burst.beat + 1 == burst.beats;
                pin.rresp = burst.error ? options.error_response : OKAY;
                std::memcpy(pin.rdata, memory.read_data(p), PORT_BYTES);
            }
            b_offered[p] = b_offered[p] || (memory.response_ready(p) && !memory.stall() && !stopped(WRITE_RESPONSE));
            pin.bvalid = b_offered[p];
            if (b_offered[p]) pin.bresp = port.writes.front().error ? options.error_response : OKAY;
#ifdef PORT_IDS
            if (r_offered[p]) pin.rid = port.reads.front().id;
            if (b_offered[p]) pin.bid = port.writes.front().id;
#endif
        }
        dut->m_axis_tokens_tready = !(options.token_stall && cycle % (options.token_stall + 1)) && !stopped(TOKENS);
    }

    void take_memory() {
        for (uint32_t p = 0; p < MEMORY_PORTS; p++) {
            Pins& pin = pins[p];
            uint32_t read_id = 0, write_id = 0;
#ifdef PORT_IDS
            read_id = pin.arid;
            write_id = pin.awid;
#endif
            if (pin.rvalid && pin.rready) {
                r_offered[p] = false;
                memory.read_taken(p);
            }
            if (pin.bvalid && pin.bready) {
                b_offered[p] = false;
                memory.response_taken(p);
            }
            Address read{read_id, pin.araddr, pin.arlen, pin.arsize, pin.arburst};
            Address write{write_id, pin.awaddr, pin.awlen, pin.awsize, pin.awburst};
            Ports::Beat beat{{}, pin.wstrb, bool(pin.wlast)};
            std::memcpy(beat.data, pin.wdata, PORT_BYTES);
            memory.watch_read(p, pin.arvalid, pin.arready, read);
            memory.watch_write(p, pin.awvalid, pin.awready, write);
            memory.watch_data(p, pin.wvalid, pin.wready, beat);
            if (pin.arvalid && pin.arready) {
                memory.accept_read(p, read);
                if (read_trace) read_trace.add(cycle - start, p, pin.araddr, (pin.arlen + 1u) * PORT_BYTES);
            }
            if (pin.awvalid && pin.awready) memory.accept_write(p, write);
            if (pin.wvalid && pin.wready) memory.accept_data(p, beat);
        }
        auto& d = *dut;
        if (d.m_axis_tokens_tvalid && d.m_axis_tokens_tready) {
            auto [read_beats, write_beats] = word_beats();
            std::printf("token %u %u %lld %llu %llu %llu", generated++, uint32_t(d.m_axis_tokens_tdata),
                        (long long)(int64_t)d.m_axis_tokens_tuser, (unsigned long long)(cycle - start),
                        (unsigned long long)read_beats, (unsigned long long)write_beats);
            if (!hidden_states.empty()) std::printf(" %u", hidden_states.take());
            std::printf("\n");
            std::fflush(stdout);
        }
    }

    void record() {
#ifdef TRACE_UNITS
        if (timeline && timeline.due(cycle, dut->trace_busy, dut->trace_tag, dut->trace_linear_tag)) {
            auto [reads, writes] = word_beats();
            timeline.add(cycle - start, reads, writes);
        }
#endif
#ifdef OBSERVE_BYTES
        if (dut->observe_valid) {
            if (hidden_states) hidden_states.add(dut->observe_tag, &dut->observe_elements);
            if (observations) observations.add(dut->observe_tag, &dut->observe_elements, OBSERVE_BYTES);
        }
#ifdef OBSERVE_SUMS
        if (observations && dut->observe_sums_valid)
            observations.add(dut->observe_sums_tag, &dut->observe_sums_elements, OBSERVE_BYTES);
#endif
#endif
    }

    const Options& options;
    Ports& memory;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vaccelerator> dut;
    Pins pins[MEMORY_PORTS];
#if VM_TRACE
    std::unique_ptr<Waves> trace;
#endif
    ReadTrace read_trace;
    Observations observations;
    TimelineFile timeline;
    HiddenStates hidden_states;
    uint64_t cycle = 0, start = 0;
    uint32_t generated = 0;
    bool recovered = false;
    bool aw_taken = false, w_taken = false, b_taken = false, ar_taken = false, r_taken = false;
    bool r_offered[MEMORY_PORTS] = {}, b_offered[MEMORY_PORTS] = {};
    uint32_t r_data = 0, b_response = 0;
};
