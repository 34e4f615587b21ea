// The SDRAM of sdram.h for Python.
#include "sdram.h"

extern "C" {
Sdram *sdram_new(const int64_t *figures) { return new Sdram(*reinterpret_cast<const SdramFigures *>(figures)); }
void sdram_delete(Sdram *chip) { delete chip; }
uint16_t *sdram_words(Sdram *chip) { return chip->words().data(); }
const char *sdram_violation(Sdram *chip) { return chip->violation().c_str(); }
const uint64_t *sdram_counts(Sdram *chip) { return chip->counts; }

// Pins, lowest first: cke cs_n ras_n cas_n we_n ba[2] dqm[2] driven. The word valid at the next edge, or -1.
int32_t sdram_step(Sdram *chip, uint32_t pins, uint32_t address, uint32_t dq) {
    auto bit = [&](int number) { return bool(pins >> number & 1); };
    uint16_t word = 0;
    SdramPins now{bit(0), bit(1), bit(2), bit(3), bit(4), pins >> 5 & 3, address, pins >> 7 & 3, dq, bit(9)};
    return chip->step(now, word) ? word : -1;
}
}
