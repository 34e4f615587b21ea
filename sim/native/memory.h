// AXI4 memory for whole-model simulation: memory-mapped image, fixed latency, optional random stalls.
//
// Deliberately the strictest legal memory: a read returns the bytes as they were when its address was accepted, and a
// write becomes visible only with its response, so a missing fence shows as a wrong token.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

struct Burst {
    uint32_t id;
    uint64_t due;                // first cycle in which data or response may be offered
    uint32_t address;
    std::vector<uint8_t> bytes;  // read data, or collected write data
    std::vector<uint8_t> strobes;
    uint32_t beats, beat;
    bool error;
};

class Memory {
public:
    uint8_t* bytes = nullptr;
    uint64_t size = 0;
    uint32_t bus_bytes = 8, latency = 20, stall_percent = 0;
    uint64_t error_begin = 1, error_end = 0;  // reads and writes of this range get an error response
    uint64_t state = 1;
    std::string violation;                    // first protocol error of the master

    bool stall() {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        return state % 100 < stall_percent;
    }

    Burst open(uint64_t cycle, uint32_t id, uint32_t address, uint32_t length, uint32_t size_log2, uint32_t kind) {
        Burst burst{id, cycle + latency, address, {}, {}, length + 1, 0, false};
        uint64_t total = uint64_t(burst.beats) * bus_bytes;
        if ((1u << size_log2) != bus_bytes) fault("burst size is not the bus width");
        if (kind != 1) fault("burst is not INCR");
        if (address % bus_bytes) fault("address is not aligned to the bus");
        if ((address ^ (address + total - 1)) >> 12) fault("burst crosses 4 KiB");
        burst.error = address + total > size || (address < error_end && address + total > error_begin);
        return burst;
    }

    void fault(const char* text) { if (violation.empty()) violation = text; }

    void accept_read(uint64_t cycle, uint32_t id, uint32_t address, uint32_t length, uint32_t size_log2, uint32_t kind) {
        Burst burst = open(cycle, id, address, length, size_log2, kind);
        burst.bytes.assign(uint64_t(burst.beats) * bus_bytes, 0);
        if (!burst.error) std::memcpy(burst.bytes.data(), bytes + address, burst.bytes.size());
        reads.push_back(std::move(burst));
    }

    void accept_write(uint64_t cycle, uint32_t id, uint32_t address, uint32_t length, uint32_t size_log2, uint32_t kind) {
        writes.push_back(open(cycle, id, address, length, size_log2, kind));
    }

    void accept_data(uint64_t cycle, const uint8_t* beat, uint64_t strobe, bool last) {
        for (auto& burst : writes) {
            if (burst.beat == burst.beats) continue;
            take(burst, cycle, beat, strobe, last);
            return;
        }
        early.push_back({std::vector<uint8_t>(beat, beat + bus_bytes), strobe, last});
    }

    void settle(uint64_t cycle) {  // write data may come before its address
        while (!early.empty()) {
            Burst* target = nullptr;
            for (auto& burst : writes) if (burst.beat < burst.beats) { target = &burst; break; }
            if (!target) return;
            take(*target, cycle, early.front().bytes.data(), early.front().strobe, early.front().last);
            early.pop_front();
        }
    }

    void commit() {  // the response of the oldest write was given
        Burst& burst = writes.front();
        if (!burst.error)
            for (size_t i = 0; i < burst.bytes.size(); i++)
                if (burst.strobes[i]) bytes[burst.address + i] = burst.bytes[i];
        writes.pop_front();
    }

    bool read_ready(uint64_t cycle) const { return !reads.empty() && reads.front().due <= cycle; }
    bool response_ready(uint64_t cycle) const {
        return !writes.empty() && writes.front().beat == writes.front().beats && writes.front().due <= cycle;
    }

    std::deque<Burst> reads, writes;

private:
    struct Early { std::vector<uint8_t> bytes; uint64_t strobe; bool last; };
    std::deque<Early> early;

    void take(Burst& burst, uint64_t cycle, const uint8_t* beat, uint64_t strobe, bool last) {
        burst.bytes.insert(burst.bytes.end(), beat, beat + bus_bytes);
        for (uint32_t i = 0; i < bus_bytes; i++) burst.strobes.push_back(strobe >> i & 1);
        burst.beat++;
        if (last != (burst.beat == burst.beats)) fault("WLAST is not on the final beat");
        burst.due = cycle + latency;
    }
};
