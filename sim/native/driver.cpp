// Whole-model driver: runs the emitted accelerator on a memory image and prints tokens as they are generated.
//
// Called by sim/native/run.py, which passes every address and register offset; nothing about the design is known here but
// its port names, which build.py writes into interface.h. Options: options.h; output lines start with a keyword (token, cycles,
// port, dram, timing, statistic, register, refused, again, reset, violation, end). With the option `steps`, every line of standard
// input is a run: numbers are written to the prompt buffer, OFFSET=VALUE to registers.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "memory_files.h"
#include "options.h"
#include "simulation.h"

namespace {

constexpr uint32_t BUS_BYTES = MEMORY_PORTS * PORT_BYTES;

// Memory as the options say, with the image and the preloaded files.
std::unique_ptr<Ports> filled_memory(const Options& options) {
    std::unique_ptr<Ports> memory(new Ports);
    memory->latency = options.latency;
    memory->stall_percent = options.stall;
    memory->state = options.seed * 0x9E3779B97F4A7C15ull | 1;
    memory->error_begin = options.error_begin;
    memory->error_end = options.error_end;
    memory->clock_khz = options.clock_khz;
    for (size_t p = 0; p < options.bases.size() && p < MEMORY_PORTS; p++) memory->ports[p].base = options.bases[p];
    if (options.model == "ddr4") memory->dram.reset(new dram::Dram(dram::x16(), MEMORY_PORTS));
    else if (options.model != "ideal") { std::fprintf(stderr, "no memory model %s\n", options.model.c_str()); std::exit(2); }
    if (options.error_response != SLVERR && options.error_response != DECERR) {
        std::fprintf(stderr, "error_response must be 2 or 3, not %llu\n", (unsigned long long)options.error_response);
        std::exit(2);
    }
    map_image(*memory, options.image, options.memory);
    for (auto& [address, path] : options.preloads) preload(*memory, address, path);
    return memory;
}

// The host: starts runs, waits for their end, and prints what they came to.
class Driver {
public:
    explicit Driver(const Options& options) : options(options), memory(filled_memory(options)), simulation(options, *memory) {}

    int run() {
        simulation.reset(4);
        if (options.steps) return run_steps();
        if (!write_prompt(options.tokens)) return 3;
        go(options.writes);
        if (!options.rewrites.empty() && memory->violation.empty()) {
            print_results();
            recover();
            std::printf("again %llu\n", (unsigned long long)simulation.elapsed());
            go(options.rewrites);
        }
        print_results();
        for (auto& [address, path] : options.dumps) dump(*memory, address, path);
        if (!memory->violation.empty()) std::printf("violation %s\n", memory->violation.c_str());
        std::printf("end %llu\n", (unsigned long long)simulation.elapsed());
        return 0;
    }

private:
    bool write_prompt(const std::vector<uint32_t>& words) {
        for (size_t i = 0; i < words.size(); i++) {
            uint64_t address = options.prompt + i * BUS_BYTES;
            if (address + 4 > memory->size) { std::printf("violation the prompt does not fit in memory\n"); return false; }
            std::memcpy(memory->bytes + address, &words[i], 4);
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
            if (!memory->violation.empty()) std::printf("violation %s\n", memory->violation.c_str());
            std::printf("end %llu\n", (unsigned long long)simulation.elapsed());
            std::fflush(stdout);
        }
        return 0;
    }

    void print_results() {
        std::printf("cycles %llu\n", (unsigned long long)simulation.elapsed());
        for (uint32_t p = 0; p < MEMORY_PORTS; p++)
            std::printf("port %u %llu %llu\n", p, (unsigned long long)memory->ports[p].read_beats,
                        (unsigned long long)memory->ports[p].write_beats);
        if (memory->dram) memory->dram->report(stdout);
        for (uint32_t offset : options.reads) std::printf("register %u %u\n", offset, simulation.read_register(offset));
    }

    bool set_registers(const Writes& writes) {
        return std::all_of(writes.begin(), writes.end(),
                           [&](auto& write) { return simulation.write_register(write.first, write.second); });
    }

    // Everything outside works again: what was under way ends, and so does the run; tokens that could not leave do now.
    void recover() {
        simulation.end_faults();
        for (int polls = 0; polls < 4096 && simulation.read_register(options.status) & options.busy_mask; polls++) simulation.tick();
        drain();
    }

    // The final tokens may still wait to be taken: as many as the accelerator can hold, not for ever.
    void drain() {
        uint64_t end = simulation.elapsed() + 8 + 4 * std::min<uint64_t>(options.token_stall, 1 << 20);
        for (int idle = 0; idle < 4 && simulation.elapsed() < end;) {
            idle = simulation.token_waits() ? 0 : idle + 1;
            simulation.tick();
        }
    }

    void go(const Writes& writes) {
        bool accepted = set_registers(writes);
        simulation.begin_run();
        if (!accepted) return;
        uint64_t limit = options.limit ? options.limit : ~0ull;
        bool was_reset = false;
        while (simulation.elapsed() < limit) {
            uint64_t next = simulation.elapsed() + 256;
            if (options.reset_at && !was_reset) next = std::min(next, options.reset_at);
            while (simulation.elapsed() < next) simulation.tick();
            if (!memory->violation.empty()) break;
            if (options.reset_at && !was_reset && simulation.elapsed() >= options.reset_at) {
                was_reset = true;
                std::printf("reset %llu\n", (unsigned long long)simulation.elapsed());
                simulation.reset();
                accepted = set_registers(writes);
                simulation.begin_run();
                if (!accepted) return;
            }
            if (simulation.read_register(options.status) & options.done_mask) break;
        }
        drain();
    }

    const Options& options;
    std::unique_ptr<Ports> memory;
    Simulation simulation;
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
    return Driver(options).run();
}
