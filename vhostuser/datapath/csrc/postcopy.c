/* SPDX-License-Identifier: Apache-2.0 */
/* Memory whose pages come late, by userfaultfd. */
#define _GNU_SOURCE
#include "postcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest_memory.h"

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int new_uffd(void)
{
    int flags = O_CLOEXEC | O_NONBLOCK, uffd = (int)syscall(SYS_userfaultfd, flags);
    int device;

    if (uffd >= 0 || errno != EPERM)
        return uffd >= 0 ? uffd : -errno;
    /* Whoever may open the device needs no capability. */
    device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -EPERM;
    uffd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    if (uffd < 0)
        uffd = -errno;
    close(device);
    return uffd;
}

int vu_uffd_open(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int uffd = new_uffd();

    if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
        int error = errno;

        close(uffd);
        return -error;
    }
    return uffd;
}

uint64_t vu_memory_base(const struct vu_memory *memory, uint64_t gpa)
{
    uint32_t hint = 0;
    const struct vu_region *region = vu_region_search(memory, gpa, &hint);

    return region ? (uintptr_t)region->host : 0;
}

static struct uffdio_range range_of(const struct vu_mapping *mapping)
{
    return (struct uffdio_range){.start = (uintptr_t)mapping->map, .len = mapping->map_length};
}

static int register_mapping(const struct vu_mapping *mapping, int uffd)
{
    struct uffdio_register ask = {.range = range_of(mapping), .mode = UFFDIO_REGISTER_MODE_MISSING};

    /* Without access so far, so nothing of it is in our page tables and there is nothing to throw away.  A
       huge page would cover neighbours that have not come.  Refused for files whose pages are huge as they
       are. */
    madvise(mapping->map, mapping->map_length, MADV_NOHUGEPAGE);
    if (ioctl(uffd, UFFDIO_REGISTER, &ask))
        return -errno;
    if (!(ask.ioctls & ((uint64_t)1 << _UFFDIO_COPY)))
        return -ENOSYS;
    return mprotect(mapping->map, mapping->map_length, PROT_READ | PROT_WRITE) ? -errno : 0;
}

int vu_memory_register(const struct vu_memory *memory, int uffd)
{
    int error = 0;

    for (uint32_t i = 0; i < memory->count && !error; i++)
        error = register_mapping(memory->regions[i].mapping, uffd);
    return error;
}

void vu_memory_unregister(const struct vu_memory *memory, int uffd)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        struct uffdio_range range = range_of(memory->regions[i].mapping);

        ioctl(uffd, UFFDIO_UNREGISTER, &range);
        /* The kernel (6.18) wakes who waits before it takes the range out, and a fault that comes in between
           would sleep for ever: on the list it is before the range is out, so this finds it. */
        ioctl(uffd, UFFDIO_WAKE, &range);
    }
}

void vu_memory_cut(const struct vu_memory *memory, int uffd)
{
    int empty = memfd_create("vhostuser-gone", MFD_CLOEXEC);
    /* Without a descriptor left: private zeros, in which no ring makes sense either. */
    int flags = MAP_FIXED | MAP_NORESERVE | (empty >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);

    for (uint32_t i = 0; i < memory->count; i++) {
        const struct vu_mapping *mapping = memory->regions[i].mapping;
        struct uffdio_range range = range_of(mapping);

        if (mmap(mapping->map, mapping->map_length, PROT_READ | PROT_WRITE, flags, empty, 0) == MAP_FAILED)
            ioctl(uffd, UFFDIO_UNREGISTER, &range);
        /* A fault is on the list of those who wait before it lets go of the lock that mmap takes: whoever did
           not see the new mapping is woken here. */
        ioctl(uffd, UFFDIO_WAKE, &range);
    }
    if (empty >= 0)
        close(empty);
}
