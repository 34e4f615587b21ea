// Drives the memory of memory.h with the DDR4 model behind it, without an accelerator; called by sim/native/dram.py.
//
// dram_bench PATTERN STREAMS BURST_BYTES CYCLES CLOCK_KHZ WRITE_PERCENT SPREAD DEVICE [COMMANDS]
//
// Every port asks for its next burst as soon as one is accepted, takes a beat per cycle when there is one, and offers a beat of
// write data per cycle. The data read is compared with what must be there: every 4 bytes hold their own linear address.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"

namespace {

constexpr uint32_t PORTS = 4, PORT_BYTES = 16;
constexpr uint32_t REGION = 16 << 20;  // bytes of a port
constexpr uint32_t BANK_STRIDE = 16 << 10, BUS_BYTES = PORTS * PORT_BYTES;
using Ports = Memory<PORTS, PORT_BYTES>;

struct Random {
    uint64_t state;
    uint32_t operator()(uint32_t limit) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        return state % limit;
    }
};

struct Master {
    Random random;
    uint64_t next = 0;
    uint32_t write_beats_due = 0, write_beat = 0, write_offset = 0;
    std::vector<uint32_t> offsets;  // of the reads under way
    size_t oldest = 0;
    uint32_t beat = 0;
};

// Four bytes of the linear memory; the same after a write, so that order does not matter here.
uint32_t expected(uint64_t linear) { return uint32_t(linear) * 2654435761u; }

int run(char** arguments, const char* commands) {
    std::string pattern = arguments[0], device = arguments[7];
    uint32_t streams = std::atoi(arguments[1]), burst_bytes = std::atoi(arguments[2]), write_percent = std::atoi(arguments[5]);
    uint64_t cycles = std::atoll(arguments[3]);
    bool spread = std::atoi(arguments[6]);
    uint32_t places = pattern == "hot" ? 16 : REGION / burst_bytes;  // of a burst
    std::vector<uint32_t> bytes(uint64_t(PORTS) * REGION / 4);
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = expected(4 * i);
    auto memory = std::make_unique<Ports>();
    memory->bytes = reinterpret_cast<uint8_t*>(bytes.data());
    memory->size = 4 * bytes.size();
    memory->clock_khz = std::atoll(arguments[4]);
    memory->dram = std::make_unique<dram::Dram>(device == "ddr4-x8" ? dram::x8() : dram::x16(), PORTS);
    if (commands && !(memory->dram->log = std::fopen(commands, "w"))) { std::perror(commands); return 2; }
    std::vector<Master> masters(streams);
    for (uint32_t p = 0; p < streams; p++) {
        masters[p].random.state = 0x9E3779B97F4A7C15ull * (p + 1) | 1;
        memory->ports[p].base = p * (REGION + BANK_STRIDE * (spread ? 1 : 4));
    }
    uint32_t beats = burst_bytes / PORT_BYTES;
    uint32_t size_log2 = 0;
    while (1u << size_log2 < PORT_BYTES) size_log2++;
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        memory->begin_cycle(cycle);
        for (uint32_t p = 0; p < streams; p++) {
            Master& master = masters[p];
            auto linear = [&](uint32_t offset) { return uint64_t(offset) / PORT_BYTES * BUS_BYTES + p * PORT_BYTES; };
            if (memory->read_ready(p)) {
                uint32_t want = expected(linear(master.offsets[master.oldest] + master.beat * PORT_BYTES));
                if (std::memcmp(memory->read_data(p), &want, 4)) { std::fprintf(stderr, "wrong data\n"); return 1; }
                memory->read_taken(p);
                if (++master.beat == beats) { master.beat = 0; master.oldest++; }
            }
            if (memory->response_ready(p)) memory->response_taken(p);
            if (master.write_beats_due && memory->takes_data(p)) {
                Ports::Beat beat{{}, Ports::ALL_STROBES, master.write_beat + 1 == beats};
                std::memcpy(beat.data, memory->bytes + linear(master.write_offset + master.write_beat++ * PORT_BYTES), PORT_BYTES);
                memory->accept_data(p, beat);
                master.write_beats_due--;
            }
            bool write = master.next * write_percent / 100 != (master.next + 1) * write_percent / 100;
            uint32_t offset = (pattern == "sequential" ? uint32_t(master.next % places) : master.random(places)) * burst_bytes;
            uint32_t address = memory->ports[p].base + offset;
            if (write) {
                if (master.write_beats_due || !memory->takes_write(p)) continue;
                memory->accept_write(p, {0, address, beats - 1, size_log2, 1});
                master.write_offset = offset;
                master.write_beats_due = beats;
                master.write_beat = 0;
            } else {
                if (!memory->takes_read(p)) continue;
                memory->accept_read(p, {0, address, beats - 1, size_log2, 1});
                master.offsets.push_back(offset);
            }
            master.next++;
        }
        if (!memory->violation.empty()) { std::fprintf(stderr, "%s\n", memory->violation.c_str()); return 1; }
    }
    for (uint32_t p = 0; p < PORTS; p++)
        std::printf("port %u %llu %llu\n", p, (unsigned long long)memory->ports[p].read_beats,
                    (unsigned long long)memory->ports[p].write_beats);
    memory->dram->report(stdout);
    if (memory->dram->log) std::fclose(memory->dram->log);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 9) { std::fprintf(stderr, "arguments are missing: see the top of dram_bench.cpp\n"); return 2; }
    return run(argv + 1, argc > 9 ? argv[9] : nullptr);
}
