/*
 * Where payloads.txt comes from: the structures of the vhost-user specification as C declares them, filled
 * with numbers that differ in every byte, printed as the compiler laid them out on x86-64.
 *
 *     gcc -Wall -Wextra -o payloads payloads.c && ./payloads
 *
 * Linux declares vring state, vring address and IOTLB message itself; the others are written down from the
 * specification's text. Prints "kind hex", one a line.
 */
#include <linux/vhost_types.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct region {
    uint64_t gpa, size, uva, mmap_offset;
};

struct mem_table {
    uint32_t nregions, padding;
    struct region regions[2];
};

struct single_region {
    uint64_t padding;
    struct region region;
};

struct log_base {
    uint64_t size, offset;
};

struct config {
    uint32_t offset, size, flags;
    uint8_t content[6];
};

struct vring_area {
    uint64_t word, size, offset;
};

struct inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
};

struct transfer_state {
    uint32_t direction, phase;
};

struct mmap_range {
    uint8_t shmid, padding[7];
    uint64_t fd_offset, shm_offset, length, flags;
};

static void print(const char *kind, const void *start, size_t size)
{
    const unsigned char *at = start;

    printf("%s ", kind);
    while (size-- > 0)
        printf("%02x", *at++);
    printf("\n");
}

#define PRINT(kind, value) print(kind, &(value), sizeof(value))

int main(void)
{
    uint64_t number = 0x1122334455667788, vring_fd = 0xfe, vring_nofd = 0x1fe;
    struct vhost_vring_state state = {.index = 0x01020304, .num = 0x05060708};
    struct vhost_vring_addr addr = {
        .index = 0x01020304,
        .flags = 1,
        .desc_user_addr = 0x7f0011223344550,
        .used_user_addr = 0x7f0066778899aa0,
        .avail_user_addr = 0x7f00bbccddeeff0,
        .log_guest_addr = 0x1234567890,
    };
    struct mem_table table = {
        .nregions = 2,
        .regions = {{0, 0xc0000000, 0x7f1000000000, 0},
                    {0x100000000, 0x40000000, 0x7f10c0000000, 0xc0000000}},
    };
    struct single_region single = {0, {0x100000000, 0x40000000, 0x7f10c0000000, 0xc0000000}};
    struct log_base log = {0x20000, 0x1000};
    struct vhost_iotlb_msg iotlb;
    struct config config = {6, 6, 1, {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
    uint8_t rarp[8] = {0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0};
    struct vring_area area = {0x103, 0x1000, 0x2000};
    struct inflight inflight;
    uint8_t uuid[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct transfer_state transfer = {1, 0};
    struct mmap_range range = {7, {0}, 0x1000, 0x2000, 0x3000, 1};

    memset(&iotlb, 0, sizeof(iotlb));
    iotlb.iova = 0xfee00000, iotlb.size = 0x1000, iotlb.uaddr = 0x7f1000001000;
    iotlb.perm = VHOST_ACCESS_RW, iotlb.type = VHOST_IOTLB_UPDATE;
    memset(&inflight, 0, sizeof(inflight));
    inflight.mmap_size = 0x4200, inflight.mmap_offset = 0x1000;
    inflight.num_queues = 2, inflight.queue_size = 256;

    PRINT("U64", number);
    PRINT("VringState", state);
    PRINT("VringAddr", addr);
    PRINT("VringFd", vring_fd);
    PRINT("VringFd-nofd", vring_nofd);
    PRINT("MemTable", table);
    PRINT("SingleRegion", single);
    PRINT("Log", log);
    PRINT("Iotlb", iotlb);
    print("Config", &config, 12 + 6);
    PRINT("Rarp", rarp);
    PRINT("VringArea", area);
    PRINT("Inflight", inflight);
    print("Inflight-i386", &inflight, 20);
    PRINT("SharedObject", uuid);
    PRINT("TransferState", transfer);
    PRINT("Mmap", range);
    return 0;
}
