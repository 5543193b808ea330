/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: tables of mapped regions.  Addresses in, host pointers out; whole ranges only. */
#ifndef VU_MEMORY_H
#define VU_MEMORY_H

#include <stdint.h>

#define VU_MAX_REGIONS 509

/* One region, already checked against its file by the caller (memory/regions.py). */
struct vu_region_setup {
    uint64_t gpa;        /* first guest address */
    uint64_t size;       /* bytes the guest sees */
    uint64_t uva;        /* first front-end user address */
    uint64_t map_offset; /* file offset to map from: a multiple of the file's page size */
    uint64_t map_length; /* bytes to map: a multiple of the file's page size */
    uint64_t map_delta;  /* where in the mapping the region begins */
    int fd;              /* taken over on success: closed when the region is unmapped */
    int late;            /* 1: no access until vu_memory_register (postcopy.h) */
};

/* An immutable table.  Each region is mapped once, however many tables it is in: it is unmapped, and its fd
   closed, with the last of them. */
struct vu_memory;

/* Maps all regions, MAP_SHARED, read-write, left out of core dumps.  NULL on failure, with the index of
   the region at fault and errno. The caller owns one reference. */
struct vu_memory *vu_memory_map(const struct vu_region_setup *regions, uint32_t count,
                                uint32_t *failed_region, int *failed_errno);
/* A table with the regions of `memory` (NULL: none) and one more, which is mapped.  NULL on failure. */
struct vu_memory *vu_memory_plus(const struct vu_memory *memory, const struct vu_region_setup *region,
                                 int *failed_errno);
/* A table with the regions of `memory`, which has at least two, but for the one that begins at gpa.  NULL
   when out of memory. */
struct vu_memory *vu_memory_minus(const struct vu_memory *memory, uint64_t gpa);
void vu_memory_get(struct vu_memory *memory);
/* Drops one reference; the last one may unmap (50 ms for 1 GiB of touched 4 KiB pages) and close: never on
   the loop. */
void vu_memory_put(struct vu_memory *memory);
/* Mappings alive in the process, in regions: for tests and doctor. */
uint32_t vu_memory_live_regions(void);

#endif
