/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames for a guest, at a rate: a packet socket on the host's side of a tap.
 *
 *   packet_sender INTERFACE FRAME_BYTES FRAMES_A_SECOND SECONDS
 *
 * By a schedule that is caught up with, in calls of at most 16 frames, asleep in between.  Says how many the
 * kernel took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 16
#define FRAME_MAX 9000
#define PAUSE_NS 20000

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
    static uint8_t frame[FRAME_MAX] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    struct sockaddr_ll where = {.sll_family = AF_PACKET};
    struct mmsghdr messages[BATCH] = {0};
    struct iovec piece = {.iov_base = frame};
    uint64_t started, elapsed, sent = 0, rate, seconds;
    int fd;

    if (argc != 5) {
        fputs("packet_sender INTERFACE FRAME_BYTES FRAMES_A_SECOND SECONDS\n", stderr);
        return 2;
    }
    piece.iov_len = (size_t)atoi(argv[2]);
    rate = (uint64_t)atoll(argv[3]);
    seconds = (uint64_t)(atof(argv[4]) * 1e9);
    where.sll_ifindex = (int)if_nametoindex(argv[1]);
    fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (!where.sll_ifindex || fd < 0 || piece.iov_len > FRAME_MAX ||
        bind(fd, (struct sockaddr *)&where, sizeof(where)) < 0) {
        perror(argv[1]);
        return 1;
    }
    for (int i = 0; i < BATCH; i++) {
        messages[i].msg_hdr.msg_iov = &piece;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    started = now();
    while ((elapsed = now() - started) < seconds) {
        const uint64_t due = elapsed * rate / 1000000000ULL;
        const uint64_t count = due > sent ? due - sent : 0;

        if (count == 0) {
            nanosleep(&pause, NULL);
            continue;
        }
        const int taken = sendmmsg(fd, messages, (unsigned int)(count < BATCH ? count : BATCH), 0);

        if (taken > 0) {
            sent += (uint64_t)taken;
        }
    }
    printf("%llu\n", (unsigned long long)sent);
    return 0;
}
