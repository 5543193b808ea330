/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What makes a frame checkable: 16 bytes of magic, checksum and sequence number, then a pattern that differs
 * from frame to frame.  A copy from the wrong place, a torn frame or a wrong length changes the checksum.
 */
#include <string.h>

#include "../../datapath/csrc/compiler.h"
#include "driver.h"

#define VU_STAMP_MAGIC 0x76680000U
#define VU_PATTERN_SEED 0x9E3779B97F4A7C15ULL
#define VU_PATTERN_STEP 0xD1342543DE82EF95ULL

struct stamp {
    uint32_t magic; /* the run in its low half */
    uint32_t checksum;
    uint64_t sequence;
};

_Static_assert(sizeof(struct stamp) == VU_STAMP_SIZE, "as the header says");

/* Two running sums as in Fletcher's: the second makes the order of words count. */
struct sums {
    uint64_t plain;
    uint64_t ordered;
};

static vu_always_inline void add(struct sums *sums, uint64_t word)
{
    sums->plain += word;
    sums->ordered += sums->plain;
}

static uint32_t fold(const struct sums *sums)
{
    const uint64_t mixed = (sums->plain ^ (sums->ordered << 1)) * VU_PATTERN_SEED;
    return (uint32_t)(mixed >> 32);
}

void vu_stamp_write(uint8_t *bytes, uint32_t length, uint32_t run, uint64_t sequence)
{
    struct stamp stamp = {.magic = VU_STAMP_MAGIC | (run & 0xFFFF), .sequence = sequence};
    struct sums sums = {.plain = sequence, .ordered = length};
    uint64_t word = sequence * VU_PATTERN_SEED;
    uint32_t at = VU_STAMP_SIZE;

    for (; at + sizeof(word) <= length; at += (uint32_t)sizeof(word)) {
        word += VU_PATTERN_STEP;
        memcpy(bytes + at, &word, sizeof(word));
        add(&sums, word);
    }
    for (; at < length; at++) {
        bytes[at] = (uint8_t)(word >> (8 * (at % 8)));
        add(&sums, bytes[at]);
    }
    stamp.checksum = fold(&sums);
    memcpy(bytes, &stamp, sizeof(stamp));
}

int vu_stamp_check(const uint8_t *bytes, uint32_t length, uint32_t run, uint64_t *sequence)
{
    struct stamp stamp;
    struct sums sums;
    uint64_t word;
    uint32_t at = VU_STAMP_SIZE;

    if (length < VU_STAMP_SIZE) {
        return VU_STAMP_FOREIGN;
    }
    memcpy(&stamp, bytes, sizeof(stamp));
    if (stamp.magic != (VU_STAMP_MAGIC | (run & 0xFFFF))) {
        return VU_STAMP_FOREIGN;
    }
    sums = (struct sums){.plain = stamp.sequence, .ordered = length};
    for (; at + sizeof(word) <= length; at += (uint32_t)sizeof(word)) {
        memcpy(&word, bytes + at, sizeof(word));
        add(&sums, word);
    }
    for (; at < length; at++) {
        add(&sums, bytes[at]);
    }
    *sequence = stamp.sequence;
    return fold(&sums) == stamp.checksum ? VU_STAMP_WHOLE : VU_STAMP_CORRUPT;
}
