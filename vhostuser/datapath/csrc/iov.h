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

/* Both sides may be guest memory, and a guest may send what it receives into: hence memmove. */
static vu_always_inline void vu_iov_copy(struct vu_cursor to, struct vu_cursor from, size_t length)
{
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
