// Whole-model driver: runs the emitted accelerator on a memory image and prints tokens as they are generated.
//
// Called by sim/native/run.py, which passes every address and register offset; nothing about the design is known here but
// its port names, which build.py writes into interface.h. Options: options.h; output lines start with a keyword (token, cycles,
// port, dram, timing, statistic, register, refused, again, reset, violation, end). With the option `steps`, every line of standard
// input is a run: numbers are written to the prompt buffer, OFFSET=VALUE to registers.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "Vaccelerator.h"
#include "interface.h"
#include "memory.h"
#include "options.h"
#include "recorders.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Waves = VerilatedFstC;
#elif VM_TRACE
#include "verilated_vcd_c.h"
using Waves = VerilatedVcdC;
#endif

namespace {

constexpr uint32_t BUS_BYTES = MEMORY_PORTS * PORT_BYTES;
constexpr uint32_t OKAY = 0, SLVERR = 2, DECERR = 3;

// What can be made to stand still (option stop_channels).
enum Channel : uint32_t { READ_ADDRESS = 1, READ_DATA = 2, WRITE_ADDRESS = 4, WRITE_DATA = 8, WRITE_RESPONSE = 16, TOKENS = 32 };

// One AXI4 port of the accelerator. Data of any width is bytes, lowest first.
struct Pins {
    CData &arvalid, &arready, &rvalid, &rready, &rlast, &rresp, &awvalid, &awready, &wvalid, &wready, &wlast, &bvalid, &bready,
        &bresp;
    IData &araddr, &awaddr;
    CData &arlen, &arsize, &arburst, &awlen, &awsize, &awburst;
    void* rdata;
    const void* wdata;
    const Strobe& wstrb;
#ifdef PORT_IDS
    CData &arid, &rid, &awid, &bid;
#endif
};

#ifdef PORT_IDS
#define BIND_IDS(port) dut->port##_arid, dut->port##_rid, dut->port##_awid, dut->port##_bid,
#else
#define BIND_IDS(port)
#endif
#define BIND(port) Pins{                                                                                                  \
    dut->port##_arvalid, dut->port##_arready, dut->port##_rvalid, dut->port##_rready, dut->port##_rlast, dut->port##_rresp, \
    dut->port##_awvalid, dut->port##_awready, dut->port##_wvalid, dut->port##_wready, dut->port##_wlast,                    \
    dut->port##_bvalid, dut->port##_bready, dut->port##_bresp, dut->port##_araddr, dut->port##_awaddr,                      \
    dut->port##_arlen, dut->port##_arsize, dut->port##_arburst, dut->port##_awlen, dut->port##_awsize,                      \
    dut->port##_awburst, &dut->port##_rdata, &dut->port##_wdata, dut->port##_wstrb, BIND_IDS(port)},

class Simulation {
public:
    explicit Simulation(const Options& options)
        : options(options), memory_owner(new Ports), memory(*memory_owner), context(new VerilatedContext),
          dut(new Vaccelerator(context.get())), pins{FOR_EACH_PORT(BIND)}, read_trace(options.read_trace),
          observations(options.observe), timeline(options.timeline),
          hidden_states(options.hidden_tag, options.hidden_lanes, options.hidden_elements) {
        memory.latency = options.latency;
        memory.stall_percent = options.stall;
        memory.state = options.seed * 0x9E3779B97F4A7C15ull | 1;
        memory.error_begin = options.error_begin;
        memory.error_end = options.error_end;
        memory.clock_khz = options.clock_khz;
        for (size_t p = 0; p < options.bases.size() && p < MEMORY_PORTS; p++) memory.ports[p].base = options.bases[p];
        if (options.model == "ddr4") memory.dram.reset(new dram::Dram(dram::x16(), MEMORY_PORTS));
        else if (options.model != "ideal") { std::fprintf(stderr, "no memory model %s\n", options.model.c_str()); std::exit(2); }
        if (options.error_response != SLVERR && options.error_response != DECERR) {
            std::fprintf(stderr, "error_response must be 2 or 3, not %llu\n", (unsigned long long)options.error_response);
            std::exit(2);
        }
        map_image();
        for (auto& [address, path] : options.preloads) preload(address, path);
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

    int run() {
        reset(4);
        if (options.steps) return run_steps();
        if (!write_prompt(options.tokens)) return 3;
        go(options.writes);
        if (!options.rewrites.empty() && memory.violation.empty()) {
            print_results();
            recover();
            std::printf("again %llu\n", (unsigned long long)(cycle - start));
            go(options.rewrites);
        }
        print_results();
        for (auto& [address, path] : options.dumps) dump(address, path);
        if (!memory.violation.empty()) std::printf("violation %s\n", memory.violation.c_str());
        std::printf("end %llu\n", (unsigned long long)(cycle - start));
        return 0;
    }

private:
    using Ports = Memory<MEMORY_PORTS, PORT_BYTES>;

    bool write_prompt(const std::vector<uint32_t>& words) {
        for (size_t i = 0; i < words.size(); i++) {
            uint64_t address = options.prompt + i * BUS_BYTES;
            if (address + 4 > memory.size) { std::printf("violation the prompt does not fit in memory\n"); return false; }
            std::memcpy(memory.bytes + address, &words[i], 4);
        }
        return true;
    }

    int run_steps() {
        set_registers(options.writes);
        for (std::string line, item; std::getline(std::cin, line);) {
            std::vector<uint32_t> words;
            Writes writes;
            for (std::istringstream items(line); items >> item;) {
                size_t equals = item.find('=');
                if (equals == std::string::npos) words.push_back(std::strtoul(item.c_str(), nullptr, 0));
                else writes.emplace_back(std::strtoul(item.c_str(), nullptr, 0), std::strtoul(item.c_str() + equals + 1, nullptr, 0));
            }
            if (!write_prompt(words)) return 3;
            go(writes);
            print_results();
            if (!memory.violation.empty()) std::printf("violation %s\n", memory.violation.c_str());
            std::printf("end %llu\n", (unsigned long long)(cycle - start));
            std::fflush(stdout);
        }
        return 0;
    }

    void print_results() {
        std::printf("cycles %llu\n", (unsigned long long)(cycle - start));
        for (uint32_t p = 0; p < MEMORY_PORTS; p++)
            std::printf("port %u %llu %llu\n", p, (unsigned long long)memory.ports[p].read_beats,
                        (unsigned long long)memory.ports[p].write_beats);
        if (memory.dram) memory.dram->report(stdout);
        for (uint32_t offset : options.reads) std::printf("register %u %u\n", offset, read_register(offset));
    }

    void begin_run() {
        start = cycle;
        generated = 0;
        hidden_states.clear();
        for (auto& port : memory.ports) port.read_beats = port.write_beats = 0;
        if (memory.dram) memory.dram->statistics = {};
    }

    // Beats of whole memory words, read and written.
    std::pair<uint64_t, uint64_t> word_beats() const {
        uint64_t reads = 0, writes = 0;
        for (auto& port : memory.ports) { reads += port.read_beats; writes += port.write_beats; }
        return {reads / MEMORY_PORTS, writes / MEMORY_PORTS};
    }

    bool set_registers(const Writes& writes) {
        return std::all_of(writes.begin(), writes.end(), [&](auto& write) { return write_register(write.first, write.second); });
    }

    // Everything outside works again: what was under way ends, and so does the run; tokens that could not leave do now.
    void recover() {
        memory.error_end = 0;
        recovered = true;
        for (int polls = 0; polls < 4096 && read_register(options.status) & options.busy_mask; polls++) tick();
        drain();
    }

    // The final tokens may still wait to be taken: as many as the accelerator can hold, not for ever.
    void drain() {
        uint64_t end = cycle + 8 + 4 * std::min<uint64_t>(options.token_stall, 1 << 20);
        for (int idle = 0; idle < 4 && cycle < end;) {
            idle = dut->m_axis_tokens_tvalid ? 0 : idle + 1;
            tick();
        }
    }

    void go(const Writes& writes) {
        bool accepted = set_registers(writes);
        begin_run();
        if (!accepted) return;
        uint64_t limit = options.limit ? options.limit : ~0ull;
        bool was_reset = false;
        while (cycle - start < limit) {
            uint64_t next = cycle + 256;
            if (options.reset_at && !was_reset) next = std::min(next, start + options.reset_at);
            while (cycle < next) tick();
            if (!memory.violation.empty()) break;
            if (options.reset_at && !was_reset && cycle - start >= options.reset_at) {
                was_reset = true;
                std::printf("reset %llu\n", (unsigned long long)(cycle - start));
                reset();
                accepted = set_registers(writes);
                begin_run();
                if (!accepted) return;
            }
            if (read_register(options.status) & options.done_mask) break;
        }
        drain();
    }

    bool stopped(Channel channel) const {
        return options.stop_channels & channel && !recovered && cycle - start >= options.stop_at;
    }

    const Options& options;
    std::unique_ptr<Ports> memory_owner;
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

    void preload(uint64_t address, const std::string& path) {
        std::FILE* file = std::fopen(path.c_str(), "rb");
        if (!file || std::fseek(file, 0, SEEK_END)) { std::perror(path.c_str()); std::exit(2); }
        uint64_t length = std::ftell(file);
        std::rewind(file);
        if (address > memory.size || length > memory.size - address) {
            std::fprintf(stderr, "%s does not fit in memory\n", path.c_str());
            std::exit(2);
        }
        if (std::fread(memory.bytes + address, 1, length, file) != length) { std::perror(path.c_str()); std::exit(2); }
        std::fclose(file);
    }

    void dump(uint64_t address, const std::string& path) {
        std::FILE* file = std::fopen(path.c_str(), "wb");
        if (address > memory.size) { std::fprintf(stderr, "%s would begin beyond memory\n", path.c_str()); std::exit(2); }
        uint64_t length = memory.size - address;
        if (!file || std::fwrite(memory.bytes + address, 1, length, file) != length || std::fclose(file)) {
            std::perror(path.c_str());
            std::exit(2);
        }
    }

    void map_image() {
        int file = open(options.image.c_str(), O_RDONLY);
        struct stat info;
        if (file < 0 || fstat(file, &info)) { std::perror(options.image.c_str()); std::exit(2); }
        uint64_t page = 4096, file_bytes = (info.st_size + page - 1) / page * page;
        memory.size = options.memory;
        uint64_t total = std::max<uint64_t>((options.memory + page - 1) / page * page, file_bytes);
        void* base = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED
            || mmap(base, info.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED) {
            std::perror("mmap"); std::exit(2);
        }
        close(file);
        memory.bytes = static_cast<uint8_t*>(base);
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
};

// Options that need outputs of `Accelerator(observe=True)` or `trace=True`, or a driver with waves.
void refuse_what_is_not_built(const Options& options) {
    const char* missing = nullptr;
#ifndef OBSERVE_BYTES
    if (!options.observe.empty() || options.hidden_elements) missing = "observe";
#endif
#ifndef TRACE_UNITS
    if (!options.timeline.empty()) missing = "trace";
#endif
#if !VM_TRACE
    if (!options.wave.empty()) missing = "waves";
#endif
    if (missing) { std::fprintf(stderr, "the accelerator was built without %s\n", missing); std::exit(2); }
}

}  // namespace

int main(int argc, char** argv) {
    Options options(argc, argv);
    refuse_what_is_not_built(options);
    return Simulation(options).run();
}
