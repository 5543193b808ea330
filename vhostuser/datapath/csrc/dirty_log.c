/* SPDX-License-Identifier: Apache-2.0 */
/* The dirty log: its mapping, and which pages a write touches. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "marking.h"
#include "state.h"
#include "view.h"

struct vu_log *vu_log_map(int fd, uint64_t offset, uint64_t length, uint64_t delta, uint64_t size,
                          int *failed_errno)
{
    struct vu_log *log = calloc(1, sizeof(*log));

    *failed_errno = ENOMEM;
    if (!log)
        return NULL;
    log->map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (log->map == MAP_FAILED) {
        *failed_errno = errno;
        free(log);
        return NULL;
    }
    log->map_length = length;
    log->bits = (uint8_t *)log->map + delta;
    log->size = size;
    return log;
}

void vu_log_free(struct vu_log *log)
{
    if (!log)
        return;
    munmap(log->map, log->map_length);
    free(log);
}

uint64_t vu_log_outside(const struct vu_log *log)
{
    return __atomic_load_n(&log->outside, __ATOMIC_RELAXED);
}

int vu_log_owns(const struct vu_log *log, const void *host)
{
    return log && (uintptr_t)host - (uintptr_t)log->map < log->map_length;
}

void vu_log_mark(struct vu_log *log, uint64_t gpa, uint64_t length)
{
    uint64_t last;

    if (!length)
        return;
    last = (gpa + length - 1) >> VU_LOG_PAGE_SHIFT;
    for (uint64_t page = gpa >> VU_LOG_PAGE_SHIFT; page <= last; page++) {
        uint8_t bit = (uint8_t)(1u << (page & 7));

        if (vu_unlikely(page >> 3 >= log->size)) {
            __atomic_fetch_add(&log->outside, length, __ATOMIC_RELAXED);
            return;
        }
        /* Release: pairs with the front-end's exchange of the word, after which it reads the page.  A bit
           that it has not taken yet need not be set again: our bytes are visible before it takes it. */
        __atomic_fetch_or(&log->bits[page >> 3], bit, __ATOMIC_RELEASE);
    }
}

void vu_log_mark_host(struct vu_log *log, const struct vu_memory *memory, const void *host, uint64_t length)
{
    const struct vu_region *region = vu_memory_owner(memory, host);

    if (region)
        vu_log_mark(log, region->gpa + (uint64_t)((const uint8_t *)host - region->host), length);
}

void vu_log_mark_pieces(struct vu_log *log, const struct vu_memory *memory, const struct iovec *piece,
                        uint64_t skip, uint64_t length)
{
    for (; length; piece++) {
        uint64_t here = piece->iov_len;

        if (skip >= here) {
            skip -= here;
            continue;
        }
        here = VU_MIN(here - skip, length);
        vu_log_mark_host(log, memory, (const uint8_t *)piece->iov_base + skip, here);
        length -= here;
        skip = 0;
    }
}

/* What was written in a ring, by where it lies. */
static void mark_in_ring(const struct vu_vring *vring, const void *host, uint64_t length)
{
    const struct vu_device *device = vring->pair->device;

    while (length) {
        uint64_t left;
        const void *origin = vu_view_origin(vring->pair, host, &left);
        uint64_t here = VU_MIN(length, left);

        vu_log_mark_host(device->log, device->memory, origin, here);
        host = (const uint8_t *)host + here;
        length -= here;
    }
}

/* The used ring, by the address that the front-end gave for it.  Under an IOMMU that is an I/O address, and
   what is meant is where it lies. */
static void mark_used_ring(struct vu_vring *vring, uint64_t offset, uint64_t length)
{
    const struct vu_device *device = vring->pair->device;

    if (!vring->logged)
        return;
    if (vring->iommu)
        mark_in_ring(vring, (const uint8_t *)vring->used + offset, length);
    else
        vu_log_mark(device->log, vring->log_address + offset, length);
}

/* Of a packed ring that address says nothing about the descriptors (QEMU gives that of the event area): what
   we write there is marked by where it lies. */
static void mark_packed(struct vu_vring *vring, const void *host, uint64_t length)
{
    if (vring->logged)
        mark_in_ring(vring, host, length);
}

void vu_log_mark_split_used(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    uint32_t first = (uint16_t)(vring->position - n) & (vring->size - 1);
    uint32_t to_end = VU_MIN((uint32_t)n, vring->size - first);

    (void)chains;
    mark_used_ring(vring, 4 + 8ULL * first, 8ULL * to_end);
    mark_used_ring(vring, 4, 8ULL * (n - to_end));
    mark_used_ring(vring, 2, 2);
}

void vu_log_mark_packed_used(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    uint32_t slot = vring->position;

    while (n--) {
        slot += slot < chains[n].slots ? vring->size - chains[n].slots : 0u - chains[n].slots;
        mark_packed(vring, &vring->packed[slot], sizeof(vring->packed[slot]));
    }
}

void vu_log_mark_split_wish(struct vu_vring *vring)
{
    if (vring->event_idx)
        mark_used_ring(vring, 4 + 8ULL * vring->size, 2);
    else
        mark_used_ring(vring, 0, 2);
}

void vu_log_mark_packed_wish(struct vu_vring *vring)
{
    mark_packed(vring, vring->device_event, sizeof(*vring->device_event));
}
