/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: the mappings of one memory table.  Addresses in, host pointers out; whole ranges only. */
#ifndef VU_MEMORY_H
#define VU_MEMORY_H

#include <stdint.h>

#define VU_MAX_REGIONS 32

/* One region, already checked against its file by the caller (memory/regions.py). */
struct vu_region_setup {
    uint64_t gpa;        /* first guest address */
    uint64_t size;       /* bytes the guest sees */
    uint64_t uva;        /* first front-end user address */
    uint64_t map_offset; /* file offset to map from: a multiple of the file's page size */
    uint64_t map_length; /* bytes to map: a multiple of the file's page size */
    uint64_t map_delta;  /* where in the mapping the region begins */
    int fd;              /* stays the caller's; needed until vu_memory_put has returned */
    int pad;
};

struct vu_memory;

/* Maps all regions, MAP_SHARED, read-write, left out of core dumps.  NULL on failure, with the index of
   the region at fault and errno. The caller owns one reference. */
struct vu_memory *vu_memory_map(const struct vu_region_setup *regions, uint32_t count,
                                uint32_t *failed_region, int *failed_errno);
void vu_memory_get(struct vu_memory *memory);
/* Drops one reference; the last one unmaps (50 ms for 1 GiB of touched 4 KiB pages: never on the loop). */
void vu_memory_put(struct vu_memory *memory);
/* Mappings alive in the process, in regions: for tests and doctor. */
uint32_t vu_memory_live_regions(void);
/* The first region whose file has become shorter than its mapping, or -1.  One fstat a region. */
int vu_memory_shrunk_region(const struct vu_memory *memory);

#endif
