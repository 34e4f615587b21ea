// Runs a layer on an expert unit, with the memory of its bank bundles.
//
//   experts FOLDER
//
// FOLDER has memory (bundles of MEMORY_ROWS rows) and, of each input stream, its payloads in whole 32-bit words: i_x, then i and
// i_tokens as fast as they are taken, and after as many responses as there are items of i, i_read. Left there: commands (struct Given
// for each slot with a command), responses (cycle and cause), outputs, and counters: 16 bits of both sets of counters per word.
// A read of a row that is not open ends the run; where no word is due the data pins have noise.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "Vplayed.h"
#include "interface.h"
#include "verilated.h"

constexpr uint64_t PATIENCE = 100000;
struct Given { uint64_t slot, bits; };
struct Response { uint64_t cycle, cause; };

std::string folder;

[[noreturn]] void fail(const char *message, uint64_t cycle) {
    std::fprintf(stderr, "%s, cycle %llu\n", message, (unsigned long long)cycle);
    std::exit(1);
}

template <class T> std::vector<T> contents(const char *name) {
    std::vector<T> result;
    const std::string path = folder + "/" + name;
    std::FILE *file = std::fopen(path.c_str(), "rb");
    if (!file) { std::perror(path.c_str()); std::exit(2); }
    std::fseek(file, 0, SEEK_END);
    result.resize(std::ftell(file) / sizeof(T));
    std::rewind(file);
    if (std::fread(result.data(), sizeof(T), result.size(), file) != result.size()) { std::perror(path.c_str()); std::exit(2); }
    std::fclose(file);
    return result;
}

template <class T> void keep(const char *name, const std::vector<T> &items) {
    const std::string path = folder + "/" + name;
    std::FILE *file = std::fopen(path.c_str(), "wb");
    if (!file || std::fwrite(items.data(), sizeof(T), items.size(), file) != items.size() || std::fclose(file)) {
        std::perror(path.c_str());
        std::exit(2);
    }
}

template <class T> void put(T &port, const uint32_t *words) {
    uint64_t value = words[0];
    if constexpr (sizeof(T) > 4) value |= uint64_t(words[1]) << 32;
    port = T(value);
}
template <std::size_t N> void put(VlWide<N> &port, const uint32_t *words) { for (std::size_t k = 0; k < N; k++) port[k] = words[k]; }

template <class T> uint64_t field(const T &port, unsigned start, unsigned width) {
    uint64_t value = 0;
    for (unsigned k = 0; k < width; k++) {
        const unsigned at = start + k;
        if constexpr (requires { port[0]; }) value |= uint64_t(port[at / 32] >> at % 32 & 1) << k;
        else value |= uint64_t(port >> at & 1) << k;
    }
    return value;
}

struct Memory {
    const std::vector<uint32_t> cells = contents<uint32_t>("memory");
    int64_t open[BUNDLES];
    const uint32_t *due[DUE] = {};  // by cycle
    uint32_t noise[WORD_BYTES / 4 + 1];

    Memory() { for (auto &each : open) each = -1; for (auto &each : noise) each = 0xDEADBEEF; }

    void command(uint64_t cycle, uint64_t bits) {
        const unsigned bundle = bits >> BUNDLE_AT & ((1u << BUNDLE_BITS) - 1), row = bits >> ROW_AT & ((1u << ROW_BITS) - 1);
        const unsigned column = bits >> COLUMN_AT & ((1u << COLUMN_BITS) - 1);
        switch (bits & 15) {
        case ALL_ACTIVATE: case HALF_ACTIVATE: open[bundle] = row; break;
        case ALL_PRECHARGE: open[bundle] = -1; break;
        case PRECHARGE_CHANNEL: for (auto &each : open) each = -1; break;
        case ALL_READ: {
            if (open[bundle] < 0 || open[bundle] >= MEMORY_ROWS) fail("a row is read that is not open, or beyond the memory", cycle);
            const uint64_t first = ((uint64_t(bundle) * MEMORY_ROWS + open[bundle]) * COLUMNS + column) * WORDS;
            for (unsigned k = 0; k < WORDS; k++) due[(cycle + DATA_CYCLES + k) % DUE] = &cells[(first + k) * (WORD_BYTES / 4)];
        }
        }
    }
    const uint32_t *word(uint64_t cycle) {
        const uint32_t *result = due[cycle % DUE];
        due[cycle % DUE] = nullptr;
        return result ? result : noise;
    }
    int64_t MEMORY_ROWS = cells.size() / (BUNDLES * COLUMNS * WORDS * WORD_BYTES / 4);
};

struct Source {
    const std::vector<uint32_t> words;
    const unsigned step;
    size_t at = 0;
    Source(const char *name, unsigned bits) : words(contents<uint32_t>(name)), step((bits + 31) / 32) {}
    bool left() const { return at < words.size(); }
    const uint32_t *item() const { return &words[at]; }
};

#define OFFER(source, name, when) { top.name##_valid = (when) && source.left(); if (top.name##_valid) put(top.name##_payload, source.item()); }
#define TAKE(source, name) { if (top.name##_valid && taken_##name) { source.at += source.step; moved = cycle; } }

int main(int count, char **arguments) {
    if (count != 2) { std::fprintf(stderr, "usage: experts FOLDER\n"); return 2; }
    folder = arguments[1];
    Memory memory;
    Source x("i_x", X_BITS), experts("i", EXPERT_BITS), tokens("i_tokens", TOKEN_BITS), reads("i_read", READ_BITS);
    const size_t wanted = experts.words.size() / experts.step, elements = reads.words.size() / reads.step;
    std::vector<Given> commands;
    std::vector<Response> responses;
    std::vector<uint32_t> outputs, counters;

    VerilatedContext context;
    Vplayed top{&context};
    auto edge = [&] { top.clk = 1; top.eval(); top.clk = 0; top.eval(); };
    top.clk = 0; top.rst = 1; top.i_normal_valid = 0; top.o_ready = 1; top.o_read_ready = 1; top.eval();
    for (int k = 0; k < 3; k++) edge();
    top.rst = 0;

    uint64_t cycle = 0, moved = 0, begun = 0;
    for (; responses.size() < wanted || outputs.size() < elements; cycle++) {
        const bool ready = !x.left(), read = responses.size() == wanted;
        if (ready && !begun) begun = cycle;
        OFFER(x, i_x, true)
        OFFER(experts, i, ready)
        OFFER(tokens, i_tokens, ready)
        OFFER(reads, i_read, read)
        put(top.data, memory.word(cycle));
        top.eval();
        for (unsigned slot = 0; slot < 2; slot++) {
            const Given given{2 * cycle + slot, field(top.command, slot * SLOT_BITS, SLOT_BITS)};
            if (!(given.bits & 15)) continue;
            commands.push_back(given);
            memory.command(cycle, given.bits);
            if ((given.bits & 15) == ALL_READ) moved = cycle;
        }
        if (top.o_valid) { responses.push_back({cycle - begun, top.o_payload}); moved = cycle; }
        if (top.o_read_valid) { outputs.push_back(top.o_read_payload); moved = cycle; }
        const bool taken_i_x = true, taken_i = top.i_ready, taken_i_tokens = top.i_tokens_ready, taken_i_read = top.i_read_ready;
        edge();
        TAKE(x, i_x)
        TAKE(experts, i)
        TAKE(tokens, i_tokens)
        TAKE(reads, i_read)
        if (cycle > moved + PATIENCE) fail("nothing moves", cycle);
    }
    for (unsigned at = 0; at < COUNTER_BITS; at += 16) counters.push_back(field(top.counters, at, 16));
    for (unsigned at = 0; at < MEMORY_COUNTER_BITS; at += 16) counters.push_back(field(top.memory_counters, at, 16));
    keep("commands", commands);
    keep("responses", responses);
    keep("outputs", outputs);
    keep("counters", counters);
    top.final();
    return 0;
}
