/* SPDX-License-Identifier: Apache-2.0 */
/* A submission and a completion ring, by the system calls themselves. */
#define _GNU_SOURCE
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compiler.h"

#ifndef IORING_SETUP_SUBMIT_ALL /* Linux 5.18 */
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

struct vu_uring {
    int fd;
    void *rings;
    size_t rings_length;
    struct io_uring_sqe *entries;
    size_t entries_length;
    uint32_t *sq_head;
    uint32_t *sq_tail;
    uint32_t sq_mask;
    uint32_t *cq_head;
    uint32_t *cq_tail;
    uint32_t cq_mask;
    const struct io_uring_cqe *completions;
    uint32_t tail;    /* of ours, not shown to the kernel yet */
    uint32_t pending; /* entries whose completion has not been taken */
};

static void *map(int fd, size_t length, uint64_t offset)
{
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);

    return at == MAP_FAILED ? NULL : at;
}

static void *word(const struct vu_uring *ring, uint32_t offset)
{
    return (uint8_t *)ring->rings + offset;
}

struct vu_uring *vu_uring_new(void)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SUBMIT_ALL};
    struct vu_uring *ring = calloc(1, sizeof(*ring));
    uint32_t *array;

    if (!ring)
        return NULL;
    ring->fd = (int)syscall(SYS_io_uring_setup, VU_URING_ENTRIES, &params);
    if (ring->fd < 0 || !(params.features & IORING_FEAT_SINGLE_MMAP)) {
        vu_uring_free(ring);
        return NULL;
    }
    ring->rings_length = VU_MAX(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                                params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe));
    ring->entries_length = params.sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = map(ring->fd, ring->rings_length, IORING_OFF_SQ_RING);
    ring->entries = map(ring->fd, ring->entries_length, IORING_OFF_SQES);
    if (!ring->rings || !ring->entries) {
        vu_uring_free(ring);
        return NULL;
    }
    ring->sq_head = word(ring, params.sq_off.head);
    ring->sq_tail = word(ring, params.sq_off.tail);
    ring->sq_mask = params.sq_entries - 1;
    ring->cq_head = word(ring, params.cq_off.head);
    ring->cq_tail = word(ring, params.cq_off.tail);
    ring->cq_mask = params.cq_entries - 1;
    ring->completions = word(ring, params.cq_off.cqes);
    array = word(ring, params.sq_off.array);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i;
    return ring;
}

void vu_uring_free(struct vu_uring *ring)
{
    if (!ring)
        return;
    if (ring->entries)
        munmap(ring->entries, ring->entries_length);
    if (ring->rings)
        munmap(ring->rings, ring->rings_length);
    if (ring->fd >= 0)
        close(ring->fd);
    free(ring);
}

static void add(struct vu_uring *ring, uint8_t operation, int fd, const void *at, uint32_t count,
                int32_t *result)
{
    struct io_uring_sqe *entry = &ring->entries[ring->tail++ & ring->sq_mask];

    *result = VU_URING_NOT_DONE;
    *entry = (struct io_uring_sqe){.opcode = operation,
                                   .fd = fd,
                                   .off = 0,
                                   .addr = (uintptr_t)at,
                                   .len = count,
                                   .rw_flags = RWF_NOWAIT,
                                   .user_data = (uintptr_t)result};
}

void vu_uring_writev(struct vu_uring *ring, int fd, const struct iovec *list, uint32_t count, int32_t *result)
{
    add(ring, IORING_OP_WRITEV, fd, list, count, result);
}

void vu_uring_write(struct vu_uring *ring, int fd, const struct iovec *piece, int32_t *result)
{
    add(ring, IORING_OP_WRITE, fd, piece->iov_base, (uint32_t)piece->iov_len, result);
}

void vu_uring_readv(struct vu_uring *ring, int fd, const struct iovec *list, uint32_t count, int32_t *result)
{
    add(ring, IORING_OP_READV, fd, list, count, result);
}

void vu_uring_read(struct vu_uring *ring, int fd, const struct iovec *piece, int32_t *result)
{
    add(ring, IORING_OP_READ, fd, piece->iov_base, (uint32_t)piece->iov_len, result);
}

static void take(struct vu_uring *ring)
{
    uint32_t head = *ring->cq_head;

    /* Pairs with the kernel's release of the tail behind the completions. */
    while (head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
        const struct io_uring_cqe *done = &ring->completions[head++ & ring->cq_mask];

        *(int32_t *)(uintptr_t)done->user_data = done->res;
        ring->pending--;
    }
    /* Pairs with the kernel's acquire: it writes there again. */
    __atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
}

void vu_uring_run(struct vu_uring *ring)
{
    uint32_t left = ring->tail - *ring->sq_tail;

    ring->pending = 0;
    /* Pairs with the kernel's acquire of the tail before it reads the entries. */
    __atomic_store_n(ring->sq_tail, ring->tail, __ATOMIC_RELEASE);
    while (left || ring->pending) {
        /* Also what was submitted is waited for: nearly always it is over already. */
        long submitted = syscall(SYS_io_uring_enter, ring->fd, left, left + ring->pending,
                                 IORING_ENTER_GETEVENTS, NULL, 0);

        if (submitted > 0) {
            left -= (uint32_t)submitted;
            ring->pending += (uint32_t)submitted;
        }
        take(ring);
        if (submitted < 0 && errno != EINTR && left) {
            /* The kernel takes no more of them.  What it has not taken is not done. */
            ring->tail -= left;
            left = 0;
            __atomic_store_n(ring->sq_tail, ring->tail, __ATOMIC_RELEASE);
        }
    }
}
