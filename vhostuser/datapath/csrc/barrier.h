/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How shared memory is read and written.  The other side is a guest on another CPU, so every word of a
 * ring is one aligned atomic access (a torn index hangs the queue), read once into a local.
 * C11 acquire/release throughout: on x86 they cost nothing, on arm64 they are what makes it right.
 * Ring words are little-endian, but for a legacy guest of big-endian byte order (SET_VRING_ENDIAN): who
 * serves such a ring passes what it reads and writes through vu_turn16, 32 or 64.  The le16/le32/le64 types
 * keep a host word from being stored by accident.
 */
#ifndef VU_BARRIER_H
#define VU_BARRIER_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

#include "compiler.h"

typedef struct {
    uint16_t raw;
} vu_le16;
typedef struct {
    uint32_t raw;
} vu_le32;
typedef struct {
    uint64_t raw;
} vu_le64;

static vu_always_inline uint16_t vu_read_le16(const vu_le16 *word)
{
    return le16toh(__atomic_load_n(&word->raw, __ATOMIC_RELAXED));
}

static vu_always_inline uint32_t vu_read_le32(const vu_le32 *word)
{
    return le32toh(__atomic_load_n(&word->raw, __ATOMIC_RELAXED));
}

static vu_always_inline uint64_t vu_read_le64(const vu_le64 *word)
{
    return le64toh(__atomic_load_n(&word->raw, __ATOMIC_RELAXED));
}

static vu_always_inline void vu_write_le16(vu_le16 *word, uint16_t value)
{
    __atomic_store_n(&word->raw, htole16(value), __ATOMIC_RELAXED);
}

static vu_always_inline void vu_write_le32(vu_le32 *word, uint32_t value)
{
    __atomic_store_n(&word->raw, htole32(value), __ATOMIC_RELAXED);
}

static vu_always_inline void vu_write_le64(vu_le64 *word, uint64_t value)
{
    __atomic_store_n(&word->raw, htole64(value), __ATOMIC_RELAXED);
}

/* Nothing after it is read before it: pairs with the peer's vu_release_le16 of the same index. */
static vu_always_inline uint16_t vu_acquire_le16(const vu_le16 *word)
{
    return le16toh(__atomic_load_n(&word->raw, __ATOMIC_ACQUIRE));
}

/* Everything before it is visible first: pairs with the peer's vu_acquire_le16 of the same index. */
static vu_always_inline void vu_release_le16(vu_le16 *word, uint16_t value)
{
    __atomic_store_n(&word->raw, htole16(value), __ATOMIC_RELEASE);
}

static vu_always_inline void vu_release_le64(vu_le64 *word, uint64_t value)
{
    __atomic_store_n(&word->raw, htole64(value), __ATOMIC_RELEASE);
}

/* A word of a ring that is big-endian if `turned`: a constant false where that cannot be. */
static vu_always_inline uint16_t vu_turn16(uint16_t value, bool turned)
{
    return turned ? __builtin_bswap16(value) : value;
}

static vu_always_inline uint32_t vu_turn32(uint32_t value, bool turned)
{
    return turned ? __builtin_bswap32(value) : value;
}

static vu_always_inline uint64_t vu_turn64(uint64_t value, bool turned)
{
    return turned ? __builtin_bswap64(value) : value;
}

/* Store, then load, in that order on every CPU (the notification handshake needs just this). */
static vu_always_inline void vu_full_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
