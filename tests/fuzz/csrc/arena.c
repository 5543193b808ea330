/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ethernet.h"

#define PAGE 4096

static const struct vu_region_setup regions[] = {
    {.gpa = ARENA_GPA, .size = 0x28000, .uva = ARENA_UVA, .map_offset = 0, .map_length = 0x28000},
    {.gpa = ARENA_BORDER,
     .size = 0x8000,
     .uva = ARENA_UVA + 0x100000,
     .map_offset = 0x29000,
     .map_length = 0x9000,
     .map_delta = 0x800},
    {.gpa = ARENA_FAR,
     .size = 0x1000,
     .uva = ARENA_UVA + 0x200000,
     .map_offset = 0x33000,
     .map_length = 0x1000},
};

_Noreturn void arena_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, what);
    abort();
}

/* Linked with --wrap: the guest's mappings stand between pages that nobody may touch, so that an access
   beside one is an error report and not a neighbour's byte. */
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);
int __wrap_munmap(void *address, size_t length);

static uint8_t *fenced[64];

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    uint8_t *fence;

    /* Guest memory is never populated; io_uring's rings are, and lie where the kernel wants them. */
    if (fd < 0 || !(flags & MAP_SHARED) || flags & MAP_POPULATE)
        return __real_mmap(address, length, protection, flags, fd, offset);
    fence = __real_mmap(NULL, length + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    arena_require(fence != MAP_FAILED);
    for (unsigned i = 0; i < VU_ARRAY_SIZE(fenced); i++) {
        if (!fenced[i]) {
            fenced[i] = fence + PAGE;
            return __real_mmap(fence + PAGE, length, protection, flags | MAP_FIXED, fd, offset);
        }
    }
    arena_failed(__FILE__, __LINE__, "mappings are given back");
}

int __wrap_munmap(void *address, size_t length)
{
    for (unsigned i = 0; i < VU_ARRAY_SIZE(fenced); i++) {
        if (fenced[i] == address) {
            fenced[i] = NULL;
            return __real_munmap((uint8_t *)address - PAGE, length + 2 * PAGE);
        }
    }
    return __real_munmap(address, length);
}

int64_t arena_offset(uint64_t gpa, uint64_t *room)
{
    for (unsigned i = 0; i < VU_ARRAY_SIZE(regions); i++) {
        if (gpa >= regions[i].gpa && gpa < regions[i].gpa + regions[i].size) {
            *room = regions[i].gpa + regions[i].size - gpa;
            return (int64_t)(regions[i].map_offset + regions[i].map_delta + (gpa - regions[i].gpa));
        }
    }
    *room = 0;
    return -1;
}

static struct vu_memory *map_table(struct arena *arena)
{
    struct vu_region_setup setups[VU_ARRAY_SIZE(regions)];
    uint32_t failed_region;
    int failed_errno;
    struct vu_memory *memory;

    memcpy(setups, regions, sizeof(regions));
    for (unsigned i = 0; i < VU_ARRAY_SIZE(regions); i++)
        setups[i].fd = dup(arena->fd);
    memory = vu_memory_map(setups, VU_ARRAY_SIZE(regions), &failed_region, &failed_errno);
    arena_require(memory);
    return memory;
}

void arena_open(struct arena *arena)
{
    int ends[2];

    memset(arena, 0, sizeof(*arena));
    arena->fd = memfd_create("arena", MFD_CLOEXEC);
    arena_require(arena->fd >= 0 && ftruncate(arena->fd, ARENA_FILE_BYTES) == 0);
    arena->view = mmap(NULL, ARENA_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, arena->fd, 0);
    arena_require(arena->view != MAP_FAILED);
    arena_require(vu_guard_install() == 0);
    arena->worker = vu_worker_new();
    arena_require(arena->worker);
    arena_require(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends) == 0);
    arena->port = ends[0];
    arena->network = ends[1];
    arena->memory = map_table(arena);
    for (int ring = 0; ring < 2; ring++) {
        arena->kick[ring] = eventfd(0, EFD_NONBLOCK);
        arena->call[ring] = eventfd(0, EFD_NONBLOCK);
        arena->err[ring] = eventfd(0, EFD_NONBLOCK);
    }
}

void arena_close(struct arena *arena)
{
    vu_worker_free(arena->worker);
    vu_memory_put(arena->memory);
    close(arena->port);
    close(arena->network);
    munmap(arena->view, ARENA_FILE_BYTES);
    for (int ring = 0; ring < 2; ring++) {
        close(arena->kick[ring]);
        close(arena->call[ring]);
        close(arena->err[ring]);
    }
    close(arena->fd);
    arena_require(vu_memory_live_regions() == 0);
}

static void drain(int socket)
{
    uint8_t frame[64];

    while (recv(socket, frame, sizeof(frame), MSG_DONTWAIT) >= 0)
        ;
}

static void set_memory(struct arena *arena)
{
    struct vu_memory *old;

    vu_memory_get(arena->memory);
    vu_worker_pause(arena->worker);
    old = vu_device_set_memory(arena->device, arena->memory);
    vu_worker_resume(arena->worker);
    vu_memory_put(old);
}

void arena_swap_memory(struct arena *arena)
{
    vu_memory_put(arena->memory);
    arena->memory = map_table(arena);
    set_memory(arena);
}

void arena_put_segments(uint8_t *at, uint32_t header_size, uint16_t size)
{
    struct vu_net_hdr header = {.flags = VU_HDR_F_NEEDS_CSUM, .gso_type = size ? VU_GSO_TCPV4 : VU_GSO_NONE};

    vu_write_le16(&header.gso_size, size);
    vu_write_le16(&header.csum_start, 34);
    vu_write_le16(&header.csum_offset, 16);
    memcpy(at, &header, header_size);
    at += header_size;
    memset(at, 0, 54);
    at[12] = VU_ETH_IPV4 >> 8;
    at[14] = 0x45;
    at[23] = VU_PROTOCOL_TCP;
    at[46] = 5 << 4;
}

void arena_begin(struct arena *arena, uint64_t features, int kind, uint32_t rx_size, uint32_t tx_size)
{
    memset(arena->view, 0, ARENA_FILE_BYTES);
    arena->packed = features & VU_F_RING_PACKED;
    arena->size[VU_RX] = rx_size;
    arena->size[VU_TX] = tx_size;
    arena->device = vu_device_new(7);
    arena_require(arena->device);
    set_memory(arena);
    vu_worker_pause(arena->worker);
    vu_device_set_features(arena->device, features);
    arena->pair = vu_pair_new(arena->device, arena->worker, 0);
    arena_require(arena->pair);
    arena_require(vu_pair_set_port(arena->pair, kind, arena->port, 1,
                                   kind == VU_PORT_SOURCE ? 60 : VU_NET_HDR_SIZE) == VU_OK);
    vu_worker_resume(arena->worker);
}

void arena_end(struct arena *arena)
{
    vu_worker_pause(arena->worker);
    vu_vring_stop(arena->pair, VU_RX);
    vu_vring_stop(arena->pair, VU_TX);
    vu_pair_free(arena->pair);
    vu_device_free(arena->device);
    vu_worker_resume(arena->worker);
    arena_drain(arena);
    drain(arena->port);
}

void arena_start(struct arena *arena, int ring)
{
    uint64_t at = ARENA_UVA + (uint64_t)ring * ARENA_RING_BYTES;
    struct vu_vring_setup setup = {.desc = at,
                                   .avail = at + ARENA_AVAIL,
                                   .used = at + ARENA_USED,
                                   .size = arena->size[ring],
                                   .base = arena->packed ? 0x80008000 : 0,
                                   .kick_fd = arena->kick[ring],
                                   .call_fd = arena->call[ring],
                                   .err_fd = arena->err[ring]};

    vu_worker_pause(arena->worker);
    vu_vring_stop(arena->pair, ring);
    arena->slot[ring] = 0;
    arena->wrap[ring] = true;
    vu_vring_set_enabled(arena->pair, ring, VU_RING_ENABLED);
    arena_require(vu_vring_start(arena->pair, ring, &setup) == VU_OK);
    vu_worker_resume(arena->worker);
}

void arena_kick(struct arena *arena, int ring)
{
    arena_require(eventfd_write(arena->kick[ring], 1) == 0);
}

/* The user address of the page at an I/O address; 0 for none. */
static uint64_t page_at(uint64_t iova)
{
    for (unsigned i = 0; i < VU_ARRAY_SIZE(regions); i++) {
        if (iova - regions[i].gpa < regions[i].size)
            return regions[i].uva + (iova - regions[i].gpa);
    }
    return iova - ARENA_UVA < regions[0].size ? iova : 0;
}

bool arena_answer(struct arena *arena)
{
    struct vu_miss misses[4];
    uint32_t count;

    vu_worker_pause(arena->worker);
    count = vu_iotlb_take_misses(arena->device, misses, VU_ARRAY_SIZE(misses));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t page = misses[i].iova & ~(uint64_t)(PAGE - 1), uva = page_at(page);

        if (!uva)
            vu_iotlb_refuse(arena->device, misses[i].serial);
        else
            arena_require(vu_iotlb_update(arena->device, page, page + PAGE - 1, uva, 3) == VU_OK);
    }
    vu_worker_resume(arena->worker);
    return count;
}

void arena_drain(struct arena *arena)
{
    struct vu_event events[16];
    uint32_t count;

    while ((count = vu_worker_events(arena->worker, events, VU_ARRAY_SIZE(events)))) {
        for (uint32_t i = 0; i < count; i++) {
            arena->broken += events[i].kind == VU_EVENT_RING_BROKEN;
            arena->faulted += events[i].kind == VU_EVENT_DEVICE_FAULTED;
        }
    }
    drain(arena->network);
}
