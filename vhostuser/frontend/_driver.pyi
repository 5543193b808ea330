"""Types of the compiled driver; what it does is said in csrc/driver.h."""

from collections.abc import Callable
from typing import Any, Final

CData = Any

class _FFI:
    NULL: Final[CData]
    def new(self, ctype: str, init: object = ...) -> CData: ...
    def cast(self, ctype: str, value: object) -> CData: ...
    def gc(self, cdata: CData, destructor: Callable[[CData], object], size: int = ...) -> CData: ...
    def from_buffer(self, ctype: str, content: object) -> CData: ...
    def buffer(self, cdata: CData, size: int = ...) -> CData: ...
    def sizeof(self, what: object) -> int: ...
    def memmove(self, dest: object, src: object, n: int) -> None: ...

class _Lib:
    VU_HEADERS_HASH: int
    VU_VIRTQUEUE_EVENT_IDX: int
    VU_VIRTQUEUE_INDIRECT: int
    VU_VIRTQUEUE_IN_ORDER: int
    VU_VIRTQUEUE_MRG_RXBUF: int
    VU_VIRTQUEUE_RECEIVE: int
    VU_VIRTQUEUE_PACKED: int
    VU_VIRTQUEUE_MAX_SEGMENTS: int
    VU_LOAD_MAX_QUEUES: int
    VU_DRIVER_BAD_CONFIG: int
    VU_DRIVER_USED_JUMPED: int
    VU_DRIVER_USED_UNKNOWN: int
    VU_DRIVER_USED_LENGTH: int
    VU_DRIVER_MERGE_BROKEN: int
    VU_DRIVER_USED_FLAGS: int
    VU_LOAD_STAMP: int
    VU_LOAD_SLEEP: int
    VU_LOAD_SETTLE: int
    VU_STAMP_SIZE: int
    VU_STAMP_FOREIGN: int
    VU_STAMP_WHOLE: int
    VU_STAMP_CORRUPT: int
    VU_HISTOGRAM_BUCKETS: int
    def vu_virtqueue_pool_size(self, config: CData) -> int: ...
    def vu_virtqueue_new(self, config: CData) -> CData: ...
    def vu_virtqueue_free(self, queue: CData) -> None: ...
    def vu_virtqueue_fill(self, queue: CData) -> int: ...
    def vu_virtqueue_base(self, queue: CData) -> int: ...
    def vu_virtqueue_count(self, queue: CData, counts: CData) -> None: ...
    def vu_load_run(
        self,
        transmit: CData,
        transmit_count: int,
        receive: CData,
        receive_count: int,
        options: CData,
        result: CData,
    ) -> int: ...
    def vu_ping_run(
        self, transmit: CData, receive: CData, options: CData, result: CData, histogram: CData
    ) -> int: ...
    def vu_histogram_bucket(self, value: int) -> int: ...
    def vu_histogram_floor(self, bucket: int) -> int: ...
    def vu_stamp_write(self, bytes: CData, length: int, run: int, sequence: int) -> None: ...
    def vu_stamp_check(self, bytes: CData, length: int, run: int, sequence: CData) -> int: ...
    def vu_driver_fence(self) -> None: ...

ffi: Final[_FFI]
lib: Final[_Lib]
