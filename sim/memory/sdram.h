// A 16-bit SDR SDRAM with four banks, and a checker of the rules of its data sheet.
//
// Written from the data sheets (command truth table, initialization, AC characteristics), not from the controller. Time is counted in
// picoseconds, one clock period per step. The first broken rule is kept as a sentence; what happens afterwards has no meaning.
// Not modelled, and refused: auto precharge, interrupted bursts, self refresh, CKE low after the start, interleaved and full-page bursts.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

struct SdramFigures {  // picoseconds, and clocks where the name says so
    int64_t period, row_bits, column_bits, clock_cl2, clock_cl3, rc, rfc, ras, ras_most, rcd, rp, rrd, wr, mrd, rrd_clocks, wr_clocks,
        mrd_clocks, refresh, power_up;
};

struct SdramPins {
    bool cke, cs_n, ras_n, cas_n, we_n;
    unsigned ba, a, dqm, dq;
    bool driven;  // the controller drives dq
};

class Sdram {
public:
    explicit Sdram(const SdramFigures &figures) : figures_(figures), words_(size_t(4) << (figures.row_bits + figures.column_bits)) {}

    std::vector<uint16_t> &words() { return words_; }  // by row, bank, column
    const std::string &violation() const { return violation_; }
    uint64_t counts[5] = {};  // ACTIVE, PRECHARGE, REFRESH, READ, WRITE

    // One rising clock edge. Whether, and which, data are valid at the next one.
    bool step(const SdramPins &pins, uint16_t &word) {
        now_ += figures_.period;
        clock_++;
        if (pins.cke && !pins.cs_n) command(pins);
        if (pins.cke) awake_ = true;
        else if (awake_) fail("CKE is low after the start");
        write_word(pins);
        masked_[clock_ % masked_.size()] = pins.dqm;
        bool valid = read_word(word);
        if (pins.driven && (valid || due_[clock_ % 16] == clock_)) fail("the controller drives DQ while the chip does");
        watch();
        return valid;
    }

private:
    struct Bank {
        bool open = false;
        unsigned row = 0;
        int64_t activated = FAR, precharged = FAR, written = FAR;  // times; of the last word written
        int64_t written_clock = FAR, read_clock = FAR;             // clocks; of the last READ
    };
    static constexpr int64_t FAR = -(int64_t(1) << 60);
    enum { LOAD_MODE, REFRESH, PRECHARGE, ACTIVE, WRITE, READ, STOP, NOP };

    SdramFigures figures_;
    std::vector<uint16_t> words_;
    std::string violation_;
    std::array<Bank, 4> banks_;
    std::array<unsigned, 4> masked_ = {};
    int64_t now_ = 0, clock_ = 0;
    int64_t refreshed_ = FAR, mode_set_ = FAR, mode_clock_ = FAR, activated_ = FAR, activated_clock_ = FAR, ready_at_ = 0;
    bool awake_ = false, precharged_all_ = false, mode_ = false;
    unsigned start_refreshes_ = 0, last_activated_ = 4;
    int64_t refreshes_ = 0;
    int64_t latency_ = 0, length_ = 0;
    int64_t read_clock_ = FAR, write_clock_ = FAR;  // of the last READ and WRITE
    size_t read_at_ = 0, write_at_ = 0;             // first word of its burst's block
    unsigned read_column_ = 0, write_column_ = 0, write_bank_ = 0;

    void fail(const std::string &what) {
        if (violation_.empty()) violation_ = "clock " + std::to_string(clock_) + ": " + what;
    }
    static std::string ns(int64_t picoseconds) {
        char text[40];
        std::snprintf(text, sizeof text, "%.1f ns", double(picoseconds) / 1000);
        return text;
    }
    void least(const char *name, int64_t since, int64_t picoseconds, int64_t since_clock = FAR, int64_t clocks = 0) {
        if (now_ - since < picoseconds) fail(std::string(name) + " is " + ns(now_ - since) + ", at least " + ns(picoseconds));
        if (clock_ - since_clock < clocks)
            fail(std::string(name) + " is " + std::to_string(clock_ - since_clock) + " clocks, at least " + std::to_string(clocks));
    }
    bool ready() const { return mode_ && start_refreshes_ >= 2; }
    static std::string in_bank(const char *what, unsigned bank) { return std::string(what) + " of bank " + std::to_string(bank); }

    void command(const SdramPins &pins) {
        int code = pins.ras_n << 2 | pins.cas_n << 1 | int(pins.we_n);
        if (code == NOP) return;
        if (now_ < figures_.power_up) fail("a command " + ns(now_) + " after power-up, earliest " + ns(figures_.power_up));
        least("tMRD", mode_set_, figures_.mrd, mode_clock_, figures_.mrd_clocks);
        least("tRFC", refreshed_, figures_.rfc);
        if (code != PRECHARGE && !precharged_all_) fail("a command before the first PRECHARGE of all banks");
        if ((code == ACTIVE || code == READ || code == WRITE) && !ready()) fail("an access before the chip is initialized");
        switch (code) {
        case LOAD_MODE: load_mode(pins); break;
        case REFRESH: refresh(); break;
        case PRECHARGE:
            counts[1]++;
            for (unsigned bank = 0; bank < 4; bank++)
                if (pins.a >> 10 & 1 || bank == pins.ba) precharge(bank);
            precharged_all_ = precharged_all_ || pins.a >> 10 & 1;
            break;
        case ACTIVE: active(pins); break;
        case READ:
        case WRITE: access(pins, code == READ); break;
        default: fail("BURST STOP");
        }
    }

    void all_closed(const char *what) {
        for (unsigned bank = 0; bank < 4; bank++) {
            if (banks_[bank].open) fail(in_bank(what, bank) + ", which is open");
            least("tRP", banks_[bank].precharged, figures_.rp);
        }
    }

    void load_mode(const SdramPins &pins) {
        all_closed("LOAD MODE REGISTER");
        unsigned length = pins.a & 7, latency = pins.a >> 4 & 7;
        if (length > 3 || pins.a >> 3 & 1 || pins.a >> 7 || pins.ba) fail("a mode that is not modelled");
        if (latency != 2 && latency != 3) fail("a CAS latency that is not 2 or 3");
        if (figures_.period < (latency == 2 ? figures_.clock_cl2 : figures_.clock_cl3)) fail("the clock is too fast for the CAS latency");
        length_ = 1 << length, latency_ = latency;
        mode_ = true, mode_set_ = now_, mode_clock_ = clock_;
        if (ready()) ready_at_ = now_, refreshes_ = 0;
    }

    void refresh() {
        counts[2]++;
        all_closed("REFRESH");
        refreshed_ = now_;
        refreshes_++;
        if (!ready() && ++start_refreshes_, ready() && !ready_at_) ready_at_ = now_, refreshes_ = 0;
    }

    void precharge(unsigned number) {
        Bank &bank = banks_[number];
        if (bank.open) {
            least("tRAS", bank.activated, figures_.ras);
            least("tWR", bank.written, figures_.wr, bank.written_clock, figures_.wr_clocks);
            if (clock_ - bank.read_clock < length_) fail("PRECHARGE interrupts a READ");
            if (write_bank_ == number && clock_ - write_clock_ < length_) fail("PRECHARGE interrupts a WRITE");
            bank.precharged = now_;
        }
        bank.open = false;
    }

    void active(const SdramPins &pins) {
        counts[0]++;
        Bank &bank = banks_[pins.ba];
        if (bank.open) fail(in_bank("ACTIVE", pins.ba) + ", which is open");
        least("tRP", bank.precharged, figures_.rp);
        least("tRC", bank.activated, figures_.rc);
        if (last_activated_ != pins.ba) least("tRRD", activated_, figures_.rrd, activated_clock_, figures_.rrd_clocks);
        if (pins.a >> figures_.row_bits) fail("a row that does not exist");
        bank.open = true, bank.row = pins.a, bank.activated = activated_ = now_;
        activated_clock_ = clock_, last_activated_ = pins.ba;
    }

    void access(const SdramPins &pins, bool read) {
        counts[read ? 3 : 4]++;
        Bank &bank = banks_[pins.ba];
        if (!bank.open) fail(in_bank(read ? "READ" : "WRITE", pins.ba) + ", which is closed");
        least("tRCD", bank.activated, figures_.rcd);
        if (pins.a >> 10) fail("auto precharge");
        if (pins.a >> figures_.column_bits) fail("a column that does not exist");
        if (clock_ - write_clock_ < length_ || clock_ - read_clock_ < length_) fail("an access interrupts a burst");
        if (!read && clock_ - read_clock_ < latency_ + length_ + 1) fail("WRITE with no clock between the data of a READ and its own");
        unsigned column = pins.a & ((1u << figures_.column_bits) - 1), within = unsigned(length_ - 1);
        size_t block = ((size_t(bank.row) << 2 | pins.ba) << figures_.column_bits) | (column & ~within);
        if (read) read_clock_ = bank.read_clock = clock_, read_at_ = block, read_column_ = column & within, push();
        else write_clock_ = clock_, write_at_ = block, write_column_ = column & within, write_bank_ = pins.ba;
    }

    // Data of READs under way, by the clock edge at which they are valid.
    std::array<int64_t, 16> due_{};
    std::array<uint16_t, 16> data_{};
    void push() {
        for (int64_t k = 0; k < length_; k++) {
            int64_t edge = clock_ + latency_ + k;
            due_[edge % 16] = edge;
            data_[edge % 16] = words_[read_at_ + ((read_column_ + k) & (length_ - 1))];
        }
    }
    bool read_word(uint16_t &word) {
        int64_t edge = clock_ + 1;
        if (due_[edge % 16] != edge) return false;
        word = data_[edge % 16];
        unsigned mask = masked_[(edge - 2) % masked_.size()];  // DQM has a latency of two clocks
        if (mask & 1) word ^= 0x00A5;
        if (mask & 2) word ^= 0x5A00;
        return true;
    }

    void write_word(const SdramPins &pins) {
        int64_t k = clock_ - write_clock_;
        if (k >= length_) return;
        if (!pins.driven) fail("the controller does not drive the data of a WRITE");
        uint16_t &word = words_[write_at_ + ((write_column_ + k) & (length_ - 1))];
        for (unsigned lane = 0; lane < 2; lane++)
            if (!(pins.dqm >> lane & 1)) word = (word & ~(0xFF << 8 * lane)) | (pins.dq & 0xFF << 8 * lane);
        banks_[write_bank_].written = now_, banks_[write_bank_].written_clock = clock_;
    }

    void watch() {
        for (unsigned bank = 0; bank < 4; bank++)
            if (banks_[bank].open && now_ - banks_[bank].activated > figures_.ras_most) fail(in_bank("longest tRAS", bank) + " is over");
        // Eight refreshes may be put off.
        if (ready() && (now_ - ready_at_) / figures_.refresh - refreshes_ > 8) fail("more than eight refreshes are due");
    }
};
