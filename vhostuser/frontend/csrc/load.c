/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads: floods, drains and echo loops, one function with different ends left out.
 *
 * A turn takes back what was sent, sends as much as burst, window, rate and ring allow, takes in what arrived
 * and lends its buffers again.  The clock is read once a turn.
 */
#include "exchange.h"

#define VU_SLEEP_AT_MOST_NS 100000000ULL
#define VU_SECOND_NS 1000000000ULL

struct load {
    struct vu_virtqueue **transmit;
    struct vu_virtqueue **receive;
    const struct vu_load_options *options;
    struct vu_load_result *result;
    uint32_t transmit_count;
    uint32_t receive_count;
};

/* Frames on their way; foreign ones taken for ours must not make it negative. */
static uint64_t on_their_way(const struct load *load)
{
    const struct vu_load_result *result = load->result;
    const uint64_t over = result->received + result->corrupt + result->lost;
    return result->sent > over ? result->sent - over : 0;
}

/* How many the schedule has left to send at this moment: all that it had, also after a pause of our own. */
static uint64_t due(const struct load *load, uint64_t elapsed_ns)
{
    const uint64_t rate = load->options->rate;
    if (rate == 0) {
        return UINT64_MAX;
    }
    const uint64_t seconds = elapsed_ns / VU_SECOND_NS;
    const uint64_t rest = elapsed_ns % VU_SECOND_NS;
    const uint64_t all = seconds * rate + rest * rate / VU_SECOND_NS;
    return all > load->result->sent ? all - load->result->sent : 0;
}

static uint64_t may_send(const struct load *load, uint64_t elapsed_ns)
{
    const struct vu_load_options *options = load->options;
    uint64_t room = VU_MIN(options->burst, due(load, elapsed_ns));
    if (options->packets != 0) {
        const uint64_t left =
            options->packets > load->result->sent ? options->packets - load->result->sent : 0;
        room = VU_MIN(room, left);
    }
    if (options->window != 0 && load->receive_count != 0) {
        const uint64_t away = on_their_way(load);
        room = VU_MIN(room, away < options->window ? options->window - away : 0);
    }
    return room;
}

static int transmit_turn(const struct load *load, int sending, uint64_t elapsed_ns)
{
    int moved = 0;
    for (uint32_t i = 0; i < load->transmit_count; i++) {
        struct vu_virtqueue *queue = load->transmit[i];
        const int returned = vu_reclaim(queue, load->result);
        if (returned < 0) {
            return returned;
        }
        moved |= returned;
        const uint32_t room = sending ? (uint32_t)may_send(load, elapsed_ns) : 0;
        if (room > 0) {
            const uint32_t sent = vu_send(queue, i, room, load->options, load->result);
            load->result->full += sent == 0;
            moved |= sent != 0;
        }
    }
    return moved != 0;
}

static int receive_turn(const struct load *load)
{
    int moved = 0;
    for (uint32_t i = 0; i < load->receive_count; i++) {
        struct vu_virtqueue *queue = load->receive[i];
        struct vu_arrival arrival;
        for (uint32_t frames = 0; frames < load->options->burst; frames++) {
            const int got = vu_receive(queue, load->options, load->result, &arrival);
            if (got < 0) {
                return got;
            }
            if (got == 0) {
                break;
            }
            moved = 1;
        }
        if (queue->free.count > 0) {
            vu_virtqueue_fill(queue);
        }
    }
    return moved;
}

/* Asked of the rings, not of the counts: chains of an earlier run are returned in this one. */
static int everything_is_back(const struct load *load)
{
    for (uint32_t i = 0; i < load->transmit_count; i++) {
        if (load->transmit[i]->in_flight != 0) {
            return 0;
        }
    }
    return load->receive_count == 0 || on_their_way(load) == 0;
}

static int limit_reached(const struct load *load, uint64_t now, uint64_t end)
{
    const struct vu_load_options *options = load->options;
    const uint64_t done = load->transmit_count != 0 ? load->result->sent : load->result->received;
    return (options->duration_ns != 0 && now >= end) || (options->packets != 0 && done >= options->packets);
}

static int check(const struct load *load)
{
    if (load->transmit_count > VU_LOAD_MAX_QUEUES || load->receive_count > VU_LOAD_MAX_QUEUES ||
        load->options->burst == 0) {
        return VU_DRIVER_BAD_CONFIG;
    }
    return vu_options_check(load->transmit, load->transmit_count, load->options);
}

static int run(const struct load *load, uint64_t start)
{
    const struct vu_load_options *options = load->options;
    const uint64_t end = start + options->duration_ns;
    /* With the slices before this one, which did not see the time between two. */
    const uint64_t before = load->result->elapsed_ns;
    const uint64_t patience = options->lost_after_ns != 0 ? options->lost_after_ns : UINT64_MAX;
    uint64_t now = start;

    for (;;) {
        const int over = limit_reached(load, now, end);
        if (over && ((options->flags & VU_LOAD_SETTLE) == 0 || everything_is_back(load))) {
            return 0;
        }
        const int sent = transmit_turn(load, !over, before + (now - start));
        const int received = sent < 0 ? sent : receive_turn(load);
        if (received < 0) {
            return received;
        }
        now = vu_now();
        if (sent || received) {
            load->result->last_moved = now;
            continue;
        }
        if (now - load->result->last_moved >= patience) {
            load->result->lost += on_their_way(load);
            if (over) {
                return 0;
            }
            load->result->last_moved = now;
        }
        if ((options->flags & VU_LOAD_SLEEP) == 0 || options->rate != 0) {
            vu_relax();
            continue;
        }
        uint64_t nap = VU_MIN(VU_SLEEP_AT_MOST_NS, patience - (now - load->result->last_moved));
        if (options->duration_ns != 0 && now < end) {
            nap = VU_MIN(nap, end - now);
        }
        load->result->sleeps++;
        if (vu_sleep(load->transmit, load->transmit_count, load->receive, load->receive_count, nap)) {
            return 0;
        }
        now = vu_now();
    }
}

int vu_load_run(struct vu_virtqueue **transmit, uint32_t transmit_count, struct vu_virtqueue **receive,
                uint32_t receive_count, const struct vu_load_options *options, struct vu_load_result *result)
{
    const struct load load = {.transmit = transmit,
                              .receive = receive,
                              .options = options,
                              .result = result,
                              .transmit_count = transmit_count,
                              .receive_count = receive_count};
    const int failure = check(&load);
    if (failure < 0) {
        return failure;
    }
    const uint64_t start = vu_now();
    if (result->last_moved == 0) {
        result->last_moved = start;
    }
    const int outcome = run(&load, start);
    const uint64_t end = (options->flags & VU_LOAD_SETTLE) != 0 ? result->last_moved : vu_now();
    result->elapsed_ns += end > start ? end - start : 0;
    return outcome;
}
