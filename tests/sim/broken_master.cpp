// A master that misbehaves, in front of the memory of sim/native/memory.h: prints what the memory says of it. One argument per
// cycle, CHANNEL VALID READY VALUE (such as "ar 1 0 64"): VALUE is the address, or the data of every byte; "reset" resets.

#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>

#include "memory.h"

int main(int argc, char** argv) {
    auto memory = std::make_unique<Memory<1, 4>>();
    for (int i = 1; i < argc; i++) {
        std::istringstream cycle(argv[i]);
        std::string channel;
        bool valid, ready;
        uint32_t value;
        cycle >> channel >> valid >> ready >> value;
        memory->begin_cycle(i);
        if (channel == "reset") memory->clear();
        else if (channel == "ar") memory->watch_read(0, valid, ready, {0, value, 3, 2, 1});
        else if (channel == "aw") memory->watch_write(0, valid, ready, {0, value, 3, 2, 1});
        else {
            Memory<1, 4>::Beat beat{{}, 15, false};
            std::memset(beat.data, value, sizeof beat.data);
            memory->watch_data(0, valid, ready, beat);
        }
    }
    std::printf("%s", memory->violation.c_str());
}
