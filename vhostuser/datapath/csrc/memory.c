/* SPDX-License-Identifier: Apache-2.0 */
/* Mapping a memory table, and giving it back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guest_memory.h"

static uint32_t live_regions;

static void unmap_all(struct vu_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        munmap(memory->regions[i].map, memory->regions[i].map_length);
        __atomic_sub_fetch(&live_regions, 1, __ATOMIC_RELAXED);
    }
    free(memory);
}

static int map_region(struct vu_region *region, const struct vu_region_setup *setup)
{
    void *map = mmap(NULL, setup->map_length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, setup->fd,
                     (off_t)setup->map_offset);

    if (map == MAP_FAILED)
        return errno;
    /* A core dump of ours must not carry the guest's memory. */
    madvise(map, setup->map_length, MADV_DONTDUMP);
    *region = (struct vu_region){
        .gpa = setup->gpa,
        .size = setup->size,
        .uva = setup->uva,
        .host = (uint8_t *)map + setup->map_delta,
        .map = map,
        .map_length = setup->map_length,
        .file_end = setup->map_offset + setup->map_delta + setup->size,
        .fd = setup->fd,
    };
    __atomic_add_fetch(&live_regions, 1, __ATOMIC_RELAXED);
    return 0;
}

static int by_gpa(const void *left, const void *right)
{
    const struct vu_region *a = left, *b = right;

    return (a->gpa > b->gpa) - (a->gpa < b->gpa);
}

struct vu_memory *vu_memory_map(const struct vu_region_setup *regions, uint32_t count,
                                uint32_t *failed_region, int *failed_errno)
{
    struct vu_memory *memory = calloc(1, sizeof(*memory));

    *failed_region = 0;
    *failed_errno = ENOMEM;
    if (!memory || count > VU_MAX_REGIONS)
        goto fail;
    memory->references = 1;
    for (uint32_t i = 0; i < count; i++) {
        *failed_region = i;
        *failed_errno = map_region(&memory->regions[i], &regions[i]);
        if (*failed_errno)
            goto fail;
        memory->count = i + 1;
    }
    qsort(memory->regions, count, sizeof(memory->regions[0]), by_gpa);
    return memory;
fail:
    if (memory)
        unmap_all(memory);
    return NULL;
}

void vu_memory_get(struct vu_memory *memory)
{
    __atomic_add_fetch(&memory->references, 1, __ATOMIC_RELAXED);
}

void vu_memory_put(struct vu_memory *memory)
{
    if (memory && __atomic_sub_fetch(&memory->references, 1, __ATOMIC_ACQ_REL) == 0)
        unmap_all(memory);
}

uint32_t vu_memory_live_regions(void)
{
    return __atomic_load_n(&live_regions, __ATOMIC_RELAXED);
}

int vu_memory_shrunk_region(const struct vu_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        struct stat status;

        if (fstat(memory->regions[i].fd, &status) == 0 &&
            (uint64_t)status.st_size < memory->regions[i].file_end)
            return (int)i;
    }
    return -1;
}

void *vu_memory_user(const struct vu_memory *memory, uint64_t uva, uint64_t length)
{
    for (uint32_t i = 0; memory && i < memory->count; i++) {
        const struct vu_region *region = &memory->regions[i];
        uint64_t offset = uva - region->uva;

        if (offset < region->size && length <= region->size - offset)
            return region->host + offset;
    }
    return NULL;
}

int vu_memory_owns(const struct vu_memory *memory, const void *host)
{
    for (uint32_t i = 0; memory && i < memory->count; i++) {
        if ((uintptr_t)host - (uintptr_t)memory->regions[i].map < memory->regions[i].map_length)
            return (int)i;
    }
    return -1;
}
