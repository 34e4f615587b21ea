// A simulated board: accelerator and host link with memory, the serial line on a pseudo-terminal. With SDRAM_FIGURES it is the
// system of a real board, with an SDRAM at its pins that checks its data sheet.
//
// Arguments: bytes of memory, cycles per bit, faults per million bytes, seed, a file that memory begins with. The first line of output
// is the name of the terminal; at the end of standard input the simulation ends and says what it did.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>

#include "Vboard.h"
#include "interface.h"
#ifdef SDRAM_FIGURES
#include "../memory/sdram.h"
#else
#include "memory.h"
#endif
#include "verilated.h"

namespace {

constexpr uint32_t OKAY = 0, SLVERR = 2;
constexpr uint64_t LOOK = 64, IDLE = 20'000;  // cycles between looks at the terminal; without any traffic, until it waits
constexpr int BITS = 10;

struct Faults {
    uint32_t ppm;
    uint64_t state, made = 0;

    uint32_t random() { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state >> 16; }

    // What becomes of a byte on the line.
    void pass(uint8_t byte, std::deque<uint8_t>& to) {
        if (random() % 1'000'000 >= ppm) { to.push_back(byte); return; }
        made++;
        switch (random() % 4) {
            case 0: return;
            case 1: to.push_back(byte); to.push_back(byte); return;
            case 2: to.push_back(byte ^ 1 << random() % 8); return;
            default: to.push_back(random());
        }
    }
};

int open_terminal() {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) { std::perror("pseudo-terminal"); std::exit(2); }
    const char* name = ptsname(terminal);
    int other = open(name, O_RDWR | O_NOCTTY);  // stays open: a host may come and go
    termios settings;
    if (other < 0 || tcgetattr(other, &settings)) { std::perror(name); std::exit(2); }
    cfmakeraw(&settings);
    tcsetattr(other, TCSANOW, &settings);
    std::printf("%s\n", name);
    std::fflush(stdout);
    return terminal;
}

}  // namespace

#ifdef SDRAM_FIGURES

#define PIN(name) sdram___05F##name  // Verilator's name of sdram__name

// The chip and the registers in the pads.
class Behind {
public:
    Behind(uint8_t*, uint64_t) : chip_(SdramFigures SDRAM_FIGURES) { std::fill(chip_.words().begin(), chip_.words().end(), 0xA5A5); }
    void drive(Vboard& dut, uint64_t cycle) {
        coming_[cycle % 8] = next_;
        const Word& word = coming_[(cycle - PAD_CYCLES) % 8];
        dut.PIN(dq_i) = word.valid ? word.bits : uint16_t(0x5A3C ^ cycle * 0x9E37);
    }
    bool take(Vboard& dut) {
        SdramPins pins{bool(dut.PIN(cke)), bool(dut.PIN(cs_n)), bool(dut.PIN(ras_n)), bool(dut.PIN(cas_n)), bool(dut.PIN(we_n)),
                       dut.PIN(ba), dut.PIN(a), dut.PIN(dqm), dut.PIN(dq_o), bool(dut.PIN(dq_oe))};
        next_.valid = chip_.step(pins, next_.bits);
        return next_.valid || pins.driven;
    }
    const std::string& violation() const { return chip_.violation(); }
    void* contents() { return chip_.words().data(); }
    size_t size() { return 2 * chip_.words().size(); }

private:
    struct Word { bool valid = false; uint16_t bits = 0; };
    Sdram chip_;
    Word next_, coming_[8];
};

#else

#define DRIVE(port, memory, offered_r, offered_b, id_r, id_b)                                                   \
    dut->port##_arready = memory.takes_read(0); dut->port##_awready = memory.takes_write(0);                    \
    dut->port##_wready = memory.takes_data(0);                                                                  \
    offered_r = memory.read_ready(0); dut->port##_rvalid = offered_r;                                           \
    if (offered_r) {                                                                                            \
        const Burst& burst = memory.ports[0].reads.front();                                                     \
        dut->port##_rlast = burst.beat + 1 == burst.beats; dut->port##_rresp = burst.error ? SLVERR : OKAY;     \
        std::memcpy(&dut->port##_rdata, memory.read_data(0), PORT_BYTES); id_r;                                 \
    }                                                                                                           \
    offered_b = memory.response_ready(0); dut->port##_bvalid = offered_b;                                       \
    if (offered_b) { dut->port##_bresp = memory.ports[0].writes.front().error ? SLVERR : OKAY; id_b; }

#define TAKE(port, memory, id_ar, id_aw)                                                                        \
    if (dut->port##_rvalid && dut->port##_rready) { memory.read_taken(0); active = true; }                      \
    if (dut->port##_bvalid && dut->port##_bready) { memory.response_taken(0); active = true; }                  \
    {                                                                                                           \
        Address read{id_ar, dut->port##_araddr, dut->port##_arlen, dut->port##_arsize, dut->port##_arburst};    \
        Address write{id_aw, dut->port##_awaddr, dut->port##_awlen, dut->port##_awsize, dut->port##_awburst};   \
        Memory<1, PORT_BYTES>::Beat beat{{}, dut->port##_wstrb, bool(dut->port##_wlast)};                                        \
        std::memcpy(beat.data, &dut->port##_wdata, PORT_BYTES);                                                 \
        memory.watch_read(0, dut->port##_arvalid, dut->port##_arready, read);                                   \
        memory.watch_write(0, dut->port##_awvalid, dut->port##_awready, write);                                 \
        memory.watch_data(0, dut->port##_wvalid, dut->port##_wready, beat);                                     \
        if (dut->port##_arvalid && dut->port##_arready) memory.accept_read(0, read);                            \
        if (dut->port##_awvalid && dut->port##_awready) memory.accept_write(0, write);                          \
        if (dut->port##_wvalid && dut->port##_wready) memory.accept_data(0, beat);                              \
    }

class Behind {
public:
    Behind(uint8_t* base, uint64_t bytes) {
        gmem_->bytes = link_->bytes = base;
        gmem_->size = link_->size = bytes;
    }
    void drive(Vboard& board, uint64_t cycle) {
        Vboard* dut = &board;
        bool offered_r, offered_b;
        gmem_->begin_cycle(cycle);
        link_->begin_cycle(cycle);
        DRIVE(m_axi_gmem, (*gmem_), offered_r, offered_b, dut->m_axi_gmem_rid = burst.id,
              dut->m_axi_gmem_bid = gmem_->ports[0].writes.front().id)
        DRIVE(m_axi_link, (*link_), offered_r, offered_b, (void)0, (void)0)
    }
    bool take(Vboard& board) {
        Vboard* dut = &board;
        bool active = false;
        TAKE(m_axi_gmem, (*gmem_), dut->m_axi_gmem_arid, dut->m_axi_gmem_awid)
        TAKE(m_axi_link, (*link_), 0, 0)
        return active;
    }
    const std::string& violation() const { return gmem_->violation.empty() ? link_->violation : gmem_->violation; }
    void* contents() { return gmem_->bytes; }
    size_t size() { return gmem_->size; }

private:
    using Port = Memory<1, PORT_BYTES>;
    std::unique_ptr<Port> gmem_ = std::make_unique<Port>(), link_ = std::make_unique<Port>();
};

#endif

int main(int argc, char** argv) {
    if (argc != 5 && argc != 6) {
        std::fprintf(stderr, "usage: %s MEMORY_BYTES CYCLES_PER_BIT FAULT_PPM SEED [CONTENTS]\n", argv[0]);
        return 2;
    }
    uint64_t bytes = std::strtoull(argv[1], nullptr, 0), period = std::strtoull(argv[2], nullptr, 0);
    Faults faults{uint32_t(std::strtoul(argv[3], nullptr, 0)), std::strtoull(argv[4], nullptr, 0) * 0x9E3779B97F4A7C15ull | 1};
    auto context = std::make_unique<VerilatedContext>();
    auto dut = std::make_unique<Vboard>(context.get());
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) { std::perror("mmap"); return 2; }
    std::memset(base, 0xA5, std::min<uint64_t>(bytes, 1 << 20));  // what nobody wrote is not zero
    Behind memory(static_cast<uint8_t*>(base), bytes);
    if (argc == 6) {
        std::FILE* file = std::fopen(argv[5], "rb");
        if (!file) { std::perror(argv[5]); return 2; }
        std::fread(memory.contents(), 1, memory.size(), file);
        std::fclose(file);
    }
    int terminal = open_terminal();

    std::deque<uint8_t> in, out;       // bytes from and to the host
    uint64_t cycle = 0, active = 0;
    uint32_t sending = 0; uint64_t send_end = 0, send_begin = 0;  // the byte on rx
    bool receiving = false; uint64_t receive_begin = 0; uint32_t received = 0, sampled = 0;
    for (bool ends = false; !ends && memory.violation().empty(); cycle++) {
        if (cycle % LOOK == 0) {
            if (in.empty()) {
                uint8_t buffer[256];
                ssize_t count = read(terminal, buffer, sizeof buffer);
                for (ssize_t i = 0; i < count; i++) faults.pass(buffer[i], in);
                if (count > 0) active = cycle;
            }
            while (!out.empty() && write(terminal, &out.front(), 1) == 1) out.pop_front();
            bool idle = cycle - active > IDLE;
            if (idle || cycle % (LOOK * 64) == 0) {
                pollfd files[2] = {{0, POLLIN, 0}, {terminal, POLLIN, 0}};
                poll(files, 2, idle ? 20 : 0);
                ends = files[0].revents & (POLLIN | POLLHUP);
            }
        }
        dut->aclk = 0;
        dut->aresetn = cycle >= 4;
        if (cycle >= send_end && !in.empty() && cycle > 64) {
            sending = in.front() << 1 | 1u << (BITS - 1);
            in.pop_front();
            send_begin = cycle;
            send_end = cycle + BITS * period;
        }
        dut->rx = cycle < send_end ? sending >> (cycle - send_begin) / period & 1 : 1;
        memory.drive(*dut, cycle);
        dut->eval();
        if (dut->aresetn && memory.take(*dut)) active = cycle;
        if (!receiving && !dut->tx) { receiving = true; receive_begin = cycle; received = sampled = 0; }
        if (receiving && cycle == receive_begin + sampled * period + period / 2) {
            received |= uint32_t(dut->tx) << sampled;
            if (++sampled == BITS) {
                receiving = false;
                active = cycle;
                if (!(received >> (BITS - 1))) { std::printf("the stop bit is low\n"); return 3; }
                faults.pass(received >> 1, out);
            }
        }
        dut->aclk = 1;
        dut->eval();
    }
    std::printf("cycles %llu\nfaults %llu\n", (unsigned long long)cycle, (unsigned long long)faults.made);
    if (!memory.violation().empty()) { std::printf("violation %s\n", memory.violation().c_str()); return 3; }
    return 0;
}
