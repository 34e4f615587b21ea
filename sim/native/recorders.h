// What a run tells besides its tokens: files of read bursts, of operation results and of busy units, each written if it has a
// path, and digests of final hidden states. Cycles count from the start of the run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>

class Recorder {
public:
    Recorder(const std::string& path, const char* header) {
        if (path.empty()) return;
        file = std::fopen(path.c_str(), "wb");
        if (!file) { std::perror(path.c_str()); std::exit(2); }
        std::fputs(header, file);
    }
    Recorder(const Recorder&) = delete;
    ~Recorder() { if (file) std::fclose(file); }

    explicit operator bool() const { return file; }

protected:
    std::FILE* file = nullptr;
};

// Read bursts as the ports accept them; addresses as on the port.
class ReadTrace : public Recorder {
public:
    explicit ReadTrace(const std::string& path) : Recorder(path, "cycle,port,address,bytes\n") {}

    void add(uint64_t cycle, uint32_t port, uint32_t address, uint32_t bytes) {
        std::fprintf(file, "%llu,%u,%u,%u\n", (unsigned long long)cycle, port, address, bytes);
    }
};

// Words of operation results, each behind its operation's tag; sim/native/locate.py reads them.
class Observations : public Recorder {
public:
    explicit Observations(const std::string& path) : Recorder(path, "") {}

    void add(uint32_t tag, const void* elements, size_t bytes) {
        std::fwrite(&tag, 4, 1, file);
        std::fwrite(elements, bytes, 1, file);
    }
};

// Which units are busy, with which operation and matrix, and the memory words so far; sim/native/timeline.py reads it.
class TimelineFile : public Recorder {
public:
    explicit TimelineFile(const std::string& path) : Recorder(path, "cycle,busy,tag,linear_tag,read_beats,write_beats\n") {}

    // A line is due whenever a unit begins or ends, and now and then for the bandwidth.
    bool due(uint64_t clock, uint32_t busy, uint32_t tag, uint32_t linear_tag) {
        if (seen && busy == seen_busy && tag == seen_tag && linear_tag == seen_linear_tag && clock % 1024) return false;
        seen = true;
        seen_busy = busy;
        seen_tag = tag;
        seen_linear_tag = linear_tag;
        return true;
    }

    // The line of what `due` has seen.
    void add(uint64_t cycle, uint64_t read_beats, uint64_t write_beats) {
        std::fprintf(file, "%llu,%u,%u,%u,%llu,%llu\n", (unsigned long long)cycle, seen_busy, seen_tag, seen_linear_tag,
                     (unsigned long long)read_beats, (unsigned long long)write_beats);
    }

private:
    bool seen = false;
    uint32_t seen_busy = 0, seen_tag = 0, seen_linear_tag = 0;
};

// Digests of the final hidden states, until their tokens leave: CRC-32 (zlib's) of the elements as little-endian 32-bit
// integers, in order; `hidden_digest` of sim/golden/machine.py. A hidden state is `elements` elements in observed words with
// the tag of the final norm, `lanes` in a word; what is behind the last element in its word is padding.
class HiddenStates {
public:
    HiddenStates(uint32_t tag, uint32_t lanes, uint32_t elements) : tag(tag), lanes(lanes), elements(elements) {}

    explicit operator bool() const { return elements; }

    void add(uint32_t word_tag, const void* word) {
        if (word_tag != tag) return;
        for (uint32_t lane = 0; lane < lanes && seen < elements; lane++, seen++) {
            uint32_t element;
            std::memcpy(&element, static_cast<const uint8_t*>(word) + 4 * lane, 4);
            remainder ^= element;
            for (int bit = 0; bit < 32; bit++) remainder = remainder >> 1 ^ (remainder & 1 ? 0xEDB88320u : 0);
        }
        if (seen < elements) return;
        digests.push_back(~remainder);
        begin();
    }

    bool empty() const { return digests.empty(); }

    uint32_t take() {
        uint32_t digest = digests.front();
        digests.pop_front();
        return digest;
    }

    void clear() {
        digests.clear();
        begin();
    }

private:
    void begin() {
        seen = 0;
        remainder = ~0u;
    }

    uint32_t tag, lanes, elements, seen = 0, remainder = ~0u;
    std::deque<uint32_t> digests;
};
