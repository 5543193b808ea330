/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of struct vu_memory, and translation: a compare for the region of last time, a search else. */
#ifndef VU_GUEST_MEMORY_H
#define VU_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "compiler.h"
#include "memory.h"

/* What the tables that a region is in share of it. */
struct vu_mapping {
    uint32_t references;
    int fd;
    uint8_t *map; /* what mmap returned, for munmap and for fault addresses */
    uint64_t map_length;
    uint64_t file_end; /* bytes the file must have */
};

struct vu_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t uva;
    uint8_t *host; /* where gpa is in our address space */
    struct vu_mapping *mapping;
};

/* Immutable once published: a new table is a new object, swapped while the workers are paused. */
struct vu_memory {
    uint32_t references;
    uint32_t count;
    const struct vu_region **by_host; /* the same regions in the order of our addresses */
    struct vu_region regions[];       /* in that of guest addresses */
};

/* The region that holds gpa, or NULL; found by halving, and its place stored in *hint. */
const struct vu_region *vu_region_search(const struct vu_memory *memory, uint64_t gpa, uint32_t *hint);

/* The region that holds gpa, or NULL.  *hint is the caller's region of last time. */
static vu_always_inline const struct vu_region *vu_region_of(const struct vu_memory *memory, uint64_t gpa,
                                                             uint32_t *hint)
{
    const struct vu_region *region = &memory->regions[*hint];

    if (vu_likely(gpa - region->gpa < region->size))
        return region;
    return vu_region_search(memory, gpa, hint);
}

/* The whole range [uva, uva + length) in one region, as a host pointer; NULL when it is not. */
void *vu_memory_user(const struct vu_memory *memory, uint64_t uva, uint64_t length);
/* The region that a host address belongs to: its bytes, or what else was mapped around them; NULL when it is
   not ours.  Async-signal-safe. */
const struct vu_region *vu_memory_owner(const struct vu_memory *memory, const void *host);
/* The first region whose file has become shorter than its mapping, or NULL.  One fstat a region. */
const struct vu_region *vu_memory_shrunk(const struct vu_memory *memory);

#endif
