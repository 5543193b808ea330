/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One flow of records over UDP or TCP, on the host or in the guest.  Each record has a number, from which its
 * length and all of its bytes follow: the receiver can tell a lost, a corrupt and a duplicate one.
 *
 *   flow send|receive udp|tcp ADDRESS PORT MICROSECONDS
 *
 * A receiver binds ADDRESS; a sender connects to it, and pauses for MICROSECONDS behind each record.  SIGTERM
 * ends a sender behind a whole record, and a receiver of datagrams when no more come; that of a stream ends
 * with the stream.  The last line says what was counted.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_NUMBERS (1u << 24)
#define LEAST_WORDS 8
#define DATAGRAM_WORDS 160
#define STREAM_WORDS 4000 /* a segment of many buffers: the guest's driver writes into the first one only */
#define QUIET_MILLISECONDS 700
#define RECEIVE_BUFFER (8 << 20)

struct record {
    uint64_t number;
    uint64_t content[LEAST_WORDS + STREAM_WORDS];
};

static volatile sig_atomic_t ending;
static uint8_t seen[MOST_NUMBERS / 8];
static uint64_t records, corrupt, duplicate;
static bool stream;

static void end(int signal)
{
    (void)signal;
    ending = 1;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static size_t length_of(uint64_t number)
{
    return sizeof(number) * (1 + LEAST_WORDS + number * 611 % (stream ? STREAM_WORDS : DATAGRAM_WORDS));
}

static size_t make_record(struct record *record, uint64_t number)
{
    uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
    size_t length = length_of(number);

    record->number = htobe64(number);
    for (size_t i = 0; i < length / sizeof(state) - 1; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record->content[i] = state;
    }
    return length;
}

static void look_at(const struct record *record, size_t length)
{
    static struct record wanted;
    uint64_t number = be64toh(record->number);

    records++;
    if (length < sizeof(number) || number >= MOST_NUMBERS || make_record(&wanted, number) != length ||
        memcmp(&wanted, record, length) != 0) {
        corrupt++;
        return;
    }
    if (seen[number / 8] & 1u << number % 8)
        duplicate++;
    seen[number / 8] |= (uint8_t)(1u << number % 8);
}

/* The whole of it, ending or not: the receiver knows records only. */
static bool write_all(int fd, const void *bytes, size_t length)
{
    for (const uint8_t *at = bytes; length;) {
        ssize_t done = send(fd, at, length, MSG_NOSIGNAL);

        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0) {
            at += done;
            length -= (size_t)done;
        }
    }
    return true;
}

/* False at the end of the stream. */
static bool read_all(int fd, void *bytes, size_t length)
{
    for (uint8_t *at = bytes; length;) {
        ssize_t done = recv(fd, at, length, 0);

        if (done == 0)
            return false;
        if (done < 0 && errno != EINTR)
            fail("recv");
        if (done > 0) {
            at += done;
            length -= (size_t)done;
        }
    }
    return true;
}

static void pause_for(long microseconds)
{
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};

    nanosleep(&time, NULL);
}

static void send_records(int fd, long microseconds)
{
    static struct record record;

    for (uint64_t number = 0; !ending && number < MOST_NUMBERS; number++) {
        size_t length = make_record(&record, number);

        if (stream) {
            if (!write_all(fd, &record, length))
                fail("send");
            records++;
        } else {
            /* No carrier, no neighbour, a full queue: it comes back, and this one was not sent. */
            records += send(fd, &record, length, MSG_NOSIGNAL) == (ssize_t)length;
        }
        pause_for(microseconds);
    }
    if (stream)
        shutdown(fd, SHUT_WR);
}

/* Behind a wrong byte nothing can be told any more: the rest is only taken in. */
static void receive_stream(int fd)
{
    static struct record record;

    for (uint64_t number = 0; !corrupt && read_all(fd, &record.number, sizeof(number)); number++) {
        size_t length = length_of(number);

        if (be64toh(record.number) == number && read_all(fd, record.content, length - sizeof(number)))
            look_at(&record, length);
        else
            corrupt++;
    }
    while (read_all(fd, &record, sizeof(record)))
        ;
}

static void receive_datagrams(int fd)
{
    static struct record record;
    struct timeval quiet = {0, QUIET_MILLISECONDS * 1000};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof(quiet));
    for (;;) {
        ssize_t length = recv(fd, &record, sizeof(record), MSG_TRUNC);

        if (length >= 0)
            look_at(&record, (size_t)length);
        else if (errno == EAGAIN && ending)
            return;
        else if (errno != EAGAIN && errno != EINTR)
            fail("recv");
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = end};
    struct sockaddr_in address = {.sin_family = AF_INET};
    bool sends = argc > 1 && strcmp(argv[1], "send") == 0;
    int one = 1, buffer = RECEIVE_BUFFER, fd;

    if (argc != 6 || !inet_aton(argv[3], &address.sin_addr)) {
        fprintf(stderr, "usage: flow send|receive udp|tcp ADDRESS PORT MICROSECONDS\n");
        return 2;
    }
    stream = strcmp(argv[2], "tcp") == 0;
    address.sin_port = htons((uint16_t)atoi(argv[4]));
    sigaction(SIGTERM, &action, NULL);
    fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (sends) {
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
            fail("connect");
        send_records(fd, atol(argv[5]));
    } else {
        /* A receiver that is held back keeps what came meanwhile. */
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
            fail("bind");
        puts("ready");
        fflush(stdout);
        if (stream) {
            int listening = fd;

            if (listen(listening, 1) != 0 || (fd = accept(listening, NULL, NULL)) < 0)
                fail("accept");
            receive_stream(fd);
        } else {
            receive_datagrams(fd);
        }
    }
    printf("records %llu corrupt %llu duplicate %llu\n", (unsigned long long)records,
           (unsigned long long)corrupt, (unsigned long long)duplicate);
    return 0;
}
