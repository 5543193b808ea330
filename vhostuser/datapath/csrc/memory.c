/* SPDX-License-Identifier: Apache-2.0 */
/* Mapping regions, the tables that share them, and giving both back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest_memory.h"

static uint32_t live_regions;

static void mapping_put(struct vu_mapping *mapping)
{
    if (__atomic_sub_fetch(&mapping->references, 1, __ATOMIC_ACQ_REL))
        return;
    munmap(mapping->map, mapping->map_length);
    /* After the mapping: vu_memory_shrunk looks at the file for as long as it is mapped. */
    if (mapping->fd >= 0)
        close(mapping->fd);
    free(mapping);
    __atomic_sub_fetch(&live_regions, 1, __ATOMIC_RELAXED);
}

static int map_region(struct vu_region *region, const struct vu_region_setup *setup)
{
    struct vu_mapping *mapping = malloc(sizeof(*mapping));
    void *map;

    if (!mapping)
        return ENOMEM;
    map = mmap(NULL, setup->map_length, setup->late ? PROT_NONE : PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_NORESERVE, setup->fd, (off_t)setup->map_offset);
    if (map == MAP_FAILED) {
        int error = errno;

        free(mapping);
        return error;
    }
    /* A core dump of ours must not carry the guest's memory. */
    madvise(map, setup->map_length, MADV_DONTDUMP);
    *mapping = (struct vu_mapping){
        .references = 1,
        .fd = -1, /* the caller's until the whole table is made */
        .map = map,
        .map_length = setup->map_length,
        .file_end = setup->map_offset + setup->map_delta + setup->size,
    };
    *region = (struct vu_region){
        .gpa = setup->gpa,
        .size = setup->size,
        .uva = setup->uva,
        .host = (uint8_t *)map + setup->map_delta,
        .mapping = mapping,
    };
    __atomic_add_fetch(&live_regions, 1, __ATOMIC_RELAXED);
    return 0;
}

static struct vu_memory *new_table(uint32_t room)
{
    struct vu_memory *memory = malloc(sizeof(*memory) + room * sizeof(memory->regions[0]));
    const struct vu_region **by_host = malloc(room * sizeof(by_host[0]));

    if (!memory || !by_host) {
        free(memory);
        free(by_host);
        return NULL;
    }
    *memory = (struct vu_memory){.references = 1, .by_host = by_host};
    return memory;
}

static void free_table(struct vu_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++)
        mapping_put(memory->regions[i].mapping);
    free(memory->by_host);
    free(memory);
}

static int by_gpa(const void *left, const void *right)
{
    const struct vu_region *a = left, *b = right;

    return (a->gpa > b->gpa) - (a->gpa < b->gpa);
}

static int by_host(const void *left, const void *right)
{
    const struct vu_region *const *a = left, *const *b = right;

    return ((*a)->host > (*b)->host) - ((*a)->host < (*b)->host);
}

/* The table has all its regions: what is left is their order. */
static struct vu_memory *finish_table(struct vu_memory *memory)
{
    qsort(memory->regions, memory->count, sizeof(memory->regions[0]), by_gpa);
    for (uint32_t i = 0; i < memory->count; i++)
        memory->by_host[i] = &memory->regions[i];
    qsort(memory->by_host, memory->count, sizeof(memory->by_host[0]), by_host);
    return memory;
}

static void share_region(struct vu_memory *memory, const struct vu_region *region)
{
    __atomic_add_fetch(&region->mapping->references, 1, __ATOMIC_RELAXED);
    memory->regions[memory->count++] = *region;
}

struct vu_memory *vu_memory_map(const struct vu_region_setup *regions, uint32_t count,
                                uint32_t *failed_region, int *failed_errno)
{
    struct vu_memory *memory = count && count <= VU_MAX_REGIONS ? new_table(count) : NULL;

    *failed_region = 0;
    *failed_errno = ENOMEM;
    if (!memory)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        *failed_region = i;
        *failed_errno = map_region(&memory->regions[i], &regions[i]);
        if (*failed_errno) {
            free_table(memory);
            return NULL;
        }
        memory->count = i + 1;
    }
    for (uint32_t i = 0; i < count; i++)
        memory->regions[i].mapping->fd = regions[i].fd;
    return finish_table(memory);
}

struct vu_memory *vu_memory_plus(const struct vu_memory *memory, const struct vu_region_setup *region,
                                 int *failed_errno)
{
    uint32_t count = memory ? memory->count : 0;
    struct vu_memory *larger = count < VU_MAX_REGIONS ? new_table(count + 1) : NULL;

    *failed_errno = ENOMEM;
    if (!larger)
        return NULL;
    *failed_errno = map_region(&larger->regions[0], region);
    if (*failed_errno) {
        free_table(larger);
        return NULL;
    }
    larger->regions[0].mapping->fd = region->fd;
    larger->count = 1;
    for (uint32_t i = 0; i < count; i++)
        share_region(larger, &memory->regions[i]);
    return finish_table(larger);
}

struct vu_memory *vu_memory_minus(const struct vu_memory *memory, uint64_t gpa)
{
    struct vu_memory *smaller = new_table(memory->count - 1);

    if (!smaller)
        return NULL;
    for (uint32_t i = 0; i < memory->count; i++) {
        if (memory->regions[i].gpa != gpa)
            share_region(smaller, &memory->regions[i]);
    }
    return finish_table(smaller);
}

void vu_memory_get(struct vu_memory *memory)
{
    __atomic_add_fetch(&memory->references, 1, __ATOMIC_RELAXED);
}

void vu_memory_put(struct vu_memory *memory)
{
    if (memory && __atomic_sub_fetch(&memory->references, 1, __ATOMIC_ACQ_REL) == 0)
        free_table(memory);
}

uint32_t vu_memory_live_regions(void)
{
    return __atomic_load_n(&live_regions, __ATOMIC_RELAXED);
}

const struct vu_region *vu_region_search(const struct vu_memory *memory, uint64_t gpa, uint32_t *hint)
{
    uint32_t first = 0, count = memory->count;

    /* The last region that begins at or below gpa: it is in [first, first + count). */
    while (count > 1) {
        uint32_t half = count / 2;

        if (memory->regions[first + half].gpa <= gpa)
            first += half;
        count -= half;
    }
    if (gpa - memory->regions[first].gpa >= memory->regions[first].size)
        return NULL;
    *hint = first;
    return &memory->regions[first];
}

const struct vu_region *vu_memory_owner(const struct vu_memory *memory, const void *host)
{
    uint32_t first = 0, count = memory ? memory->count : 0;

    while (count > 1) {
        uint32_t half = count / 2;

        if ((uintptr_t)memory->by_host[first + half]->mapping->map <= (uintptr_t)host)
            first += half;
        count -= half;
    }
    if (!count || (uintptr_t)host - (uintptr_t)memory->by_host[first]->mapping->map >=
                      memory->by_host[first]->mapping->map_length)
        return NULL;
    return memory->by_host[first];
}

const struct vu_region *vu_memory_shrunk(const struct vu_memory *memory)
{
    for (uint32_t i = 0; memory && i < memory->count; i++) {
        const struct vu_mapping *mapping = memory->regions[i].mapping;
        struct stat status;

        if (fstat(mapping->fd, &status) == 0 && (uint64_t)status.st_size < mapping->file_end)
            return &memory->regions[i];
    }
    return NULL;
}

/* A look through all of them: three times at the start of a ring and when the table changes, never for a
   packet. */
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
