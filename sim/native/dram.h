// Cycle-based model of one rank of DDR4-2400 with 64 data lines, and of the controller in front of it.
//
// Time is counted in DRAM clocks; nothing is allocated while it runs. Only time is modelled: the bytes are memory.h's.
//
//   port 0 ring --+                                          +-- bank group 0: banks 0..3, one open row each
//   ...           +--> read queue  (64, oldest first) --+    |
//   port N ring --+                                     +--> command bus (one command per clock) --> data bus (64 bytes
//   all ports --------> write queue (64, drained in     |    |                                       per 4 clocks)
//                       batches) -----------------------+    +-- bank group n
//
// Policy: open rows; the oldest request whose row is open and whose timing is met goes first, then the oldest that needs
// an activate, then the oldest that needs a precharge (FR-FCFS). A row stays open while a queued request wants it, unless
// the oldest request of the queue has waited PATIENCE clocks. Each port may hold an equal share of the read queue. Writes
// wait until WRITE_HIGH are queued, until no read waits, or until a read wants bytes that a queued write holds; then they
// are drained to WRITE_LOW. Writes to the same 64 bytes combine. One all-bank refresh per tREFI, never postponed by more
// than it takes to close the rows. Row, bank, column, bank group: consecutive 64-byte bursts alternate between groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace dram {

constexpr uint64_t NEVER = ~0ull;
constexpr uint32_t CLOCK_KHZ = 1'200'000;  // DDR4-2400: 1200 MHz, tCK = 833.3 ps
constexpr uint32_t BURST_BYTES = 64;       // BL8 on 64 data lines
constexpr uint32_t BURST_CLOCKS = 4;       // both edges
constexpr uint32_t QUEUE = 64;             // requests in the read and in the write queue
constexpr uint32_t OUTSTANDING = 16;       // AXI read bursts that a port may have under way
constexpr uint32_t RING = 64 * OUTSTANDING;  // their DRAM bursts: an AXI burst stays within 4 KiB
constexpr uint32_t WRITE_HIGH = 48, WRITE_LOW = 16;
constexpr uint64_t PATIENCE = 1024;
constexpr uint32_t MAX_BANKS = 16;

// A duration, given as JEDEC does: the larger of a time and a number of clocks.
struct Time {
    uint32_t picoseconds, clocks;
    constexpr Time(uint32_t picoseconds, uint32_t least)
        : picoseconds(picoseconds),
          clocks(std::max<uint32_t>(least, (uint64_t(picoseconds) * CLOCK_KHZ + 999'999'999) / 1'000'000'000)) {}
    constexpr operator uint64_t() const { return clocks; }
};

// What a rank of one kind of device allows. The values are those of JESD79-4B (speed bin DDR4-2400T, "Timing parameters by
// speed grade", "Refresh parameters by device density") for 8 Gb devices.
struct Device {
    const char* name;
    uint32_t groups;               // bank groups: 2 in x16 devices, 4 in x8
    uint32_t banks = 4;            // per group
    uint32_t page_bytes = 8192;    // of the rank: 4 x 2 KiB (x16) or 8 x 1 KiB (x8)
    Time rrd_s, rrd_l, faw;        // activate to activate, other and same group; four activates: by page size
    Time cl{0, 17};                // read command to data, DDR4-2400T (17-17-17)
    Time cwl{0, 12};               // write command to data, 1 tCK preamble
    Time rcd{14'160, 0};           // activate to column command
    Time rp{14'160, 0};            // precharge to activate
    Time ras{32'000, 0};           // activate to precharge
    Time ccd_s{0, 4};              // column to column command, other group
    Time ccd_l{5'000, 5};          // and same group
    Time wtr_s{2'500, 2};          // end of write data to read command, other group
    Time wtr_l{7'500, 4};          // and same group
    Time rtp{7'500, 4};            // read to precharge
    Time wr{15'000, 0};            // end of write data to precharge
    Time refi{7'800'000, 0};       // average interval of refreshes, up to 85 C
    Time rfc{350'000, 0};          // a refresh, 8 Gb

    // Derived: activate to activate of one bank; read to write command, so that the data bus turns in 2 clocks.
    Time rc() const { return {0, ras.clocks + rp.clocks}; }
    Time rtw() const { return {0, cl.clocks + BURST_CLOCKS + 2 - cwl.clocks}; }

    template <class F> void each(F&& f) const {
        f("tCL", cl); f("tCWL", cwl); f("tRCD", rcd); f("tRP", rp); f("tRAS", ras); f("tRC", rc());
        f("tRRD_S", rrd_s); f("tRRD_L", rrd_l); f("tFAW", faw); f("tCCD_S", ccd_s); f("tCCD_L", ccd_l);
        f("tWTR_S", wtr_s); f("tWTR_L", wtr_l); f("tRTW", rtw()); f("tRTP", rtp); f("tWR", wr);
        f("tREFI", refi); f("tRFC", rfc);
    }
};

// Micron MT40A512M16 (4 devices of 512 M x 16: the KV260's memory) and MT40A1G8 (8 devices of 1 G x 8).
inline Device x16() { return {.name = "ddr4", .groups = 2, .rrd_s = {5'300, 4}, .rrd_l = {6'400, 4}, .faw = {30'000, 28}}; }
inline Device x8() { return {.name = "ddr4-x8", .groups = 4, .rrd_s = {3'300, 4}, .rrd_l = {4'900, 4}, .faw = {21'000, 20}}; }

struct Statistics {
    uint64_t reads = 0, writes = 0;  // bursts of 64 bytes
    uint64_t row_hits = 0;           // bursts whose row was open
    uint64_t row_misses = 0;         // that opened a row of a closed bank
    uint64_t row_conflicts = 0;      // that had another row closed first
    uint64_t activates = 0, precharges = 0, refreshes = 0, collisions = 0;

    template <class F> void each(F&& f) const {
        f("read_bursts", reads); f("write_bursts", writes); f("row_hits", row_hits); f("row_misses", row_misses);
        f("row_conflicts", row_conflicts); f("activates", activates); f("precharges", precharges);
        f("refreshes", refreshes); f("collisions", collisions);
    }
};

class Dram {
public:
    const Device device;
    Statistics statistics;
    std::FILE* log = nullptr;  // every command: clock,name,group,bank,row,column

    Dram(const Device& device, uint32_t ports)
        : device(device), share(QUEUE / ports), rings(ports), rc(device.rc()), rtw(device.rtw()), refresh_due(device.refi) {
        while (1u << group_bits < device.groups) group_bits++;
        while (BURST_BYTES << column_bits < device.page_bytes) column_bits++;
        while (1u << bank_bits < device.banks) bank_bits++;
    }

    // The burst at `address` was asked for by `port`; *due becomes the clock after which all its bytes are here.
    void read(uint32_t port, uint32_t address, uint64_t* due) {
        *due = NEVER;
        Ring& ring = rings[port];
        ring.requests[ring.tail++ % RING] = {due, locate(address)};
        admit(port);
        wake = std::min(wake, clock + 1);
    }

    // False if the write queue is full.
    bool write(uint32_t address) {
        Place place = locate(address);
        for (uint32_t i = 0; i < writes.count; i++)
            if (writes.entries[i].place.block == place.block) return true;
        if (writes.count == QUEUE) return false;
        writes.entries[writes.count++] = {nullptr, place, clock, 0, NONE, false};
        wake = std::min(wake, clock + 1);
        return true;
    }

    // Forgets the reads that are not scheduled (their `due` are no longer valid).
    void forget_reads() {
        for (Ring& ring : rings) ring.head = ring.tail = ring.queued = 0;
        reads.count = blocked = 0;
    }

    // For sim/native/dram.py: device, timing and statistics.
    void report(std::FILE* file) const {
        std::fprintf(file, "dram %s %u %u %u\n", device.name, CLOCK_KHZ, BURST_BYTES, BURST_CLOCKS);
        device.each([file](const char* name, Time time) {
            std::fprintf(file, "timing %s %u %u\n", name, time.clocks, time.picoseconds);
        });
        statistics.each([file](const char* name, uint64_t count) {
            std::fprintf(file, "statistic %s %llu\n", name, (unsigned long long)count);
        });
    }

    // Issues every command that is possible up to and including clock `until`.
    void advance(uint64_t until) {
        while (wake <= until) {
            clock = wake;
            step();
        }
        clock = until;
    }

private:
    enum Needs : uint8_t { NONE, ACTIVATE, PRECHARGE };

    struct Place { uint32_t block, row; uint16_t column; uint8_t bank, group; };  // bank: of all groups
    struct Request { uint64_t* due; Place place; };
    struct Ring {
        Request requests[RING];
        uint32_t head = 0, tail = 0, queued = 0;
    };
    struct Entry { uint64_t* due; Place place; uint64_t entered; uint32_t port; Needs needs; bool blocked; };
    struct Queue {
        Entry entries[QUEUE];  // oldest first
        uint32_t count = 0;
        void remove(uint32_t i) { std::memmove(entries + i, entries + i + 1, (--count - i) * sizeof(Entry)); }
    };
    struct Bank { uint64_t activate_ok = 0, precharge_ok = 0, column_ok = 0; uint32_t row = 0; bool open = false; };

    uint32_t share, group_bits = 0, column_bits = 0, bank_bits = 0, blocked = 0;
    std::vector<Ring> rings;
    Queue reads, writes;
    Bank banks[MAX_BANKS];
    uint64_t rc, rtw;
    uint64_t activate_ok[MAX_BANKS] = {}, read_ok[MAX_BANKS] = {}, write_ok[MAX_BANKS] = {};  // by group
    uint64_t activates[4] = {};  // end of tFAW of the last four
    uint32_t oldest_activate = 0;
    bool draining = false;
    uint64_t clock = 0, wake = 0, refresh_due;

    Place locate(uint32_t address) const {
        uint32_t block = address / BURST_BYTES, rest = block;
        auto field = [&](uint32_t bits) { uint32_t value = rest & ((1u << bits) - 1); rest >>= bits; return value; };
        uint32_t group = field(group_bits), column = field(column_bits), bank = field(bank_bits);
        return {block, rest, uint16_t(column), uint8_t(group << bank_bits | bank), uint8_t(group)};
    }

    void admit(uint32_t port) {
        Ring& ring = rings[port];
        while (ring.head != ring.tail && ring.queued < share) {
            Request& request = ring.requests[ring.head++ % RING];
            ring.queued++;
            bool held = false;
            for (uint32_t i = 0; i < writes.count && !held; i++) held = writes.entries[i].place.block == request.place.block;
            blocked += held;
            statistics.collisions += held;
            reads.entries[reads.count++] = {request.due, request.place, clock, port, NONE, held};
        }
    }

    void step() {
        if (clock >= refresh_due) { refresh(); return; }
        if (draining) draining = writes.count > (reads.count && !blocked ? WRITE_LOW : 0);
        else draining = writes.count >= WRITE_HIGH || (writes.count && (blocked || !reads.count));
        schedule(draining ? writes : reads);
        wake = std::min(wake, refresh_due);
    }

    void schedule(Queue& queue) {
        Entry* entries = queue.entries;
        uint32_t wanted = 0, taken = 0;  // banks whose open row is wanted; banks that an older request disposes of
        for (uint32_t i = 0; i < queue.count; i++) {
            const Bank& bank = banks[entries[i].place.bank];
            if (bank.open && bank.row == entries[i].place.row && !entries[i].blocked) wanted |= 1u << entries[i].place.bank;
        }
        bool impatient = queue.count && clock - entries[0].entered > PATIENCE;
        const uint64_t* column_ok = &queue == &reads ? read_ok : write_ok;
        uint32_t activate = QUEUE, precharge = QUEUE;
        wake = NEVER;
        for (uint32_t i = 0; i < queue.count; i++) {
            const Entry& entry = entries[i];
            const Bank& bank = banks[entry.place.bank];
            uint32_t bit = 1u << entry.place.bank, group = entry.place.group;
            uint64_t at;
            if (entry.blocked || taken & bit) continue;
            if (bank.open && bank.row == entry.place.row) {
                at = std::max(bank.column_ok, column_ok[group]);
                if (at <= clock) { column(queue, i); return; }
            } else if (bank.open) {
                if (wanted & bit && !(impatient && i == 0)) continue;
                taken |= bit;
                at = bank.precharge_ok;
                if (at <= clock) { precharge = std::min(precharge, i); continue; }
            } else {
                taken |= bit;
                at = std::max(std::max(bank.activate_ok, activate_ok[group]), activates[oldest_activate]);
                if (at <= clock) { activate = std::min(activate, i); continue; }
            }
            wake = std::min(wake, at);
        }
        if (activate < QUEUE) open(entries[activate]);
        else if (precharge < QUEUE) close(entries[precharge]);
    }

    void issued(const char* name, uint32_t group, uint32_t bank, uint32_t row, uint32_t column) {
        wake = clock + 1;
        if (log) std::fprintf(log, "%llu,%s,%u,%u,%u,%u\n", (unsigned long long)clock, name, group, bank, row, column);
    }

    void open(Entry& entry) {
        Bank& bank = banks[entry.place.bank];
        bank.open = true;
        bank.row = entry.place.row;
        bank.column_ok = clock + device.rcd;
        bank.precharge_ok = clock + device.ras;
        bank.activate_ok = clock + rc;
        for (uint32_t group = 0; group < device.groups; group++)
            activate_ok[group] = std::max(activate_ok[group],
                                          clock + (group == entry.place.group ? device.rrd_l : device.rrd_s));
        activates[oldest_activate] = clock + device.faw;
        oldest_activate = (oldest_activate + 1) % 4;
        if (entry.needs == NONE) entry.needs = ACTIVATE;
        statistics.activates++;
        issued("ACT", entry.place.group, entry.place.bank, entry.place.row, 0);
    }

    void close(Entry& entry) {
        Bank& bank = banks[entry.place.bank];
        bank.open = false;
        bank.activate_ok = std::max(bank.activate_ok, clock + device.rp);
        entry.needs = PRECHARGE;
        statistics.precharges++;
        issued("PRE", entry.place.group, entry.place.bank, bank.row, 0);
    }

    void column(Queue& queue, uint32_t i) {
        Entry entry = queue.entries[i];
        queue.remove(i);
        Bank& bank = banks[entry.place.bank];
        (entry.needs == NONE ? statistics.row_hits : entry.needs == ACTIVATE ? statistics.row_misses
                                                                             : statistics.row_conflicts)++;
        if (&queue == &reads) {
            bank.precharge_ok = std::max(bank.precharge_ok, clock + device.rtp);
            for (uint32_t group = 0; group < device.groups; group++) {
                read_ok[group] = std::max(read_ok[group], clock + (group == entry.place.group ? device.ccd_l : device.ccd_s));
                write_ok[group] = std::max(write_ok[group], clock + rtw);
            }
            *entry.due = clock + device.cl + BURST_CLOCKS;
            statistics.reads++;
            rings[entry.port].queued--;
            admit(entry.port);
        } else {
            uint64_t written = clock + device.cwl + BURST_CLOCKS;
            bank.precharge_ok = std::max(bank.precharge_ok, written + device.wr);
            for (uint32_t group = 0; group < device.groups; group++) {
                bool same = group == entry.place.group;
                write_ok[group] = std::max(write_ok[group], clock + (same ? device.ccd_l : device.ccd_s));
                read_ok[group] = std::max(read_ok[group], written + (same ? device.wtr_l : device.wtr_s));
            }
            statistics.writes++;
            if (blocked) release(entry.place.block);
        }
        issued(&queue == &reads ? "RD" : "WR", entry.place.group, entry.place.bank, entry.place.row, entry.place.column);
    }

    void release(uint32_t block) {  // reads that waited for the write of `block`
        for (uint32_t i = 0; i < reads.count; i++)
            if (reads.entries[i].blocked && reads.entries[i].place.block == block) {
                reads.entries[i].blocked = false;
                blocked--;
            }
    }

    void refresh() {
        uint64_t closable = 0, idle = 0;
        bool any_open = false;
        for (const Bank& bank : banks) {
            any_open |= bank.open;
            if (bank.open) closable = std::max(closable, bank.precharge_ok);
            idle = std::max(idle, bank.activate_ok);
        }
        wake = any_open ? closable : idle;
        if (wake > clock) return;
        if (any_open) {
            for (Bank& bank : banks) {
                if (!bank.open) continue;
                bank.open = false;
                bank.activate_ok = std::max(bank.activate_ok, clock + device.rp);
            }
            statistics.precharges++;
            issued("PREA", 0, 0, 0, 0);
        } else {
            for (Bank& bank : banks) bank.activate_ok = clock + device.rfc;
            refresh_due += device.refi;
            statistics.refreshes++;
            issued("REF", 0, 0, 0, 0);
        }
    }
};

}  // namespace dram
