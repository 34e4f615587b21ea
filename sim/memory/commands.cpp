// Drives a bank-bundle controller and writes down the commands that it gives.
//
//   player STRETCHES REQUESTS LOG SLOTS DELAY
//
// STRETCHES and REQUESTS are files of the payloads of its input streams, 64 bits each, offered in order as fast as they are taken,
// from DELAY cycles after reset on. SLOTS: bits of the command slots that may be used. The log has struct Given for each slot with
// a command, and at the end one with the counters. The run ends when all reads have been given.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "Vplayed.h"
#include "interface.h"
#include "verilated.h"

constexpr unsigned PATIENCE = 20000;
struct Given { uint64_t slot, bits; };

std::vector<uint64_t> contents(const char *path) {
    std::vector<uint64_t> result;
    std::FILE *file = std::fopen(path, "rb");
    if (!file) { std::perror(path); std::exit(2); }
    for (uint64_t each; std::fread(&each, sizeof each, 1, file) == 1;) result.push_back(each);
    std::fclose(file);
    return result;
}

template <class T> uint64_t field(const T &port, unsigned start, unsigned width) {
    uint64_t value = 0;
    for (unsigned k = 0; k < width; k++) {
        const unsigned at = start + k;
        if constexpr (requires { port[0]; }) value |= uint64_t(port[at / 32] >> at % 32 & 1) << k;
        else value |= uint64_t(port >> at & 1) << k;
    }
    return value;
}

int main(int count, char **arguments) {
    if (count != 6) { std::fprintf(stderr, "usage: player STRETCHES REQUESTS LOG SLOTS DELAY\n"); return 2; }
    const auto stretches = contents(arguments[1]), requests = contents(arguments[2]);
    std::FILE *log = std::fopen(arguments[3], "wb");
    if (!log) { std::perror(arguments[3]); return 2; }
    const uint64_t delay = std::strtoull(arguments[5], nullptr, 10);

    VerilatedContext context;
    Vplayed top{&context};
    auto edge = [&] { top.clk = 1; top.eval(); top.clk = 0; top.eval(); };
    top.clk = 0; top.rst = 1; top.slots = std::atoi(arguments[4]); top.eval();
    for (int k = 0; k < 3; k++) edge();
    top.rst = 0;

    uint64_t wanted = 0, reads = 0, moved = 0;
    for (uint64_t each : stretches) wanted += 1 + (each >> LAST_AT) - (each >> COLUMN_AT & COLUMN_MASK);
    wanted += requests.size();
    size_t stretch = 0, request = 0;
    for (uint64_t cycle = 0; reads < wanted; cycle++) {
        const bool begun = cycle >= delay;
        top.i_valid = begun && stretch < stretches.size();
        if (top.i_valid) top.i_payload = stretches[stretch];
#ifdef NORMAL
        top.i_normal_valid = begun && request < requests.size();
        if (top.i_normal_valid) top.i_normal_payload = requests[request];
#endif
        top.eval();
        for (unsigned slot = 0; slot < 2; slot++) {
            const Given given{2 * cycle + slot, field(top.command, slot * SLOT_BITS, SLOT_BITS)};
            const unsigned command = given.bits & 15;
            if (!command) continue;
            std::fwrite(&given, sizeof given, 1, log);
            if (command == ALL_READ || command == READ) reads++, moved = cycle;
        }
        if (cycle > moved + delay + PATIENCE) { std::fprintf(stderr, "no read since cycle %llu\n", (unsigned long long)moved); return 1; }
        const bool taken = top.i_valid && top.i_ready;
#ifdef NORMAL
        const bool taken_normal = top.i_normal_valid && top.i_normal_ready;
        request += taken_normal;
#endif
        edge();
        stretch += taken;
    }
    for (unsigned k = 0; k < 4; k++) edge();
    for (unsigned at = 0; at < COUNTER_BITS; at += 16) {
        const Given counter{~uint64_t(0), field(top.counters, at, 16)};
        std::fwrite(&counter, sizeof counter, 1, log);
    }
    top.final();
    return std::fclose(log) == 0 ? 0 : 2;
}
