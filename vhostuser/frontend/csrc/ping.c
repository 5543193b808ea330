/* SPDX-License-Identifier: Apache-2.0 */
/* Latency: one frame in flight, and a histogram of how long each was away. */
#include "exchange.h"

#define VU_EXACT_BELOW 64U
#define VU_STEPS_LOG2 5U

uint32_t vu_histogram_bucket(uint64_t value)
{
    if (value < VU_EXACT_BELOW) {
        return (uint32_t)value;
    }
    const uint32_t exponent = 63U - (uint32_t)__builtin_clzll(value);
    const uint32_t step = (uint32_t)(value >> (exponent - VU_STEPS_LOG2)) & ((1U << VU_STEPS_LOG2) - 1);
    const uint32_t bucket = VU_EXACT_BELOW + ((exponent - 6U) << VU_STEPS_LOG2) + step;
    return VU_MIN(bucket, VU_HISTOGRAM_BUCKETS - 1U);
}

uint64_t vu_histogram_floor(uint32_t bucket)
{
    if (bucket < VU_EXACT_BELOW) {
        return bucket;
    }
    const uint32_t exponent = 6U + ((bucket - VU_EXACT_BELOW) >> VU_STEPS_LOG2);
    const uint64_t step = (bucket - VU_EXACT_BELOW) & ((1U << VU_STEPS_LOG2) - 1);
    return ((1ULL << VU_STEPS_LOG2) + step) << (exponent - VU_STEPS_LOG2);
}

static int is_answer(const struct vu_arrival *arrival, const struct vu_load_options *options,
                     uint64_t sequence)
{
    if ((options->flags & VU_LOAD_STAMP) == 0) {
        return arrival->length == options->frame_size;
    }
    return arrival->verdict == VU_STAMP_WHOLE && arrival->sequence == sequence;
}

/* Wait for the answer: 1, 0 if it does not come until `give_up`, 2 after a signal, or a failure. */
static int await(struct vu_virtqueue *receive, const struct vu_load_options *options,
                 struct vu_load_result *result, uint64_t sequence, uint64_t give_up)
{
    for (;;) {
        struct vu_arrival arrival;
        const int got = vu_receive(receive, options, result, &arrival);
        if (got < 0) {
            return got;
        }
        if (got > 0) {
            const int answered = is_answer(&arrival, options, sequence);
            vu_virtqueue_fill(receive);
            if (answered) {
                return 1;
            }
            continue;
        }
        const uint64_t now = vu_now();
        if (now >= give_up) {
            return 0;
        }
        if ((options->flags & VU_LOAD_SLEEP) == 0) {
            vu_relax();
            continue;
        }
        result->sleeps++;
        if (vu_sleep(NULL, 0, &receive, 1, give_up - now)) {
            return 2;
        }
    }
}

/* Send one frame, waiting for room if the device is slow to give chains back: 1, 0 after patience, or a
 * failure. */
static int send_one(struct vu_virtqueue *transmit, const struct vu_load_options *options,
                    struct vu_load_result *result, uint64_t give_up)
{
    while (vu_send(transmit, 0, 1, options, result) == 0) {
        const int returned = vu_reclaim(transmit, result);
        if (returned < 0) {
            return returned;
        }
        result->full += returned == 0;
        if (vu_now() >= give_up) {
            return 0;
        }
    }
    return 1;
}

int vu_ping_run(struct vu_virtqueue *transmit, struct vu_virtqueue *receive,
                const struct vu_load_options *options, struct vu_load_result *result, uint64_t *histogram)
{
    const uint64_t start = vu_now();
    int outcome = vu_options_check(&transmit, 1, options);

    if (outcome < 0 || options->lost_after_ns == 0) {
        return VU_DRIVER_BAD_CONFIG;
    }
    while (options->packets == 0 || result->sent < options->packets) {
        const uint64_t sequence = result->next_sent[0];
        const uint64_t sent_at = vu_now();
        const uint64_t give_up = sent_at + options->lost_after_ns;
        if (options->duration_ns != 0 && sent_at - start >= options->duration_ns) {
            break;
        }
        outcome = send_one(transmit, options, result, give_up);
        if (outcome <= 0) {
            break;
        }
        outcome = await(receive, options, result, sequence, give_up);
        if (outcome == 1) {
            histogram[vu_histogram_bucket(vu_now() - sent_at)]++;
        } else if (outcome == 0) {
            result->lost++;
        } else {
            break;
        }
        outcome = vu_reclaim(transmit, result);
        if (outcome < 0) {
            break;
        }
    }
    result->elapsed_ns += vu_now() - start;
    return outcome < 0 ? outcome : 0;
}
