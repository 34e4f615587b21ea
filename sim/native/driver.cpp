// Whole-model driver: runs the emitted accelerator on a memory image and prints tokens as they are generated.
//
// Called by sim/native/run.py, which passes every address and register offset; nothing about the design is known here but
// its port names. Options are NAME VALUE pairs; output lines start with a keyword (token, register, end, violation).

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "Vaccelerator.h"
#include "memory.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

namespace {

struct Options {
    std::string image, wave, observe;
    uint64_t memory = 0, latency = 20, stall = 0, seed = 1, limit = 0, prompt = 0, token_stall = 0, reset_at = 0;
    uint64_t error_begin = 1, error_end = 0;
    std::vector<std::pair<uint32_t, uint32_t>> writes;   // registers, in order
    std::vector<std::pair<uint32_t, uint32_t>> rewrites;  // after an error, before a second run
    std::vector<uint32_t> reads, tokens;
    uint32_t status = 0, done_mask = 0, poll = 0;
};

class Simulation {
public:
    explicit Simulation(const Options& options) : options(options) {
        memory.bus_bytes = BUS_BYTES;
        memory.latency = options.latency;
        memory.stall_percent = options.stall;
        memory.state = options.seed * 0x9E3779B97F4A7C15ull | 1;
        memory.error_begin = options.error_begin;
        memory.error_end = options.error_end;
        map_image();
        context.reset(new VerilatedContext);
        dut.reset(new Vaccelerator(context.get()));
#if VM_TRACE
        if (!options.wave.empty()) {
            context->traceEverOn(true);
            trace.reset(new VerilatedFstC);
            dut->trace(trace.get(), 99);
            trace->open(options.wave.c_str());
        }
#endif
#ifdef OBSERVE_BYTES
        if (!options.observe.empty() && !(observed = std::fopen(options.observe.c_str(), "wb"))) {
            std::perror(options.observe.c_str()); std::exit(2);
        }
#endif
    }

    ~Simulation() {
        if (observed) std::fclose(observed);
#if VM_TRACE
        if (trace) trace->close();
#endif
    }

    void reset() {
        dut->aresetn = 0;
        for (int i = 0; i < 4; i++) tick();
        memory.reads.clear();
        memory.writes.clear();
        dut->aresetn = 1;
        tick();
    }

    void write_register(uint32_t offset, uint32_t value) {
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
        reset();
        for (size_t i = 0; i < options.tokens.size(); i++) {
            uint64_t address = options.prompt + i * BUS_BYTES;
            if (address + 4 > memory.size) { std::printf("violation the prompt does not fit in memory\n"); return 3; }
            std::memcpy(memory.bytes + address, &options.tokens[i], 4);
        }
        go(options.writes);
        if (!options.rewrites.empty() && memory.violation.empty()) {
            print_registers();
            std::printf("again %llu\n", (unsigned long long)(cycle - start));
            memory.error_end = 0;
            generated = 0;
            go(options.rewrites);
        }
        print_registers();
        if (!memory.violation.empty()) std::printf("violation %s\n", memory.violation.c_str());
        std::printf("end %llu\n", (unsigned long long)(cycle - start));
        return 0;
    }

private:
    using Writes = std::vector<std::pair<uint32_t, uint32_t>>;

    void print_registers() {
        for (uint32_t offset : options.reads) std::printf("register %u %u\n", offset, read_register(offset));
    }

    void go(const Writes& writes) {
        for (auto& [offset, value] : writes) write_register(offset, value);
        start = cycle;
        read_beats = write_beats = 0;
        uint64_t limit = options.limit ? options.limit : ~0ull;
        bool was_reset = false;
        while (cycle - start < limit) {
            for (int i = 0; i < 256; i++) tick();
            if (!memory.violation.empty()) break;
            if (options.reset_at && !was_reset && cycle - start > options.reset_at) {
                was_reset = true;
                std::printf("reset %llu\n", (unsigned long long)(cycle - start));
                reset();
                for (auto& [offset, value] : writes) write_register(offset, value);
                start = cycle;
                read_beats = write_beats = generated = 0;
            }
            if (read_register(options.status) & options.done_mask) break;
        }
    }

    const Options& options;
    Memory memory;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vaccelerator> dut;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> trace;
#endif
    std::FILE* observed = nullptr;
    uint64_t cycle = 0, start = 0, read_beats = 0, write_beats = 0;
    uint32_t generated = 0;
    bool aw_taken = false, w_taken = false, b_taken = false, ar_taken = false, r_taken = false;
    bool r_offered = false, b_offered = false;
    uint32_t r_data = 0;

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
        auto& d = *dut;
        d.m_axi_gmem_arready = !memory.stall() && memory.reads.size() < 64;
        d.m_axi_gmem_awready = !memory.stall();
        d.m_axi_gmem_wready = !memory.stall();
        // An offer, once made, stands until it is taken.
        r_offered = r_offered || (memory.read_ready(cycle) && !memory.stall());
        d.m_axi_gmem_rvalid = r_offered;
        if (r_offered) {
            Burst& burst = memory.reads.front();
            d.m_axi_gmem_rid = burst.id;
            d.m_axi_gmem_rlast = burst.beat + 1 == burst.beats;
            d.m_axi_gmem_rresp = burst.error ? 2 : 0;
            std::memcpy(&d.m_axi_gmem_rdata, burst.bytes.data() + uint64_t(burst.beat) * BUS_BYTES, BUS_BYTES);
        }
        b_offered = b_offered || (memory.response_ready(cycle) && !memory.stall());
        d.m_axi_gmem_bvalid = b_offered;
        if (b_offered) {
            d.m_axi_gmem_bid = memory.writes.front().id;
            d.m_axi_gmem_bresp = memory.writes.front().error ? 2 : 0;
        }
        d.m_axis_tokens_tready = !(options.token_stall && cycle % (options.token_stall + 1));
    }

    void take_memory() {
        auto& d = *dut;
        if (d.m_axi_gmem_rvalid && d.m_axi_gmem_rready) {
            read_beats++;
            r_offered = false;
            if (++memory.reads.front().beat == memory.reads.front().beats) memory.reads.pop_front();
        }
        if (d.m_axi_gmem_bvalid && d.m_axi_gmem_bready) { b_offered = false; memory.commit(); }
        if (d.m_axi_gmem_arvalid && d.m_axi_gmem_arready)
            memory.accept_read(cycle, d.m_axi_gmem_arid, d.m_axi_gmem_araddr, d.m_axi_gmem_arlen, d.m_axi_gmem_arsize,
                               d.m_axi_gmem_arburst);
        if (d.m_axi_gmem_awvalid && d.m_axi_gmem_awready)
            memory.accept_write(cycle, d.m_axi_gmem_awid, d.m_axi_gmem_awaddr, d.m_axi_gmem_awlen, d.m_axi_gmem_awsize,
                                d.m_axi_gmem_awburst);
        if (d.m_axi_gmem_wvalid && d.m_axi_gmem_wready) {
            write_beats++;
            uint8_t beat[BUS_BYTES];
            std::memcpy(beat, &d.m_axi_gmem_wdata, BUS_BYTES);
            memory.accept_data(cycle, beat, d.m_axi_gmem_wstrb, d.m_axi_gmem_wlast);
        }
        memory.settle(cycle);
        if (d.m_axis_tokens_tvalid && d.m_axis_tokens_tready) {
            std::printf("token %u %u %lld %llu %llu %llu\n", generated++, uint32_t(d.m_axis_tokens_tdata),
                        (long long)(int64_t)d.m_axis_tokens_tuser, (unsigned long long)(cycle - start),
                        (unsigned long long)read_beats, (unsigned long long)write_beats);
            std::fflush(stdout);
        }
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
            take_memory();
#ifdef OBSERVE_BYTES
            if (observed && d.observe_valid) {  // tag, then the elements
                uint32_t tag = d.observe_tag;
                std::fwrite(&tag, 4, 1, observed);
                std::fwrite(&d.observe_elements, OBSERVE_BYTES, 1, observed);
            }
#endif
        } else {
            r_offered = b_offered = false;
        }
        d.aclk = 1;
        d.eval();
#if VM_TRACE
        if (trace) trace->dump(10 * cycle + 5);
#endif
        cycle++;
    }
};

uint64_t number(const char* text) { return std::strtoull(text, nullptr, 0); }

}  // namespace

int main(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string name = argv[i];
        const char* value = argv[i + 1];
        if (name == "image") options.image = value;
        else if (name == "wave") options.wave = value;
        else if (name == "observe") options.observe = value;
        else if (name == "memory") options.memory = number(value);
        else if (name == "latency") options.latency = number(value);
        else if (name == "stall") options.stall = number(value);
        else if (name == "token_stall") options.token_stall = number(value);
        else if (name == "seed") options.seed = number(value);
        else if (name == "limit") options.limit = number(value);
        else if (name == "reset_at") options.reset_at = number(value);
        else if (name == "error_begin") options.error_begin = number(value);
        else if (name == "error_end") options.error_end = number(value);
        else if (name == "prompt") options.prompt = number(value);
        else if (name == "status") options.status = number(value);
        else if (name == "done_mask") options.done_mask = number(value);
        else if (name == "read") options.reads.push_back(number(value));
        else if (name == "token") options.tokens.push_back(number(value));
        else if (name == "write" || name == "rewrite") {
            const char* equals = std::strchr(value, '=');
            if (!equals) { std::fprintf(stderr, "%s needs OFFSET=VALUE, not %s\n", name.c_str(), value); return 2; }
            (name == "write" ? options.writes : options.rewrites).emplace_back(number(value), number(equals + 1));
        } else { std::fprintf(stderr, "no option %s\n", argv[i]); return 2; }
    }
    return Simulation(options).run();
}
