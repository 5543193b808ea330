/* SPDX-License-Identifier: Apache-2.0 */
/* Copies between private bytes and pieces of guest memory.  The caller has checked that enough is there. */
#ifndef VU_IOV_H
#define VU_IOV_H

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "compiler.h"

/* A place in a list of pieces. */
struct vu_cursor {
    const struct iovec *piece;
    size_t offset;
};

static vu_always_inline struct vu_cursor vu_cursor_at(const struct iovec *piece, size_t skip)
{
    struct vu_cursor cursor = {piece, skip};

    while (vu_unlikely(cursor.offset && cursor.offset >= cursor.piece->iov_len)) {
        cursor.offset -= cursor.piece->iov_len;
        cursor.piece++;
    }
    return cursor;
}

/* The contiguous bytes at the cursor, at most `most`; moves on. */
static vu_always_inline uint8_t *vu_cursor_take(struct vu_cursor *cursor, size_t most, size_t *length)
{
    uint8_t *at;

    while (vu_unlikely(cursor->offset == cursor->piece->iov_len)) {
        cursor->piece++;
        cursor->offset = 0;
    }
    at = (uint8_t *)cursor->piece->iov_base + cursor->offset;
    *length = VU_MIN(most, cursor->piece->iov_len - cursor->offset);
    cursor->offset += *length;
    return at;
}

static vu_always_inline void vu_iov_gather(void *to, struct vu_cursor from, size_t length)
{
    for (uint8_t *out = to; length;) {
        size_t here;
        const uint8_t *in = vu_cursor_take(&from, length, &here);

        memcpy(out, in, here);
        out += here;
        length -= here;
    }
}

static vu_always_inline void vu_iov_scatter(struct vu_cursor to, const void *from, size_t length)
{
    for (const uint8_t *in = from; length;) {
        size_t here;
        uint8_t *out = vu_cursor_take(&to, length, &here);

        memcpy(out, in, here);
        in += here;
        length -= here;
    }
}

typedef long long vu_16_bytes __attribute__((vector_size(16), aligned(1), may_alias));

/* Moves 16 to 128 bytes: all are read before any is written, and those of both ends twice where they meet. */
static vu_always_inline void vu_move_short(uint8_t *to, const uint8_t *from, size_t length)
{
    const vu_16_bytes *in = (const vu_16_bytes *)(const void *)from;
    const vu_16_bytes *in_end = (const vu_16_bytes *)(const void *)(from + length);
    vu_16_bytes *out = (vu_16_bytes *)(void *)to, *out_end = (vu_16_bytes *)(void *)(to + length);
    vu_16_bytes a = in[0], z = in_end[-1];

    if (length > 32) {
        vu_16_bytes b = in[1], y = in_end[-2];

        if (length > 64) {
            vu_16_bytes c = in[2], d = in[3], x = in_end[-3], w = in_end[-4];

            out[2] = c;
            out[3] = d;
            out_end[-3] = x;
            out_end[-4] = w;
        }
        out[1] = b;
        out_end[-2] = y;
    }
    out[0] = a;
    out_end[-1] = z;
}

/* Both sides may be guest memory, and a guest may send what it receives into: hence memmove. */
static vu_always_inline void vu_move(uint8_t *to, const uint8_t *from, size_t length)
{
    if (vu_likely(length - 16 <= 128 - 16))
        vu_move_short(to, from, length);
    else
        memmove(to, from, length);
}

static vu_always_inline void vu_iov_copy(struct vu_cursor to, struct vu_cursor from, size_t length)
{
    if (vu_likely(to.offset + length <= to.piece->iov_len && from.offset + length <= from.piece->iov_len)) {
        vu_move((uint8_t *)to.piece->iov_base + to.offset,
                (const uint8_t *)from.piece->iov_base + from.offset, length);
        return;
    }
    while (length) {
        size_t here, run;
        uint8_t *out = vu_cursor_take(&to, length, &run);

        length -= run;
        for (; run; run -= here, out += here) {
            const uint8_t *in = vu_cursor_take(&from, run, &here);

            memmove(out, in, here);
        }
    }
}

/* Appends the pieces of [cursor, cursor + length) to list, at most `most` of them; the bytes listed. */
static vu_always_inline size_t vu_iov_slice(struct iovec *list, uint32_t *count, uint32_t most,
                                            struct vu_cursor from, size_t length)
{
    size_t listed = 0;

    while (listed < length && *count < most) {
        size_t here;
        uint8_t *at = vu_cursor_take(&from, length - listed, &here);

        list[(*count)++] = (struct iovec){at, here};
        listed += here;
    }
    return listed;
}

#endif
