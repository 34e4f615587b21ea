// Contents of the memory behind the ports, from files and to them. An error ends the program.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

// Memory of `size` bytes whose first ones are the file's; a page is read when it is needed, and never written back.
template <class Ports> void map_image(Ports& memory, const std::string& path, uint64_t size) {
    int file = open(path.c_str(), O_RDONLY);
    struct stat info;
    if (file < 0 || fstat(file, &info)) { std::perror(path.c_str()); std::exit(2); }
    uint64_t page = 4096, file_bytes = (info.st_size + page - 1) / page * page;
    memory.size = size;
    uint64_t total = std::max<uint64_t>((size + page - 1) / page * page, file_bytes);
    void* base = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED
        || mmap(base, info.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED) {
        std::perror("mmap"); std::exit(2);
    }
    close(file);
    memory.bytes = static_cast<uint8_t*>(base);
}

// Copies a file to memory.
template <class Ports> void preload(Ports& memory, uint64_t address, const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (!file || std::fseek(file, 0, SEEK_END)) { std::perror(path.c_str()); std::exit(2); }
    uint64_t length = std::ftell(file);
    std::rewind(file);
    if (address > memory.size || length > memory.size - address) {
        std::fprintf(stderr, "%s does not fit in memory\n", path.c_str());
        std::exit(2);
    }
    if (std::fread(memory.bytes + address, 1, length, file) != length) { std::perror(path.c_str()); std::exit(2); }
    std::fclose(file);
}

// Writes memory from `address` on to a file.
template <class Ports> void dump(const Ports& memory, uint64_t address, const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (address > memory.size) { std::fprintf(stderr, "%s would begin beyond memory\n", path.c_str()); std::exit(2); }
    uint64_t length = memory.size - address;
    if (!file || std::fwrite(memory.bytes + address, 1, length, file) != length || std::fclose(file)) {
        std::perror(path.c_str());
        std::exit(2);
    }
}
