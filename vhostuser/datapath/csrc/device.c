/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: features, memory, faults. */
#include <stdlib.h>

#include "marking.h"
#include "state.h"
#include "tracking.h"

struct vu_device *vu_device_new(uint32_t id)
{
    struct vu_device *device = calloc(1, sizeof(*device));

    if (device) {
        device->id = id;
        vu_device_set_features(device, 0);
    }
    return device;
}

void vu_device_free(struct vu_device *device)
{
    vu_memory_put(device->memory);
    vu_iotlb_free(device);
    free(device);
}

static void choose_instance(struct vu_device *device)
{
    device->general = (device->features & (VU_F_LOG_ALL | VU_F_ACCESS_PLATFORM)) || device->inflight;
}

static bool is_stopped(const struct vu_device *device)
{
    for (const struct vu_pair *pair = device->pairs; pair; pair = pair->next) {
        if (pair->vring[VU_RX].state != VU_VRING_STOPPED || pair->vring[VU_TX].state != VU_VRING_STOPPED)
            return false;
    }
    return true;
}

void vu_device_set_features(struct vu_device *device, uint64_t features)
{
    bool iommu_changes = (device->features ^ features) & VU_F_ACCESS_PLATFORM;

    device->features = features;
    device->mergeable = features & VU_F_MRG_RXBUF;
    choose_instance(device);
    /* The one place that knows the size (virtio 1.2, 5.1.6.1): 12 bytes with num_buffers, which legacy
       guests have only with merging. */
    device->header_size =
        (features & (VU_F_VERSION_1 | VU_F_MRG_RXBUF)) ? VU_NET_HDR_SIZE : VU_NET_HDR_LEGACY_SIZE;
    /* Each start of a device begins with this.  While it was stopped QEMU did not listen to its IOMMU and
       said nothing of what went; with memory slots no table follows that would tell.  Later pairs say it
       while the first run: forgetting then would ask for every page once more with each of them. */
    if (iommu_changes || is_stopped(device))
        vu_iotlb_flush(device);
}

struct vu_memory *vu_device_set_memory(struct vu_device *device, struct vu_memory *memory)
{
    struct vu_memory *old = device->memory;

    device->memory = memory;
    /* What the translations point to goes. */
    vu_iotlb_flush(device);
    for (struct vu_pair *pair = device->pairs; pair; pair = pair->next) {
        for (int ring = 0; ring < 2; ring++) {
            struct vu_vring *vring = &pair->vring[ring];
            int error;

            vring->region_hint = 0;
            if (vring->iommu || (vring->state != VU_VRING_STARTING && vring->state != VU_VRING_RUNNING))
                continue;
            error = vu_vring_translate(vring);
            if (error)
                vu_vring_break(vring, error);
        }
    }
    return old;
}

struct vu_log *vu_device_set_log(struct vu_device *device, struct vu_log *log)
{
    struct vu_log *old = device->log;

    device->log = log;
    return old;
}

struct vu_inflight *vu_device_set_inflight(struct vu_device *device, struct vu_inflight *inflight)
{
    struct vu_inflight *old = device->inflight;

    device->inflight = inflight;
    choose_instance(device);
    return old;
}

int vu_device_faulted(const struct vu_device *device)
{
    return vu_device_is_faulted(device);
}

void vu_device_clear_fault(struct vu_device *device)
{
    __atomic_store_n(&device->faulted, false, __ATOMIC_RELAXED);
}

/* Whose pages have gone. */
static int fault_at(const struct vu_device *device, const void *host)
{
    if (vu_log_owns(device->log, host))
        return VU_ERR_LOG_FAULT;
    return vu_inflight_owns(device->inflight, host) ? VU_ERR_INFLIGHT_FAULT : VU_ERR_MEMORY_FAULT;
}

void vu_device_fault(const struct vu_pair *pair, int error, uintptr_t where)
{
    struct vu_device *device = pair->device;
    struct vu_event event = {.kind = VU_EVENT_DEVICE_FAULTED, .device = device->id, .error = error};
    const struct vu_region *region = NULL;

    /* Reported once, though all its workers may find it at the same time. */
    if (__atomic_exchange_n(&device->faulted, true, __ATOMIC_RELAXED))
        return;
    event.value[0] = where;
    if (error == VU_ERR_MEMORY_FAULT)
        region =
            where ? vu_memory_owner(device->memory, (const void *)where) : vu_memory_shrunk(device->memory);
    if (region) {
        event.value[1] = region->gpa;
        event.value[2] = region->size;
    }
    vu_event_put(pair, &event);
}

void vu_device_unwound(const struct vu_guard *guard)
{
    const struct vu_pair *pair = guard->culprit;

    vu_device_fault(pair, fault_at(pair->device, (const void *)guard->address), guard->address);
}
