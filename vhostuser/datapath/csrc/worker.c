/* SPDX-License-Identifier: Apache-2.0 */
/* The turn: events in, bursts out, bounded. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "spin.h"
#include "state.h"
#include "watchdog.h"

#define EVENTS_A_TURN 64
#define TURN_COST 500000 /* about ns; control sockets wait no longer than this */
#define POLL_INTERVAL_NS 1000000

static int watch(struct vu_worker *worker, int fd, struct vu_source *source)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = source};

    return epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

struct vu_worker *vu_worker_new(void)
{
    struct vu_worker *worker = NULL;

    if (posix_memalign((void **)&worker, VU_CACHE_LINE, sizeof(*worker)))
        return NULL;
    memset(worker, 0, sizeof(*worker));
    vu_gate_open(&worker->gate);
    worker->timer_source.kind = VU_SOURCE_TIMER;
    worker->wake_source.kind = VU_SOURCE_WAKE;
    worker->guard.worker = worker;
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    worker->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->uring = vu_uring_new();
    /* Reserved, not touched: 2.5 MiB of address space, of which a usual burst uses a few pages. */
    worker->scratch = mmap(NULL, sizeof(*worker->scratch), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (worker->epoll_fd < 0 || worker->timer_fd < 0 || worker->wake_fd < 0 ||
        worker->scratch == MAP_FAILED || watch(worker, worker->timer_fd, &worker->timer_source) ||
        watch(worker, worker->wake_fd, &worker->wake_source)) {
        int error = errno;

        vu_worker_free(worker);
        errno = error;
        return NULL;
    }
    return worker;
}

void vu_worker_free(struct vu_worker *worker)
{
    if (worker->wake_fd >= 0)
        close(worker->wake_fd);
    if (worker->timer_fd >= 0)
        close(worker->timer_fd);
    if (worker->epoll_fd >= 0)
        close(worker->epoll_fd);
    if (worker->scratch != MAP_FAILED)
        munmap(worker->scratch, sizeof(*worker->scratch));
    vu_uring_free(worker->uring);
    vu_gate_close(&worker->gate);
    free(worker);
}

int vu_worker_epoll_fd(const struct vu_worker *worker)
{
    return worker->epoll_fd;
}

void vu_worker_wake(struct vu_worker *worker)
{
    uint64_t one = 1;
    /* Cannot fail: the counter would have to overflow. */
    ssize_t written = write(worker->wake_fd, &one, sizeof(one));

    (void)written;
}

void vu_worker_poll_rings(struct vu_worker *worker, int change)
{
    struct itimerspec spec = {.it_interval.tv_nsec = POLL_INTERVAL_NS, .it_value.tv_nsec = POLL_INTERVAL_NS};

    worker->polled = (uint32_t)((int)worker->polled + change);
    if (worker->polled == 0)
        memset(&spec, 0, sizeof(spec));
    timerfd_settime(worker->timer_fd, 0, &spec, NULL);
}

/* Pipes and sockets stand in for eventfds with some front-ends; what they carry means nothing. */
static void drain(struct vu_vring *vring)
{
    uint8_t bytes[512];
    ssize_t length = 1;

    vu_watchdog_feed();
    /* To the end and not to the first short read: a datagram socket gives one message at a time. */
    for (int i = 0; i < 64 && length > 0; i++)
        length = read(vring->kick_fd, bytes, sizeof(bytes));
    if (vu_unlikely(length < 0 && errno == EINTR))
        vu_device_fault(vring->pair, VU_ERR_NOTIFY, vring->index);
}

static void wake_all(struct vu_worker *worker, bool polled_only)
{
    uint64_t ticks;

    /* The kernel starts the timer's next interval when the last one is read, not before. */
    if (worker->polled && read(worker->timer_fd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
        vu_worker_poll_rings(worker, 0); /* cannot be; set anew, it runs in any case */
    for (struct vu_pair *pair = worker->pairs; pair; pair = pair->next_served) {
        for (int ring = 0; ring < 2; ring++) {
            struct vu_vring *vring = &pair->vring[ring];

            if (vring->state == VU_VRING_STOPPED || (polled_only && vring->kick_fd >= 0))
                continue;
            /* Its event may be among those thrown away, and a pipe that fills up takes no further kick. */
            if (!polled_only && vring->kick_drained)
                drain(vring);
            if (ring == VU_RX)
                pair->starved = false;
            vu_pair_wake(pair, ring == VU_RX ? VU_READY_RX : VU_READY_TX);
        }
        /* The port's event was thrown away with the others: ask it again. */
        if (!polled_only)
            pair->port_blocked = false;
        vu_pair_watch_port(pair);
    }
}

static void on_kick(struct vu_pair *pair, int ring)
{
    struct vu_vring *vring = &pair->vring[ring];

    vu_count(&vring->counters.kicks, 1);
    if (vring->kick_drained)
        drain(vring);
    if (ring == VU_RX)
        pair->starved = false;
    vu_pair_wake(pair, ring == VU_RX ? VU_READY_RX : VU_READY_TX);
    vu_pair_watch_port(pair);
}

static void on_port(struct vu_pair *pair, uint32_t events)
{
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP) && pair->port_blocked) {
        pair->port_blocked = false;
        vu_pair_wake(pair, VU_READY_TX);
        vu_pair_watch_port(pair);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        vu_pair_wake(pair, VU_READY_RX);
}

static void on_event(struct vu_worker *worker, const struct epoll_event *event)
{
    const struct vu_source *source = event->data.ptr;

    switch (source->kind) {
    case VU_SOURCE_KICK_RX:
        on_kick(source->pair, VU_RX);
        break;
    case VU_SOURCE_KICK_TX:
        on_kick(source->pair, VU_TX);
        break;
    case VU_SOURCE_PORT:
        on_port(source->pair, event->events);
        break;
    case VU_SOURCE_TIMER:
        wake_all(worker, true);
        break;
    case VU_SOURCE_WAKE:
        break; /* an edge, never read: it has done its work by ending the wait */
    }
}

/* Both directions of one pair, under the guard.  A frame of its own: it is what a fault unwinds to. */
static vu_noinline uint32_t serve(struct vu_worker *worker, struct vu_pair *pair)
{
    volatile uint32_t cost = 0;

    if (vu_unlikely(vu_device_is_faulted(pair->device))) {
        pair->ready = 0;
        return 0;
    }
    if (vu_unlikely(VU_GUARD_ENTER(&worker->guard, pair))) {
        if (worker->guard.held)
            vu_ticket_unlock(worker->guard.held);
        vu_device_unwound(&worker->guard);
        pair->ready = 0;
        return TURN_COST / 10; /* signals are slow */
    }
    if (pair->ready & VU_READY_TX)
        cost = vu_serve_tx(pair);
    if (pair->ready & VU_READY_RX && !vu_device_is_faulted(pair->device))
        cost += vu_serve_rx(pair);
    vu_guard_leave();
    return cost;
}

/* Pairs meet in a turn by chance; where this many more turns have several than have one, they wait for each
   other.  A worker that is full gets there in a tenth of a second. */
#define CROWDED_TURNS 2048

static void notice_crowd(struct vu_worker *worker, const struct vu_pair *pair)
{
    const struct vu_event event = {.kind = VU_EVENT_CROWDED, .device = pair->device->id};

    if (++worker->crowded < CROWDED_TURNS)
        return;
    worker->crowded = 0;
    vu_event_put(pair, &event);
}

static uint32_t serve_queue(struct vu_worker *worker)
{
    /* The tail of now is the end of this turn: who is still busy then queues behind the others. */
    const struct vu_pair *last = worker->queue_tail;
    uint32_t cost = 0, spent;
    bool more = worker->queue_head;

    if (worker->thread_id) {
        if (worker->queue_head != last)
            notice_crowd(worker, last);
        else if (worker->crowded && last)
            worker->crowded--;
    }
    while (more && cost < TURN_COST) {
        struct vu_pair *pair = worker->queue_head;

        more = pair != last;
        worker->queue_head = pair->next_queued;
        if (!worker->queue_head)
            worker->queue_tail = NULL;
        pair->queued = false;
        spent = serve(worker, pair);
        cost += spent;
        vu_count(&pair->spent, spent);
        if (pair->ready)
            vu_pair_wake(pair, 0);
        if (worker->poll != VU_POLL_EVENT)
            vu_spin_join(pair, spent);
    }
    return cost;
}

/* ns after which a worker that polls and has work asks the kernel what else has happened: that and the
   borders of the turn cost as much as several frames. */
#define ROUNDS_END 10000

static void account(struct vu_worker *worker, uint64_t *sum)
{
    worker->now = vu_spin_clock();
    vu_count(sum, worker->now - worker->since);
    worker->since = worker->now;
}

/* Serves and looks, again and again, with an account of the time.  All of it is busy time but for looks in
   vain. */
static void serve_spinning(struct vu_worker *worker)
{
    uint64_t end;

    worker->now = vu_spin_clock();
    if (!worker->since)
        worker->since = worker->now;
    end = worker->now + ROUNDS_END;
    do {
        account(worker, serve_queue(worker) ? &worker->counters.busy_ns : &worker->counters.idle_ns);
        if (!worker->spinning || worker->queue_head)
            break;
        if (!vu_spin_look(worker))
            account(worker, &worker->counters.idle_ns);
    } while (worker->queue_head && worker->now < end);
    vu_spin_retire(worker);
}

void vu_worker_read_counters(const struct vu_worker *worker, struct vu_worker_counters *counters)
{
    counters->turns = __atomic_load_n(&worker->counters.turns, __ATOMIC_RELAXED);
    counters->sleeps = __atomic_load_n(&worker->counters.sleeps, __ATOMIC_RELAXED);
    counters->busy_ns = __atomic_load_n(&worker->counters.busy_ns, __ATOMIC_RELAXED);
    counters->idle_ns = __atomic_load_n(&worker->counters.idle_ns, __ATOMIC_RELAXED);
}

uint32_t vu_worker_turn(struct vu_worker *worker, int timeout_ms)
{
    struct epoll_event events[EVENTS_A_TURN];
    uint32_t changes = __atomic_load_n(&worker->changes, __ATOMIC_ACQUIRE), result = 0;
    /* Not by the queue, which the control side may be changing now: what it puts there comes with a wake. */
    bool sleeps = timeout_ms < 0 && !worker->unfinished;
    int count = epoll_wait(worker->epoll_fd, events, EVENTS_A_TURN, worker->unfinished ? 0 : timeout_ms);

    if (vu_unlikely(!vu_turn_enter(worker))) {
        worker->rescan = worker->unfinished = true;
        return VU_TURN_MORE | VU_TURN_PAUSED;
    }
    /* A change between the wait and now may have freed what the events point to: look everywhere. */
    if (vu_unlikely(worker->rescan || __atomic_load_n(&worker->changes, __ATOMIC_RELAXED) != changes)) {
        worker->rescan = false;
        worker->crowded = 0; /* all pairs come now, with work or without */
        wake_all(worker, false);
    } else {
        for (int i = 0; i < count; i++)
            on_event(worker, &events[i]);
    }
    vu_count(&worker->counters.turns, 1);
    if (sleeps) {
        vu_count(&worker->counters.sleeps, 1);
        worker->since = 0;
    }
    if (worker->poll == VU_POLL_EVENT)
        serve_queue(worker);
    else
        serve_spinning(worker);
    worker->unfinished = worker->queue_head || worker->spinning;
    if (worker->unfinished)
        result |= VU_TURN_MORE;
    if (vu_events_pending(worker))
        result |= VU_TURN_EVENTS;
    if (vu_turn_leave(worker))
        result |= VU_TURN_HELD;
    return result;
}
