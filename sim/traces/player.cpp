// Plays a trace into the streams of a unit, in order, and writes down what leaves it and when.
//
//   player TRACE LOG SEED SOURCE SINK
//
// SOURCE and SINK say in how many of 256 cycles an item is offered and taken, at random. The trace has steps (struct Step):
// an item for an input stream, offered when all steps before it are done, done when it is taken; a value of a plain input;
// waiting until nothing has left for some cycles, and then a look at the plain outputs; or what an answer will be. The log has events
// (struct Event). Answers are items of other input streams: one for each item that leaves some output, or the words of a memory,
// which bursts read when they leave; what is written is there when it was answered. See `Surroundings` in player.py.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "Vplayed.h"
#include "interface.h"
#include "verilated.h"

constexpr unsigned WORDS = 6, PATIENCE = 20000;
enum Kind : uint32_t { OFFER, SET, SETTLE, ANSWER };
enum What : uint32_t { TAKEN, LEFT, LEVEL, ANSWERED };
using Item = std::array<uint32_t, WORDS>;
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

struct Answers { std::deque<Item> items, given; bool offered, done; };
struct Write { uint32_t address, beats; std::vector<Item> words; };

struct Memory {
    std::unordered_map<uint32_t, Item> words;
    std::deque<Write> writes;  // those that were not answered yet

    void read(uint32_t address, uint32_t beats, std::deque<Item> &packet) const {
        for (uint32_t k = 0; k < beats; k++) {
            const auto found = words.find(address + k * (BUS_BITS / 8));
            Item word{};
            if (found != words.end()) word = found->second;
            if (k + 1 == beats) word[BUS_BITS / 32] |= 1u << BUS_BITS % 32;
            packet.push_back(word);
        }
    }
    bool add(const uint32_t *bits) {  // whether a write has all its words
        for (Write &write : writes)
            if (write.words.size() < write.beats) {
                Item word;
                std::memcpy(word.data(), bits, sizeof word);
                word[BUS_BITS / 32] &= ~(1u << BUS_BITS % 32);
                write.words.push_back(word);
                return write.words.size() == write.beats;
            }
        std::fprintf(stderr, "a word to write without a command\n");
        std::exit(1);
    }
    void land() {
        const Write &write = writes.front();
        for (uint32_t k = 0; k < write.beats; k++) words[write.address + k * (BUS_BITS / 8)] = write.words[k];
        writes.pop_front();
    }
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
    std::vector<Answers> answers(ANSWERS);
    Memory memory;
    uint32_t quiet = 0, still = 0;  // cycles in which nothing is offered; in which nothing was taken
    auto answer = [&](int number) {
        Answers &all = answers[number];
        all.items.push_back(all.given.empty() ? Item{} : all.given.front());
        if (!all.given.empty()) all.given.pop_front();
    };
    auto leaves = [&](int number, const uint32_t *item) {
        if (number == FETCH) memory.read(item[0], item[1], answers[FETCHED].items);
        else if (number == WRITE) memory.writes.push_back({item[0], item[1], {}});
        else if (number == WRITE_WORDS && memory.add(item)) answer(WRITTEN);
        else if (ANSWER_OF[number] >= 0) answer(ANSWER_OF[number]);
    };
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
        bool done = false, moved = false, taken = false;
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
        } else if (now.kind == ANSWER) {
#define GIVE_ANSWER(number, port_number, name, share) if (now.port == port_number) { \
                Item item; \
                std::memcpy(item.data(), now.words, sizeof item); \
                answers[number].given.push_back(item); }
            FOR_EACH_ANSWER(GIVE_ANSWER)
            done = true;
        }
#define OFFER_ANSWER(number, port_number, name, share_of) { \
            Answers &all = answers[number]; \
            if (!all.offered && !all.items.empty() && random.share(share_of ? share_of : source)) { \
                all.offered = true; top.name##_valid = 1; put(top.name##_payload, all.items.front().data()); } }
        FOR_EACH_ANSWER(OFFER_ANSWER)
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
            if (top.name##_valid && ready) { taken = true; write(LEFT, number, step, cycle, top.name##_payload); leaves(number, words); } \
        }
#define TAKE(number, name) { const bool ready = taking[number]; TAKE_OUTPUT(number, name) }
#define TAKE_ALWAYS(number, name) { const bool ready = true; TAKE_OUTPUT(number, name) }
        FOR_EACH_STALLED_OUTPUT(TAKE)
        FOR_EACH_FREE_OUTPUT(TAKE_ALWAYS)
#define TAKEN_ITEM(number, name, width) if (now.kind == OFFER && now.port == number && offered && top.name##_ready) { \
            write(TAKEN, number, step, cycle, top.name##_payload); done = true; }
        FOR_EACH_INPUT(TAKEN_ITEM)
#define TAKEN_ANSWER(number, port_number, name, share) { \
            Answers &all = answers[number]; \
            moved |= !all.items.empty(); \
            all.done = all.offered && top.name##_ready; \
            taken |= all.done; \
            if (all.done && number != FETCHED) write(ANSWERED, port_number, step, cycle, top.name##_payload); \
            if (all.done && number == WRITTEN) memory.land(); }
        FOR_EACH_ANSWER(TAKEN_ANSWER)
        quiet = moved || done ? 0 : quiet + 1;
        still = taken || done ? 0 : still + 1;
        if (now.kind == SETTLE && quiet >= now.words[0]) {
#define LOOK(number, name) write(LEVEL, number, step, cycle, top.name);
            FOR_EACH_PLAIN_OUTPUT(LOOK)
            done = true;
        }
        if (still > PATIENCE) fail("nothing moves; the last one", OUTPUTS, cycle, step);
        edge();
#define WITHDRAW_ANSWER(number, port_number, name, share) if (answers[number].done) { \
            answers[number].offered = false; answers[number].items.pop_front(); top.name##_valid = 0; }
        FOR_EACH_ANSWER(WITHDRAW_ANSWER)
        if (done) {
            if (now.kind == OFFER) {
#define WITHDRAW(number, name, width) if (now.port == number) { \
                    uint32_t words[WORDS]; \
                    for (unsigned k = 0; k < WORDS; k++) words[k] = ~now.words[k] & mask(width, k); \
                    top.name##_valid = 0; put(top.name##_payload, words); }
                FOR_EACH_INPUT(WITHDRAW)
            }
            offered = false, step++, quiet = still = 0;
        }
    }
    top.final();
    return std::fclose(log) == 0 ? 0 : 2;
}
