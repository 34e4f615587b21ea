// What sim/native/run.py tells the driver: NAME VALUE pairs. A name that is not known, or a value of the wrong form, is refused.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

using Writes = std::vector<std::pair<uint32_t, uint32_t>>;  // register offsets and values, in order

struct Options {
    std::string image, wave, observe, read_trace, timeline, model = "ideal";
    uint64_t memory = 0, latency = 20, stall = 0, seed = 1, limit = 0, prompt = 0, token_stall = 0, reset_at = 0;
    uint64_t error_begin = 1, error_end = 0, error_response = 2, clock_khz = 250'000;
    uint64_t stop_at = 0, stop_channels = 0;                 // from this cycle of the run on; bits of Channel
    std::vector<uint32_t> bases;                             // address of the first word, port after port
    std::vector<std::pair<uint64_t, std::string>> preloads;  // files and the linear addresses that they are copied to
    std::vector<std::pair<uint64_t, std::string>> dumps;     // linear addresses from which on memory is written to files, at the end
    Writes writes, rewrites;                                 // before the run; after an error, before a second run
    std::vector<uint32_t> reads, tokens;
    uint32_t status = 0, done_mask = 0, busy_mask = 0;
    bool steps = false;                                      // run after run, as standard input says
    uint32_t hidden_tag = 0, hidden_lanes = 0, hidden_elements = 0;  // see HiddenStates; no elements: no digests

    Options(int argc, char** argv) {
        for (int i = 1; i + 1 < argc; i += 2) set(argv[i], argv[i + 1]);
    }

private:
    static uint64_t number(const char* text) { return std::strtoull(text, nullptr, 0); }

    // What is behind the first `separator` of `value`.
    static const char* behind(char separator, const char* value, const std::string& name, const char* form) {
        const char* found = std::strchr(value, separator);
        if (!found) { std::fprintf(stderr, "%s needs %s, not %s\n", name.c_str(), form, value); std::exit(2); }
        return found + 1;
    }

    void set(const std::string& name, const char* value) {
        if (name == "image") image = value;
        else if (name == "wave") wave = value;
        else if (name == "observe") observe = value;
        else if (name == "read_trace") read_trace = value;
        else if (name == "timeline") timeline = value;
        else if (name == "model") model = value;
        else if (name == "clock_khz") clock_khz = number(value);
        else if (name == "base") bases.push_back(number(value));
        else if (name == "preload") preloads.emplace_back(number(value), behind(':', value, name, "ADDRESS:FILE"));
        else if (name == "dump") dumps.emplace_back(number(value), behind(':', value, name, "ADDRESS:FILE"));
        else if (name == "memory") memory = number(value);
        else if (name == "latency") latency = number(value);
        else if (name == "stall") stall = number(value);
        else if (name == "token_stall") token_stall = number(value);
        else if (name == "seed") seed = number(value);
        else if (name == "limit") limit = number(value);
        else if (name == "reset_at") reset_at = number(value);
        else if (name == "error_begin") error_begin = number(value);
        else if (name == "error_end") error_end = number(value);
        else if (name == "error_response") error_response = number(value);
        else if (name == "stop_at") stop_at = number(value);
        else if (name == "stop_channels") stop_channels = number(value);
        else if (name == "prompt") prompt = number(value);
        else if (name == "status") status = number(value);
        else if (name == "done_mask") done_mask = number(value);
        else if (name == "busy_mask") busy_mask = number(value);
        else if (name == "steps") steps = number(value);
        else if (name == "hidden_tag") hidden_tag = number(value);
        else if (name == "hidden_lanes") hidden_lanes = number(value);
        else if (name == "hidden_elements") hidden_elements = number(value);
        else if (name == "read") reads.push_back(number(value));
        else if (name == "token") tokens.push_back(number(value));
        else if (name == "write") writes.emplace_back(number(value), number(behind('=', value, name, "OFFSET=VALUE")));
        else if (name == "rewrite") rewrites.emplace_back(number(value), number(behind('=', value, name, "OFFSET=VALUE")));
        else { std::fprintf(stderr, "no option %s\n", name.c_str()); std::exit(2); }
    }
};
