/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of struct vu_memory, and translation: a compare for the region of last time, a scan else. */
#ifndef VU_GUEST_MEMORY_H
#define VU_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "compiler.h"
#include "memory.h"

struct vu_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t uva;
    uint8_t *host; /* where gpa is in our address space */
    uint8_t *map;  /* what mmap returned, for munmap and for fault addresses */
    uint64_t map_length;
    uint64_t file_end; /* bytes the file must have */
    int fd;
};

/* Immutable once published: a new table is a new object, swapped while the workers are paused. */
struct vu_memory {
    uint32_t references;
    uint32_t count;
    struct vu_region regions[VU_MAX_REGIONS]; /* sorted by gpa */
};

/* The region that holds gpa, or NULL.  *hint is the caller's region of last time. */
static vu_always_inline const struct vu_region *vu_region_of(const struct vu_memory *memory, uint64_t gpa,
                                                             uint32_t *hint)
{
    const struct vu_region *region = &memory->regions[*hint];

    if (vu_likely(gpa - region->gpa < region->size))
        return region;
    for (uint32_t i = 0; i < memory->count; i++) {
        region = &memory->regions[i];
        if (gpa - region->gpa < region->size) {
            *hint = i;
            return region;
        }
    }
    return NULL;
}

/* The whole range [uva, uva + length) in one region, as a host pointer; NULL when it is not. */
void *vu_memory_user(const struct vu_memory *memory, uint64_t uva, uint64_t length);
/* Whether a host address lies in one of the mappings; its region's index or -1.  Async-signal-safe. */
int vu_memory_owns(const struct vu_memory *memory, const void *host);

#endif
