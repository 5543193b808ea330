/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The moments in which a wake-up is lost for ever, made to happen: the guest acts inside our write to its
 * call fd, and the control side pauses between our wait and our turn.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "arena.h"

static struct arena arena;
static struct vu_worker *other;
static void (*on_call)(void);
static void (*on_wait)(void);

ssize_t __real_write(int fd, const void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length);
int __real_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout);
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout);

ssize_t __wrap_write(int fd, const void *bytes, size_t length)
{
    if (on_call && fd == arena.call[VU_RX])
        on_call();
    return __real_write(fd, bytes, length);
}

int __wrap_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    int count = __real_epoll_wait(epoll, events, most, timeout);
    void (*act)(void) = on_wait;

    on_wait = NULL;
    if (act)
        act();
    return count;
}

static void settle(void)
{
    int turns = 0;

    do
        arena_require(++turns < 1000);
    while (vu_worker_turn(arena.worker, 0) & VU_TURN_MORE);
}

static void offer_and_kick(int ring, uint16_t head)
{
    struct vu_used *used = arena_used(&arena, ring);
    uint16_t before = vu_read_le16(&arena_avail(&arena, ring)->idx), event;

    arena_offer(&arena, ring, head);
    event = vu_read_le16((vu_le16 *)(void *)&used->ring[arena.size[ring]]);
    if (arena.pair->vring[ring].event_idx ? event == before
                                          : !(vu_read_le16(&used->flags) & VU_USED_NO_NOTIFY))
        arena_kick(&arena, ring);
}

static int refills;

/* The guest's interrupt handler: as many new buffers as it always gives. */
static void refill(void)
{
    /* With event index it says from where on it wants the next call. */
    vu_write_le16(&arena_avail(&arena, VU_RX)->ring[arena.size[VU_RX]],
                  vu_read_le16(&arena_used(&arena, VU_RX)->idx));
    if (refills-- > 0) {
        offer_and_kick(VU_RX, 0);
        offer_and_kick(VU_RX, 1);
    }
}

/* As many buffers come back as were used, each time in the moment between our last use and our asking for a
   kick: nobody kicks, so it is on us to see them. */
static void starvation_that_no_kick_ends(uint64_t features)
{
    uint8_t frame[72] = {0};

    arena_begin(&arena, VU_F_VERSION_1 | features, VU_PORT_FD, 64, 64);
    for (uint16_t i = 0; i < 2; i++)
        arena_write_desc(&arena_desc(&arena, VU_RX)[i], ARENA_GPA + ARENA_BUFFERS + 2048U * i, 2048,
                         VU_DESC_WRITE, 0);
    arena_start(&arena, VU_RX);
    settle();
    for (int i = 0; i < 8; i++)
        arena_require(send(arena.network, frame, sizeof(frame), 0) == (ssize_t)sizeof(frame));
    refills = 3;
    on_call = refill;
    offer_and_kick(VU_RX, 0);
    offer_and_kick(VU_RX, 1);
    settle();
    on_call = NULL;
    arena_require(refills < 0);
    arena_require(vu_read_le16(&arena_used(&arena, VU_RX)->idx) == 8);
    arena_end(&arena);
}

static void change_nothing(void)
{
    vu_worker_pause(arena.worker);
    vu_worker_resume(arena.worker);
}

static void hold(void)
{
    vu_worker_pause(arena.worker);
}

/* The turn must throw its events away, since what they point to may be gone: among them the one that says
   that the port can be written again. */
static void port_that_can_be_written_again(void (*act)(void))
{
    int room = 8192;
    uint16_t sent;

    arena_require(setsockopt(arena.port, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_FD, 64, 256);
    arena_write_desc(&arena_desc(&arena, VU_TX)[0], ARENA_GPA + ARENA_BUFFERS, 72, 0, 0);
    arena_start(&arena, VU_TX);
    for (int i = 0; i < 256; i++)
        arena_offer(&arena, VU_TX, 0);
    settle();
    sent = vu_read_le16(&arena_used(&arena, VU_TX)->idx);
    arena_require(sent > 0 && sent < 256 && arena.pair->port_blocked);
    arena_drain(&arena);
    on_wait = act;
    vu_worker_turn(arena.worker, 0);
    if (act == hold)
        vu_worker_resume(arena.worker);
    settle();
    arena_require(vu_read_le16(&arena_used(&arena, VU_TX)->idx) > sent);
    arena_end(&arena);
}

/* The same for a kick, and for the tick by which a ring without a kick fd is polled. */
static void kick_that_is_thrown_away(void (*act)(void), bool polled)
{
    int kick = arena.kick[VU_TX];

    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_SINK, 64, 64);
    arena_write_desc(&arena_desc(&arena, VU_TX)[0], ARENA_GPA + ARENA_BUFFERS, 72, 0, 0);
    if (polled)
        arena.kick[VU_TX] = -1;
    arena_start(&arena, VU_TX);
    settle();
    for (uint16_t i = 1; i < 6; i++) {
        arena_offer(&arena, VU_TX, 0);
        if (!polled)
            arena_kick(&arena, VU_TX);
        on_wait = act;
        vu_worker_turn(arena.worker, 1000);
        if (act == hold)
            vu_worker_resume(arena.worker);
        settle();
        arena_require(vu_read_le16(&arena_used(&arena, VU_TX)->idx) == i);
    }
    arena_end(&arena);
    arena.kick[VU_TX] = kick;
}

/* The pause began before the worker went to wait, and the change comes when it has its events. */
static void free_and_resume(void)
{
    vu_vring_stop(arena.pair, VU_TX);
    vu_pair_free(arena.pair);
    vu_worker_resume(arena.worker);
}

static void kick_of_a_pair_that_is_freed(void)
{
    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_SINK, 64, 64);
    arena_start(&arena, VU_TX);
    settle();
    arena_kick(&arena, VU_TX);
    on_wait = free_and_resume;
    vu_worker_pause(arena.worker);
    vu_worker_turn(arena.worker, 1000);
    settle();
    vu_worker_pause(arena.worker);
    arena.pair = vu_pair_new(arena.device, arena.worker, 0);
    arena_require(arena.pair);
    vu_worker_resume(arena.worker);
    arena_end(&arena);
}

static void move(void)
{
    struct vu_worker *to = arena.pair->worker == other ? arena.worker : other;

    vu_worker_pause(arena.worker);
    vu_worker_pause(other);
    vu_pair_move(arena.pair, to);
    vu_worker_resume(other);
    vu_worker_resume(arena.worker);
}

/* What the old worker has heard of the pair and not looked at is the new one's to find. */
static void kick_of_a_pair_that_moves(bool polled)
{
    int kick = arena.kick[VU_TX];

    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_SINK, 64, 64);
    arena_write_desc(&arena_desc(&arena, VU_TX)[0], ARENA_GPA + ARENA_BUFFERS, 72, 0, 0);
    if (polled)
        arena.kick[VU_TX] = -1;
    arena_start(&arena, VU_TX);
    settle();
    for (uint16_t i = 1; i < 6; i++) {
        struct vu_worker *from = arena.pair->worker;

        arena_offer(&arena, VU_TX, 0);
        if (!polled)
            arena_kick(&arena, VU_TX);
        on_wait = move;
        vu_worker_turn(from, 1000);
        arena_require(arena.pair->worker != from && from->polled == 0);
        while (vu_worker_turn(arena.pair->worker, 0) & VU_TURN_MORE)
            ;
        arena_require(vu_read_le16(&arena_used(&arena, VU_TX)->idx) == i);
    }
    move();
    arena_end(&arena);
    arena.kick[VU_TX] = kick;
}

/* A port that was full, and one that has frames: both are watched anew. */
static void port_of_a_pair_that_moves(void)
{
    uint8_t frame[72] = {0};
    uint16_t sent;

    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_FD, 64, 256);
    arena_write_desc(&arena_desc(&arena, VU_TX)[0], ARENA_GPA + ARENA_BUFFERS, 72, 0, 0);
    arena_write_desc(&arena_desc(&arena, VU_RX)[0], ARENA_GPA + ARENA_BUFFERS + 2048, 2048, VU_DESC_WRITE, 0);
    arena_start(&arena, VU_TX);
    arena_start(&arena, VU_RX);
    for (int i = 0; i < 256; i++)
        arena_offer(&arena, VU_TX, 0);
    settle();
    sent = vu_read_le16(&arena_used(&arena, VU_TX)->idx);
    arena_require(sent > 0 && sent < 256 && arena.pair->port_blocked);
    offer_and_kick(VU_RX, 0);
    settle();
    arena_drain(&arena);
    arena_require(send(arena.network, frame, sizeof(frame), 0) == (ssize_t)sizeof(frame));
    on_wait = move;
    vu_worker_turn(arena.worker, 0);
    while (vu_worker_turn(other, 0) & VU_TURN_MORE)
        ;
    arena_require(vu_read_le16(&arena_used(&arena, VU_TX)->idx) > sent);
    arena_require(vu_read_le16(&arena_used(&arena, VU_RX)->idx) == 1);
    arena_require(arena.worker->pairs == NULL && arena.worker->queue_head == NULL);
    move();
    arena_end(&arena);
}

int main(void)
{
    arena_open(&arena);
    other = vu_worker_new();
    arena_require(other);
    starvation_that_no_kick_ends(0);
    starvation_that_no_kick_ends(VU_F_EVENT_IDX);
    port_that_can_be_written_again(change_nothing);
    port_that_can_be_written_again(hold);
    for (int polled = 0; polled < 2; polled++) {
        kick_that_is_thrown_away(change_nothing, polled);
        kick_that_is_thrown_away(hold, polled);
    }
    kick_of_a_pair_that_is_freed();
    kick_of_a_pair_that_moves(false);
    kick_of_a_pair_that_moves(true);
    port_of_a_pair_that_moves();
    vu_worker_free(other);
    arena_close(&arena);
    puts("12 races, nothing lost");
    return 0;
}
