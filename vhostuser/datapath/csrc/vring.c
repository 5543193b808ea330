/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a ring: started, looked at, running, broken, stopped. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "ring.h"
#include "state.h"
#include "tracking.h"
#include "view.h"
#include "watchdog.h"

/* eventfds, pipes and sockets are all O_NONBLOCK: EAGAIN means that the peer has a wake-up pending, and one
   that closed its end does not want to know. */
static void poke(struct vu_vring *vring, int fd)
{
    uint64_t one = 1;

    if (fd < 0)
        return;
    vu_watchdog_feed();
    if (vu_unlikely(write(fd, &one, sizeof(one)) < 0 && errno == EINTR))
        vu_device_fault(vring->pair, VU_ERR_NOTIFY, vring->index);
}

void vu_vring_call(struct vu_vring *vring)
{
    if (vring->call_fd < 0 || vu_device_is_faulted(vring->pair->device))
        return;
    vu_count(&vring->counters.calls, 1);
    poke(vring, vring->call_fd);
}

void vu_vring_break(struct vu_vring *vring, int error)
{
    struct vu_event event = {.kind = VU_EVENT_RING_BROKEN,
                             .device = vring->pair->device->id,
                             .ring = vring->index,
                             .error = error};

    /* The first reason stays the reason, and is told once. */
    if (vring->state == VU_VRING_BROKEN)
        return;
    vring->state = VU_VRING_BROKEN;
    vring->parked = false;
    vring->error = error;
    for (unsigned i = 0; i < VU_ARRAY_SIZE(event.value); i++)
        event.value[i] = vring->trouble[i];
    vu_event_put(vring->pair, &event);
    poke(vring, vring->err_fd);
    vu_pair_watch_port(vring->pair); /* nobody wants its frames any more */
}

uint64_t vu_vring_part_length(const struct vu_vring *vring, int part)
{
    uint64_t size = vring->size;

    switch (part) {
    case 0:
        return 16 * size;
    case 1:
        return vring->is_packed ? 4 : 6 + 2 * size;
    default:
        return vring->is_packed ? 4 : 6 + 8 * size;
    }
}

static int translate_part(struct vu_vring *vring, int part, uint64_t alignment, uint32_t access, void **host)
{
    uint64_t address = vring->uva[part], length = vu_vring_part_length(vring, part);
    int error = VU_OK;

    if (address + (length - 1) < address)
        *host = NULL;
    else if (vring->iommu)
        error = vu_iotlb_piece(vring, address, length, access, host);
    else
        *host = vu_memory_user(vring->pair->device->memory, address, length);
    if (error == VU_ERR_RING_SCATTERED)
        error = vu_view_open(vring, part, host);
    if (error == VU_FETCH_MISS)
        return error;
    if (error)
        return vu_trouble(vring, error, address, length, (uint64_t)part, (uint64_t)errno);
    if (!*host)
        return vu_trouble(vring, VU_ERR_RING_ADDRESS, address, length, (uint64_t)part, 0);
    /* The session has checked the address; an odd mmap_offset can still misalign our view of it. */
    if ((uintptr_t)*host % alignment)
        return vu_trouble(vring, VU_ERR_RING_ALIGNMENT, address, alignment, (uint64_t)part, 0);
    return VU_OK;
}

int vu_vring_translate(struct vu_vring *vring)
{
    const uint32_t both = VU_ACCESS_READ | VU_ACCESS_WRITE;
    void *part[3];
    int error;

    vu_views_close(vring);
    if ((error = translate_part(vring, 0, 16, vring->is_packed ? both : VU_ACCESS_READ, &part[0])) ||
        (error = translate_part(vring, 1, vring->is_packed ? 4 : 2, VU_ACCESS_READ, &part[1])) ||
        (error = translate_part(vring, 2, 4, both, &part[2])))
        return error;
    vring->desc = part[0];
    vring->avail = part[1];
    vring->used = part[2];
    vring->mapped = true;
    return VU_OK;
}

int vu_vring_watch_kick(struct vu_vring *vring)
{
    struct vu_pair *pair = vring->pair;
    /* Edge-triggered and never read: each write of the driver is one edge, and no wake-up is left over. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET,
                                .data.ptr =
                                    &pair->sources[vring->index & 1 ? VU_SOURCE_KICK_TX : VU_SOURCE_KICK_RX]};

    if (vring->kick_fd < 0) {
        vu_worker_poll_rings(pair->worker, 1);
        vring->kick_watched = true;
        return VU_OK;
    }
    if (epoll_ctl(pair->worker->epoll_fd, EPOLL_CTL_ADD, vring->kick_fd, &event))
        return vu_trouble(vring, VU_ERR_SYSTEM, (uint64_t)errno, 0, 0, 0);
    vring->kick_watched = true;
    return VU_OK;
}

void vu_vring_unwatch_kick(struct vu_vring *vring)
{
    if (!vring->kick_watched)
        return;
    vring->kick_watched = false;
    if (vring->kick_fd < 0)
        vu_worker_poll_rings(vring->pair->worker, -1);
    else
        epoll_ctl(vring->pair->worker->epoll_fd, EPOLL_CTL_DEL, vring->kick_fd, NULL);
}

/* The ring is looked at once: what is in it now needs no kick. */
static void wake(struct vu_vring *vring)
{
    if (!(vring->index & 1))
        vring->pair->starved = false;
    vu_pair_wake(vring->pair, vring->index & 1 ? VU_READY_TX : VU_READY_RX);
    vu_pair_watch_port(vring->pair);
}

int vu_vring_start(struct vu_pair *pair, int ring, const struct vu_vring_setup *setup)
{
    struct vu_vring *vring = &pair->vring[ring];
    int error;

    vring->uva[0] = setup->desc;
    vring->uva[1] = setup->avail;
    vring->uva[2] = setup->used;
    vring->size = setup->size;
    vring->base = setup->base;
    vring->looked_at = false;
    vring->is_packed = pair->device->features & VU_F_RING_PACKED;
    vring->turned = setup->big_endian && !(pair->device->features & (VU_F_RING_PACKED | VU_F_VERSION_1));
    vring->kick_fd = setup->kick_fd;
    vring->kick_drained = setup->kick_drained;
    vring->call_fd = setup->call_fd;
    vring->err_fd = setup->err_fd;
    vu_vring_set_log(pair, ring, setup->logged, setup->log);
    vring->event_idx = pair->device->features & VU_F_EVENT_IDX;
    vring->indirect = pair->device->features & VU_F_INDIRECT_DESC;
    vring->batches = ring == VU_TX && (pair->device->features & VU_F_IN_ORDER);
    vring->signalled_valid = false;
    vring->used_anything = false;
    vring->kick_armed = true;
    vring->region_hint = 0;
    vring->iotlb_hint = 0;
    vring->error = VU_OK;
    vring->iommu = pair->device->features & VU_F_ACCESS_PLATFORM;
    vring->mapped = vring->parked = false;
    if (ring == VU_RX && pair->control)
        pair->control->state = VU_CONTROL_IDLE;
    /* Under an IOMMU by the first turn, which may have to ask. */
    if ((!vring->iommu && (error = vu_vring_translate(vring))) ||
        (error = vu_inflight_attach(vring, pair->device->inflight)) || (error = vu_vring_watch_kick(vring))) {
        vu_inflight_detach(vring);
        vring->error = error;
        poke(vring, vring->err_fd);
        return error;
    }
    vring->state = VU_VRING_STARTING;
    vu_member_follow(pair->device);
    wake(vring);
    return VU_OK;
}

bool vu_vring_make_ready(struct vu_vring *vring)
{
    if ((vring->state != VU_VRING_STARTING && vring->state != VU_VRING_RUNNING) || vring->parked)
        return false;
    if (!vring->mapped) {
        int error = vu_vring_translate(vring);

        if (error == VU_FETCH_MISS)
            return false;
        if (error) {
            vu_vring_break(vring, error);
            return false;
        }
    }
    return vring->state == VU_VRING_RUNNING || vu_vring_first_look(vring);
}

uint32_t vu_vring_stop(struct vu_pair *pair, int ring)
{
    struct vu_vring *vring = &pair->vring[ring];
    uint32_t position = vu_vring_position(vring);

    vu_vring_unwatch_kick(vring);
    vu_inflight_detach(vring);
    vu_views_close(vring);
    vring->state = VU_VRING_STOPPED;
    vring->parked = false;
    vring->turned = false;
    vring->kick_fd = vring->call_fd = vring->err_fd = -1;
    vu_member_follow(pair->device);
    vu_pair_watch_port(pair);
    return position;
}

void vu_vring_set_enabled(struct vu_pair *pair, int ring, enum vu_ring_enabled enabled)
{
    pair->vring[ring].enabled = (uint8_t)enabled;
    /* A disabled ring is emptied, whether or not the port would take anything. */
    if (ring == VU_TX && enabled == VU_RING_DISABLED)
        pair->port_blocked = false;
    vu_member_follow(pair->device);
    wake(&pair->vring[ring]);
}

int vu_vring_set_kick(struct vu_pair *pair, int ring, int fd, int drained)
{
    struct vu_vring *vring = &pair->vring[ring];
    int error;

    vu_vring_unwatch_kick(vring);
    vring->kick_fd = fd;
    vring->kick_drained = drained;
    error = vu_vring_watch_kick(vring);
    if (error)
        vu_vring_break(vring, error);
    else
        wake(vring); /* a kick written to the old fd after our last look is not lost */
    return error;
}

void vu_vring_set_call(struct vu_pair *pair, int ring, int fd)
{
    struct vu_vring *vring = &pair->vring[ring];

    vring->call_fd = fd;
    /* An interrupt that went to the old fd after the guest masked it would be lost. */
    if (vring->state == VU_VRING_RUNNING && vring->used_anything)
        vu_vring_call(vring);
}

void vu_vring_set_err(struct vu_pair *pair, int ring, int fd)
{
    pair->vring[ring].err_fd = fd;
}

void vu_vring_set_log(struct vu_pair *pair, int ring, int logged, uint64_t address)
{
    pair->vring[ring].logged = logged;
    pair->vring[ring].log_address = address;
}

int vu_vring_error(const struct vu_pair *pair, int ring, uint64_t *values)
{
    memcpy(values, pair->vring[ring].trouble, sizeof(pair->vring[ring].trouble));
    return pair->vring[ring].error;
}

void vu_vring_counters(const struct vu_pair *pair, int ring, struct vu_counters *counters)
{
    const uint64_t *from = (const uint64_t *)&pair->vring[ring].counters;
    uint64_t *to = (uint64_t *)counters;

    for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

void vu_vring_set_counters(struct vu_pair *pair, int ring, const struct vu_counters *counters)
{
    const uint64_t *from = (const uint64_t *)counters;
    uint64_t *to = (uint64_t *)&pair->vring[ring].counters;

    for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
}
