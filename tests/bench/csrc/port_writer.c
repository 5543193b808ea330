/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of every back-end on a tap or a packet socket: writes to it, 64 frames at a time, and nothing else.
 *
 *   port_writer tap:NAME|packet:INTERFACE FRAME_BYTES SECONDS BUFFERS HEADER_HEX
 *
 * Makes the tap, which is written to by io_uring, or opens the interface, by sendmmsg; both with a virtio-net
 * header of 12 bytes.  Says "ready" and waits for a line on standard input.  Then it writes frames, from as many buffers in turn as a guest's ring has, so that they come out of the
 * same caches; HEADER_HEX is the virtio-net header and what the frame begins with. In the end it says how
 * many the kernel took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define HEADER 12

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    const int header = HEADER;
    const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) {
        fail(name);
    }
    return fd;
}

static int open_packet(const char *name)
{
    const int header = HEADER, size = 4 << 20;
    const struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

    /* PACKET_VNET_HDR_SZ, Linux 6.6 */
    if (fd < 0 || setsockopt(fd, 263, 24, &header, sizeof(header)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0 ||
        bind(fd, (const struct sockaddr *)&where, sizeof(where)) < 0) {
        fail(name);
    }
    return fd;
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

/* A batch in, its completions out: how many frames the kernel took. */
static uint64_t write_batch(struct io_uring *ring, int fd, uint8_t *const *buffers, size_t count,
                            unsigned int length, size_t *next)
{
    uint64_t taken = 0;

    for (int i = 0; i < BATCH; i++) {
        io_uring_prep_write(io_uring_get_sqe(ring), fd, buffers[*next], length, 0);
        *next = (*next + 1) % count;
    }
    if (io_uring_submit_and_wait(ring, BATCH) < 0) {
        fail("io_uring_enter");
    }
    for (int i = 0; i < BATCH; i++) {
        struct io_uring_cqe *done;

        if (io_uring_peek_cqe(ring, &done) < 0) {
            fail("completion");
        }
        taken += done->res == (int)length;
        io_uring_cqe_seen(ring, done);
    }
    return taken;
}

static uint64_t send_batch(int fd, uint8_t *const *buffers, size_t count, unsigned int length, size_t *next)
{
    struct mmsghdr messages[BATCH] = {0};
    struct iovec pieces[BATCH];
    int sent;

    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){buffers[*next], length};
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        *next = (*next + 1) % count;
    }
    sent = sendmmsg(fd, messages, BATCH, MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != ENOBUFS) {
        fail("sendmmsg");
    }
    return sent < 0 ? 0 : (uint64_t)sent;
}

int main(int argc, char **argv)
{
    struct io_uring ring;
    uint8_t **buffers;
    size_t count, start_bytes, next = 0;
    unsigned int length;
    uint64_t frames = 0, started, end;
    char line[16];
    bool packets;
    int fd;

    if (argc != 6) {
        fputs("port_writer tap:NAME|packet:INTERFACE FRAME_BYTES SECONDS BUFFERS HEADER_HEX\n", stderr);
        return 2;
    }
    packets = strncmp(argv[1], "packet:", 7) == 0;
    fd = packets ? open_packet(argv[1] + 7) : open_tap(argv[1] + 4);
    length = (unsigned int)atoi(argv[2]) + HEADER;
    count = (size_t)atoi(argv[4]);
    start_bytes = strlen(argv[5]) / 2;
    buffers = calloc(count, sizeof(*buffers));
    for (size_t i = 0; i < count; i++) {
        buffers[i] = aligned_alloc(4096, (length + 4095U) / 4096U * 4096U);
        memset(buffers[i], 0, length);
        for (size_t at = 0; at < start_bytes && at < length; at++) {
            sscanf(argv[5] + 2 * at, "%2hhx", &buffers[i][at]);
        }
    }
    if (io_uring_queue_init(BATCH, &ring, 0) < 0) {
        fail("io_uring");
    }
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin)) {
        return 1;
    }
    started = now();
    end = started + (uint64_t)(atof(argv[3]) * 1e9);
    while (now() < end) {
        frames += packets ? send_batch(fd, buffers, count, length, &next)
                          : write_batch(&ring, fd, buffers, count, length, &next);
    }
    printf("%llu %.6f\n", (unsigned long long)frames, (double)(now() - started) / 1e9);
    fflush(stdout);
    /* The tap stays until somebody has read its counts. */
    while (fgets(line, sizeof(line), stdin)) {
    }
    return 0;
}
