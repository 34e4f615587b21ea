// Plays a trace into the streams of a unit, in order, and writes down what leaves it and when.
//
//   player TRACE LOG SEED SOURCE SINK
//
// SOURCE and SINK say in how many of 256 cycles an item is offered and taken, at random. The trace has steps (struct Step):
// an item for an input stream, offered when all steps before it are done, done when it is taken; a value of a plain input;
// or waiting until nothing has left for some cycles, and then a look at the plain outputs. The log has events (struct Event).

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "Vplayed.h"
#include "interface.h"
#include "verilated.h"

constexpr unsigned WORDS = 6, PATIENCE = 20000;
enum Kind : uint32_t { OFFER, SET, SETTLE };
enum What : uint32_t { TAKEN, LEFT, LEVEL };
struct Step { uint32_t kind, port, words[WORDS]; };
struct Event { uint32_t what, port, step, cycle, words[WORDS]; };

template <class T> void put(T &port, const uint32_t *words) { port = T(words[0] | uint64_t(words[1]) << 32); }
template <std::size_t N> void put(VlWide<N> &port, const uint32_t *words) { for (std::size_t k = 0; k < N; k++) port[k] = words[k]; }
template <class T> void get(const T &port, uint32_t *words) { words[0] = uint32_t(port); words[1] = uint32_t(uint64_t(port) >> 32); }
template <std::size_t N> void get(const VlWide<N> &port, uint32_t *words) { for (std::size_t k = 0; k < N; k++) words[k] = port[k]; }

uint32_t mask(unsigned width, unsigned word) {
    return width >= 32 * word + 32 ? ~0u : width <= 32 * word ? 0u : (1u << (width - 32 * word)) - 1;
}

[[noreturn]] void fail(const char *message, uint32_t port, uint32_t cycle, uint32_t step) {
    std::fprintf(stderr, "%s: output stream %u, cycle %u, step %u\n", message, port, cycle, step);
    std::exit(1);
}

struct Random {
    uint64_t state;
    uint32_t next() { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return uint32_t(state >> 24); }
    bool share(uint32_t of256) { return (next() & 255) < of256; }
};

int main(int count, char **arguments) {
    if (count != 6) { std::fprintf(stderr, "usage: player TRACE LOG SEED SOURCE SINK\n"); return 2; }
    std::FILE *trace = std::fopen(arguments[1], "rb"), *log = std::fopen(arguments[2], "wb");
    if (!trace || !log) { std::perror("player"); return 2; }
    Random random{std::strtoull(arguments[3], nullptr, 10) * 2 + 0x9E3779B97F4A7C15ull};
    const uint32_t source = std::atoi(arguments[4]), sink = std::atoi(arguments[5]);
    std::vector<Step> steps;
    for (Step step; std::fread(&step, sizeof step, 1, trace) == 1;) steps.push_back(step);

    VerilatedContext context;
    Vplayed top{&context};
    uint32_t held[OUTPUTS][WORDS];
    bool stalled[OUTPUTS] = {}, offered = false, taking[OUTPUTS];
    uint32_t quiet = 0;
    auto edge = [&] { top.clk = 1; top.eval(); top.clk = 0; top.eval(); };
    top.clk = 0; top.rst = 1; top.eval();
    for (int k = 0; k < 3; k++) edge();
    top.rst = 0;

    auto write = [&](What what, uint32_t port, uint32_t step, uint32_t cycle, auto &value) {
        Event event{what, port, step, cycle, {}};
        get(value, event.words);
        std::fwrite(&event, sizeof event, 1, log);
    };
    uint32_t step = 0;
    for (uint32_t cycle = 0; step < steps.size(); cycle++) {
        const Step &now = steps[step];
        bool done = false, moved = false;
        if (now.kind == OFFER && !offered) {
            offered = random.share(source);
            const bool shown = offered || random.share(128);  // an item may stand there before it is valid
#define OFFER_ITEM(number, name, width) if (now.port == number && shown) { \
                top.name##_valid = offered; put(top.name##_payload, now.words); }
            FOR_EACH_INPUT(OFFER_ITEM)
        } else if (now.kind == SET) {
#define SET_VALUE(number, name) if (now.port == number) put(top.name, now.words);
            FOR_EACH_PLAIN_INPUT(SET_VALUE)
            done = true;
        }
        for (uint32_t k = 0; k < OUTPUTS; k++) taking[k] = random.share(sink);
#define SET_READY(number, name) top.name##_ready = taking[number];
        FOR_EACH_STALLED_OUTPUT(SET_READY)
        top.eval();
#define TAKE_OUTPUT(number, name) { \
            uint32_t words[WORDS] = {}; \
            get(top.name##_payload, words); \
            if (stalled[number] && (!top.name##_valid || std::memcmp(words, held[number], sizeof words))) \
                fail(top.name##_valid ? "payload changed while stalled" : "valid was dropped", number, cycle, step); \
            std::memcpy(held[number], words, sizeof words); \
            stalled[number] = top.name##_valid && !ready; \
            moved |= top.name##_valid; \
            if (top.name##_valid && ready) write(LEFT, number, step, cycle, top.name##_payload); \
        }
#define TAKE(number, name) { const bool ready = taking[number]; TAKE_OUTPUT(number, name) }
#define TAKE_ALWAYS(number, name) { const bool ready = true; TAKE_OUTPUT(number, name) }
        FOR_EACH_STALLED_OUTPUT(TAKE)
        FOR_EACH_FREE_OUTPUT(TAKE_ALWAYS)
#define TAKEN_ITEM(number, name, width) if (now.kind == OFFER && now.port == number && offered && top.name##_ready) { \
            write(TAKEN, number, step, cycle, top.name##_payload); done = true; }
        FOR_EACH_INPUT(TAKEN_ITEM)
        quiet = moved || done ? 0 : quiet + 1;
        if (now.kind == SETTLE && quiet >= now.words[0]) {
#define LOOK(number, name) write(LEVEL, number, step, cycle, top.name);
            FOR_EACH_PLAIN_OUTPUT(LOOK)
            done = true;
        }
        if (quiet > PATIENCE) fail("nothing moves; the last one", OUTPUTS, cycle, step);
        edge();
        if (done) {
            if (now.kind == OFFER) {
#define WITHDRAW(number, name, width) if (now.port == number) { \
                    uint32_t words[WORDS]; \
                    for (unsigned k = 0; k < WORDS; k++) words[k] = ~now.words[k] & mask(width, k); \
                    top.name##_valid = 0; put(top.name##_payload, words); }
                FOR_EACH_INPUT(WITHDRAW)
            }
            offered = false, step++, quiet = 0;
        }
    }
    top.final();
    return std::fclose(log) == 0 ? 0 : 2;
}
