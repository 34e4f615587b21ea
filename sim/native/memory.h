// Memory behind the AXI4 ports for whole-model simulation: memory-mapped image, random stalls, and either a fixed latency or
// the DDR4 model of dram.h.
//
// Word w of the linear memory is PORTS slices of PORT_BYTES; slice p is at address base[p] + w * PORT_BYTES of port p.
//
// Deliberately the strictest legal memory: a read returns the bytes as they were when its address was accepted, and a
// write becomes visible only with its response, so a missing fence shows as a wrong token. Nothing is allocated per burst.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "dram.h"

struct Burst {
    uint64_t due;      // first cycle in which data or response may be offered
    uint64_t linear;   // of the first beat, in the linear memory
    uint32_t address, id, beats, beat, slot;
    uint32_t transfer;  // number of its first DRAM burst
    bool error, posted;
};

// Bursts in order, with a 4 KiB slot for the data of each.
template <uint32_t SIZE> class BurstQueue {
public:
    BurstQueue() { clear(); }
    bool empty() const { return count == 0; }
    bool full() const { return count == SIZE; }
    uint32_t size() const { return count; }
    Burst& front() { return bursts[head]; }
    Burst& operator[](uint32_t i) { return bursts[(head + i) % SIZE]; }

    Burst& push(const Burst& burst) {
        Burst& place = (*this)[count++];
        place = burst;
        place.slot = slots[--unused];
        return place;
    }

    void pop() {
        slots[unused++] = front().slot;  // the next burst takes the slot that is still in the cache
        head = (head + 1) % SIZE;
        count--;
    }

    void clear() {
        head = count = 0;
        for (unused = 0; unused < SIZE; unused++) slots[unused] = unused;
    }

private:
    Burst bursts[SIZE];
    uint32_t slots[SIZE], head, count, unused;
};

// What a master offers on AR and AW.
struct Address {
    uint32_t id, address, length, size_log2, kind;
    bool operator==(const Address&) const = default;
};

// What it offered in the last cycle, if that was not taken.
template <class Payload> struct Offer {
    bool held = false;
    Payload payload{};
};

template <uint32_t PORTS, uint32_t PORT_BYTES> class Memory {
public:
    static constexpr uint32_t READS = 64, WRITES = 16, EARLY = 16, SLOT = 4096;
    static constexpr uint64_t BUS_BYTES = uint64_t(PORTS) * PORT_BYTES;
    static constexpr uint64_t ALL_STROBES = PORT_BYTES == 64 ? ~0ull : (1ull << PORT_BYTES % 64) - 1;

    struct Beat {
        uint8_t data[PORT_BYTES];
        uint64_t strobe;
        bool last;
        bool operator==(const Beat&) const = default;
    };

    struct Port {
        uint32_t base = 0;
        Offer<Address> read_offer, write_offer;
        Offer<Beat> data_offer;
        uint64_t read_beats = 0, write_beats = 0;
        BurstQueue<READS> reads;
        BurstQueue<WRITES> writes;
        uint32_t filled = 0;  // of `writes`, those with all data
        uint8_t read_data[READS][SLOT], write_data[WRITES][SLOT];
        uint64_t strobes[WRITES][256];
        uint64_t due[dram::RING];  // DRAM clock after which a DRAM burst is here
        uint32_t transfers = 0;
        Beat early[EARLY];  // write data before its address
        uint32_t early_head = 0, early_count = 0;
    };

    uint8_t* bytes = nullptr;
    uint64_t size = 0;
    uint32_t latency = 20, stall_percent = 0;
    uint64_t error_begin = 1, error_end = 0;  // reads and writes of words of this range get an error response
    uint64_t state = 1;
    uint64_t clock_khz = 250'000;             // of the ports
    std::unique_ptr<dram::Dram> dram;         // null: fixed latency
    std::string violation;                    // first protocol error of the master
    Port ports[PORTS];

    bool stall() {
        if (!stall_percent) return false;
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        return state % 100 < stall_percent;
    }

    void begin_cycle(uint64_t now) {
        cycle = now;
        if (!dram) return;
        dram->advance(dram_clock(cycle));
        arrived = cycle < latency ? 0 : dram_clock(cycle - latency);
        for (Port& port : ports) post(port);
    }

    void clear() {
        for (Port& port : ports) {
            port.reads.clear();
            port.writes.clear();
            port.filled = port.early_count = 0;
            port.read_offer.held = port.write_offer.held = port.data_offer.held = false;
        }
        if (dram) dram->forget_reads();
    }

    bool takes_read(uint32_t p) const { return ports[p].reads.size() < (dram ? dram::OUTSTANDING : READS); }
    bool takes_write(uint32_t p) const { return !ports[p].writes.full(); }
    bool takes_data(uint32_t p) const { return ports[p].early_count < EARLY; }

    // In every cycle, before anything is accepted: what has been offered must stay on offer, unchanged, until it is taken.
    void watch_read(uint32_t p, bool valid, bool ready, const Address& now) { watch("AR", ports[p].read_offer, valid, ready, now); }
    void watch_write(uint32_t p, bool valid, bool ready, const Address& now) { watch("AW", ports[p].write_offer, valid, ready, now); }
    void watch_data(uint32_t p, bool valid, bool ready, const Beat& now) { watch("W", ports[p].data_offer, valid, ready, now); }

    void accept_read(uint32_t p, const Address& asked) {
        Port& port = ports[p];
        Burst& burst = port.reads.push(open(p, asked));
        uint8_t* data = port.read_data[burst.slot];
        if (burst.error) { std::memset(data, 0, uint64_t(burst.beats) * PORT_BYTES); return; }
        const uint8_t* from = bytes + burst.linear;
        if (PORTS == 1) std::memcpy(data, from, uint64_t(burst.beats) * PORT_BYTES);
        else for (uint32_t i = 0; i < burst.beats; i++) std::memcpy(data + i * PORT_BYTES, from + i * BUS_BYTES, PORT_BYTES);
        if (!dram) return;
        burst.transfer = port.transfers;
        uint32_t end = asked.address + burst.beats * PORT_BYTES;
        for (uint32_t at = asked.address / dram::BURST_BYTES * dram::BURST_BYTES; at < end; at += dram::BURST_BYTES)
            dram->read(p, at, &port.due[port.transfers++ % dram::RING]);
    }

    bool read_ready(uint32_t p) {
        Port& port = ports[p];
        if (port.reads.empty()) return false;
        const Burst& burst = port.reads.front();
        if (!dram || burst.error) return burst.due <= cycle;
        uint32_t offset = burst.address % dram::BURST_BYTES + burst.beat * PORT_BYTES;
        return port.due[(burst.transfer + offset / dram::BURST_BYTES) % dram::RING] <= arrived;
    }

    const uint8_t* read_data(uint32_t p) {
        const Burst& burst = ports[p].reads.front();
        return ports[p].read_data[burst.slot] + burst.beat * PORT_BYTES;
    }

    void read_taken(uint32_t p) {
        Port& port = ports[p];
        port.read_beats++;
        if (++port.reads.front().beat == port.reads.front().beats) port.reads.pop();
    }

    void accept_write(uint32_t p, const Address& asked) {
        Port& port = ports[p];
        port.writes.push(open(p, asked));
        while (port.early_count && port.filled < port.writes.size()) {
            fill(port, port.early[port.early_head]);
            port.early_head = (port.early_head + 1) % EARLY;
            port.early_count--;
        }
    }

    void accept_data(uint32_t p, const Beat& beat) {
        Port& port = ports[p];
        port.write_beats++;
        if (port.filled < port.writes.size()) fill(port, beat);
        else port.early[(port.early_head + port.early_count++) % EARLY] = beat;
    }

    bool response_ready(uint32_t p) {
        Port& port = ports[p];
        return port.filled && port.writes.front().posted && port.writes.front().due <= cycle;
    }

    void response_taken(uint32_t p) {  // now the oldest write is visible
        Port& port = ports[p];
        const Burst& burst = port.writes.front();
        for (uint32_t i = 0; i < burst.beats && !burst.error; i++) {
            const uint8_t* from = port.write_data[burst.slot] + i * PORT_BYTES;
            uint8_t* to = bytes + burst.linear + i * BUS_BYTES;
            uint64_t strobe = port.strobes[burst.slot][i];
            if (strobe == ALL_STROBES) std::memcpy(to, from, PORT_BYTES);
            else for (uint32_t j = 0; j < PORT_BYTES; j++) if (strobe >> j & 1) to[j] = from[j];
        }
        port.writes.pop();
        port.filled--;
    }

private:
    uint64_t cycle = 0, arrived = 0;

    uint64_t dram_clock(uint64_t cycle) const { return cycle * dram::CLOCK_KHZ / clock_khz; }
    void fault(const std::string& text) { if (violation.empty()) violation = text; }

    template <class Payload>
    void watch(const std::string& name, Offer<Payload>& offer, bool valid, bool ready, const Payload& now) {
        if (offer.held && !valid) fault(name + "VALID fell before " + name + "READY");
        if (offer.held && valid && now != offer.payload) fault(name + " changed before " + name + "READY");
        offer.held = valid && !ready;
        if (offer.held) offer.payload = now;
    }

    Burst open(uint32_t p, const Address& asked) {
        const auto& [id, address, length, size_log2, kind] = asked;
        Burst burst{cycle + latency, 0, address, id, length + 1, 0, 0, 0, false, false};
        uint64_t total = uint64_t(burst.beats) * PORT_BYTES;
        if (size_log2 > 7 || (1u << size_log2) != PORT_BYTES) fault("burst size is not the bus width");
        if (kind != 1) fault("burst is not INCR");
        if (address % PORT_BYTES) fault("address is not aligned to the bus");
        if ((address ^ (address + total - 1)) >> 12) {
            fault("burst crosses 4 KiB");
            burst.beats = std::min<uint32_t>(burst.beats, SLOT / PORT_BYTES);
        }
        uint64_t word = uint32_t(address - ports[p].base) / PORT_BYTES, begin = word * BUS_BYTES;
        uint64_t end = begin + burst.beats * BUS_BYTES;
        burst.linear = begin + p * PORT_BYTES;
        burst.error = end > size || (begin < error_end && end > error_begin);
        return burst;
    }

    void fill(Port& port, const Beat& beat) {
        Burst& burst = port.writes[port.filled];
        std::memcpy(port.write_data[burst.slot] + burst.beat * PORT_BYTES, beat.data, PORT_BYTES);
        port.strobes[burst.slot][burst.beat] = beat.strobe;
        burst.beat++;
        if (beat.last != (burst.beat == burst.beats)) fault("WLAST is not on the final beat");
        if (burst.beat < burst.beats) return;
        port.filled++;
        burst.due = cycle + latency;
        burst.posted = !dram || burst.error;
        burst.transfer = 0;
    }

    void post(Port& port) {  // complete writes into the write queue, in order; the response follows `latency` later
        for (uint32_t i = 0; i < port.filled; i++) {
            Burst& burst = port.writes[i];
            if (burst.posted) continue;
            uint32_t begin = burst.address / dram::BURST_BYTES;
            uint32_t end = (burst.address + burst.beats * PORT_BYTES - 1) / dram::BURST_BYTES;
            while (begin + burst.transfer <= end)
                if (dram->write((begin + burst.transfer) * dram::BURST_BYTES)) burst.transfer++;
                else return;
            burst.posted = true;
            burst.due = cycle + latency;
        }
    }
};
