/* SPDX-License-Identifier: Apache-2.0 */
/* Pairs: two rings, one port queue, one worker. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "spin.h"
#include "state.h"

#define EXPECTED_AT_FIRST VU_FRAME_PLAIN

static void unqueue(struct vu_pair *pair)
{
    struct vu_worker *worker = pair->worker;
    struct vu_pair **link = &worker->queue_head, *last = NULL;

    for (; *link && *link != pair; link = &(*link)->next_queued)
        last = *link;
    if (*link) {
        *link = pair->next_queued;
        if (worker->queue_tail == pair)
            worker->queue_tail = last;
    }
    pair->queued = false;
}

static void unwatch_port(struct vu_pair *pair)
{
    if (pair->port_watched)
        epoll_ctl(pair->worker->epoll_fd, EPOLL_CTL_DEL, pair->port_fd, NULL);
    pair->port_watched = 0;
}

static void leave_worker(struct vu_pair *pair)
{
    struct vu_pair **link;

    unwatch_port(pair);
    unqueue(pair);
    vu_spin_leave(pair);
    for (link = &pair->worker->pairs; *link != pair; link = &(*link)->next_served)
        ;
    *link = pair->next_served;
}

static void join_worker(struct vu_pair *pair, struct vu_worker *worker)
{
    pair->worker = worker;
    pair->next_served = worker->pairs;
    worker->pairs = pair;
}

struct vu_pair *vu_pair_new(struct vu_device *device, struct vu_worker *worker, uint32_t n)
{
    struct vu_pair *pair = NULL;

    if (posix_memalign((void **)&pair, VU_CACHE_LINE, sizeof(*pair)))
        return NULL;
    memset(pair, 0, sizeof(*pair));
    pair->device = device;
    pair->n = n;
    pair->port_fd = -1;
    pair->expected = EXPECTED_AT_FIRST;
    pair->spin_window = VU_SPIN_WINDOW_MIN;
    for (uint32_t ring = 0; ring < 2; ring++) {
        struct vu_vring *vring = &pair->vring[ring];

        vring->pair = pair;
        vring->index = 2 * n + ring;
        vring->kick_fd = vring->call_fd = vring->err_fd = -1;
    }
    for (int kind = 0; kind < 3; kind++)
        pair->sources[kind] = (struct vu_source){pair, (enum vu_source_kind)kind};
    pair->next = device->pairs;
    device->pairs = pair;
    join_worker(pair, worker);
    return pair;
}

void vu_pair_move(struct vu_pair *pair, struct vu_worker *worker)
{
    bool watched[2];

    if (worker == pair->worker)
        return;
    for (int ring = 0; ring < 2; ring++) {
        watched[ring] = pair->vring[ring].kick_watched;
        vu_vring_unwatch_kick(&pair->vring[ring]);
    }
    leave_worker(pair);
    join_worker(pair, worker);
    for (int ring = 0; ring < 2; ring++) {
        int error = watched[ring] ? vu_vring_watch_kick(&pair->vring[ring]) : VU_OK;

        if (error)
            vu_vring_break(&pair->vring[ring], error);
    }
    /* The port's events that the old worker had not looked at are lost: it is asked again. */
    pair->port_blocked = false;
    pair->starved = false;
    vu_pair_wake(pair, VU_READY_TX | VU_READY_RX);
    vu_pair_watch_port(pair);
}

uint64_t vu_pair_spent(const struct vu_pair *pair)
{
    return __atomic_load_n(&pair->spent, __ATOMIC_RELAXED);
}

void vu_pair_free(struct vu_pair *pair)
{
    struct vu_pair **link;

    leave_worker(pair);
    for (link = &pair->device->pairs; *link != pair; link = &(*link)->next)
        ;
    *link = pair->next;
    vu_member_follow(pair->device);
    free(pair->control);
    free(pair);
}

void vu_pair_wake(struct vu_pair *pair, uint32_t ready)
{
    struct vu_worker *worker = pair->worker;

    pair->ready |= ready;
    if (pair->queued)
        return;
    pair->queued = true;
    pair->next_queued = NULL;
    if (worker->queue_head)
        worker->queue_tail->next_queued = pair;
    else
        worker->queue_head = pair;
    worker->queue_tail = pair;
}

void vu_pair_watch_port(struct vu_pair *pair)
{
    const struct vu_vring *rx = &pair->vring[VU_RX];
    struct epoll_event event = {.data.ptr = &pair->sources[VU_SOURCE_PORT]};
    uint32_t wanted = 0;
    bool filling;
    int operation;

    if (!vu_port_has_fd(pair))
        return;
    filling = rx->enabled == VU_RING_ENABLED && !rx->parked &&
              (rx->state == VU_VRING_STARTING || rx->state == VU_VRING_RUNNING);
    /* A port that cannot be read now is not watched: edge-triggered or not, every arriving frame would
       wake us for nothing as long as the guest gives no buffers. */
    if (!pair->port_gone && pair->port_reads && filling && !pair->starved)
        wanted |= EPOLLIN;
    if (!pair->port_gone && pair->port_blocked)
        wanted |= EPOLLOUT;
    if (wanted == pair->port_watched)
        return;
    operation = !pair->port_watched ? EPOLL_CTL_ADD : wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    event.events = wanted | EPOLLET;
    if (epoll_ctl(pair->worker->epoll_fd, operation, pair->port_fd, &event) == 0)
        pair->port_watched = wanted;
    else
        vu_pair_port_gone(pair, errno);
}

void vu_pair_port_gone(struct vu_pair *pair, int error)
{
    struct vu_event event = {
        .kind = VU_EVENT_PORT_GONE, .device = pair->device->id, .ring = 2 * pair->n, .error = -error};

    if (pair->port_gone)
        return;
    pair->port_gone = true;
    vu_event_put(pair, &event);
    if (pair->port_watched)
        vu_pair_watch_port(pair);
}

void vu_pair_port_down(struct vu_pair *pair)
{
    struct vu_event event = {
        .kind = VU_EVENT_PORT_DOWN, .device = pair->device->id, .ring = 2 * pair->n, .error = -ENETDOWN};

    vu_event_put(pair, &event);
}

int vu_pair_set_port(struct vu_pair *pair, int kind, int fd, int reads, uint32_t size)
{
    unwatch_port(pair);
    if ((kind == VU_PORT_FD || kind == VU_PORT_PACKET) && size != VU_NET_HDR_SIZE &&
        size != VU_NET_HDR_LEGACY_SIZE) {
        pair->port_kind = VU_PORT_NONE;
        return VU_ERR_SYSTEM;
    }
    pair->port_kind = (uint8_t)kind;
    pair->port_fd = fd;
    pair->port_reads = reads;
    pair->port_gone = false;
    pair->port_slow = false;
    pair->port_blocked = false;
    if (vu_port_has_fd(pair))
        pair->port_header = (uint8_t)size;
    else
        pair->frame_size = size;
    pair->read_batch = 1;
    pair->expected = EXPECTED_AT_FIRST;
    vu_member_follow(pair->device);
    vu_pair_wake(pair, VU_READY_TX | VU_READY_RX);
    vu_pair_watch_port(pair);
    return pair->port_gone ? VU_ERR_SYSTEM : VU_OK;
}
