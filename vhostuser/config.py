"""What `serve` is told, as typed structs: the same words in TOML, in `--device KEY=VALUE,...` and in Python.

Every value is checked when a struct is made, wherever it came from, so a `ServeConfig` that exists is one
that makes sense. Whether the machine has what it asks for is found out by the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

import msgspec
from msgspec import Meta

from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.options import check_key, check_range, near_match, parse_number, parse_switch, split_pairs
from vhostuser.ports.base import parse_port
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, parse_feature

MAX_PAIRS = 128
MAX_FD = 2**31 - 1
MAX_WORKERS = 1024
MAX_CPUS = 1024


class MacAddress(bytes):
    """Six bytes of a host's own address, written `52:54:00:12:34:56`."""

    PATTERN: ClassVar[str] = "^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$"

    @classmethod
    def parse(cls, text: object) -> Self:
        if not isinstance(text, str) or not re.match(cls.PATTERN, text):
            raise ValueError("a MAC address is six hex numbers, as in 52:54:00:12:34:56")
        address = cls.fromhex(re.sub("[:-]", "", text))
        if address[0] & 1:
            raise ValueError("that is a group's address: the first number has to be even")
        if not any(address):
            raise ValueError("the address of a device is not all zeros")
        return address

    def __str__(self) -> str:
        return self.hex(":")


class FileMode(int):
    """Permission bits in octal, as chmod takes them: `0660`. Text in TOML too, where 660 is not 0660."""

    PATTERN: ClassVar[str] = "^0?[0-7]{3}$"

    @classmethod
    def parse(cls, text: object) -> Self:
        if not isinstance(text, str) or not re.match(cls.PATTERN, text):
            raise ValueError('a mode is three octal digits in quotes, as in "0660"')
        return cls(text, 8)

    def __str__(self) -> str:
        return f"{int(self):04o}"


class CpuList(tuple[int, ...]):
    """CPU numbers as the kernel's own lists have them: `0,2-5`. In TOML as text, too."""

    PATTERN: ClassVar[str] = r"^\d+(-\d+)?(,\d+(-\d+)?)*$"

    @classmethod
    def parse(cls, text: object) -> Self:
        if not isinstance(text, str) or not re.match(cls.PATTERN, text, re.ASCII):
            raise ValueError("a list of CPUs has numbers and ranges with commas between them, as in 0,2-5")
        cpus: list[int] = []
        for word in text.split(","):
            first, _, last = word.partition("-")
            low, high = int(first), int(last or first)
            if not low <= high < MAX_CPUS:
                raise ValueError(f"{word} is no range of CPUs from 0 to {MAX_CPUS - 1}")
            cpus.extend(range(low, high + 1))
        if len(set(cpus)) < len(cpus):
            raise ValueError("a CPU is named twice")
        return cls(cpus)


class _Checked(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A struct that checks every value when it is made. Raises UsageError with the key and the value."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            value = _check_value(field.encode_name, getattr(self, field.name), field.type)
            msgspec.structs.force_setattr(self, field.name, value)


class DeviceConfig(_Checked, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """One device: the socket that its front-end uses, the port that its packets go to, what it offers."""

    name: Annotated[
        str, Meta(pattern=r"^[\w.:@+-]*$", max_length=64, description="what logs call the device")
    ] = ""
    socket_path: Annotated[str, Meta(min_length=1, description="unix socket of the front-end")] | None = None
    fd: (
        Annotated[int, Meta(ge=0, le=MAX_FD, description="inherited socket, listening or connected")] | None
    ) = None
    client: Annotated[bool, Meta(description="connect to the socket, and again when it is lost")] = False
    reconnect_ms: Annotated[int, Meta(ge=1, le=3_600_000, description="time between attempts")] = 1000
    one_off: Annotated[bool, Meta(description="end after the first front-end")] = False
    port: Annotated[
        str, Meta(description="where packets go: tap:NAME, packet:IFNAME, switch:NAME, echo ...")
    ] = ""
    queues: Annotated[int, Meta(ge=1, le=MAX_PAIRS, description="queue pairs of the port")] = 1
    mac: Annotated[MacAddress, Meta(description="the device's address; implies config-space")] | None = None
    mtu: (
        Annotated[int, Meta(ge=68, le=65535, description="MTU that is offered and set on the port")] | None
    ) = None
    disable_feature: Annotated[tuple[str, ...], Meta(description="names of features not to offer")] = ()
    uso: Annotated[bool, Meta(description="offer UDP segmentation (Linux 6.2 or later for a tap)")] = False
    config_space: Annotated[bool, Meta(description="offer the device's config space to the front-end")] = (
        False
    )
    socket_mode: Annotated[FileMode, Meta(description="permissions of the socket that is made")] | None = None
    socket_owner: Annotated[str, Meta(min_length=1, description="its user, name or number")] | None = None
    socket_group: Annotated[str, Meta(min_length=1, description="its group, name or number")] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.socket_path is None) == (self.fd is None):
            raise UsageError("a device has either socket-path=PATH or fd=N for its front-end")
        if not self.name:
            msgspec.structs.force_setattr(self, "name", self._default_name())
        if self.mac is not None:
            msgspec.structs.force_setattr(self, "config_space", True)  # a MAC is read nowhere else
        self.disabled_features()
        self._check_socket()
        self._check_port()

    def disabled_features(self) -> tuple[VirtioFeature, ProtocolFeature]:
        """The bits that `disable_feature` names, by the set that each belongs to."""
        virtio, protocol = VirtioFeature(0), ProtocolFeature(0)
        for name in self.disable_feature:
            feature = parse_feature(name)
            if isinstance(feature, VirtioFeature):
                virtio |= feature
            else:
                protocol |= feature
        return virtio, protocol

    def _default_name(self) -> str:
        if self.socket_path is None:
            return f"fd{self.fd}"
        stem = self.socket_path.rpartition("/")[2].removesuffix(".sock").removesuffix(".socket")
        return re.sub(r"[^\w.:@+-]", "_", stem)[:64] or "device"

    def _check_socket(self) -> None:
        if self.client and self.fd is not None:
            raise UsageError(f"client=on connects to a socket-path, so it does not go with fd={self.fd}")
        if self.client or self.fd is not None:
            for key in ("socket-mode", "socket-owner", "socket-group"):
                if (value := getattr(self, key.replace("-", "_"))) is not None:
                    raise UsageError(
                        f"{key}={value} is for a socket that is made here, not with client= or fd="
                    )

    def _check_port(self) -> None:
        if not self.port:
            raise UsageError(f"port= says where the packets go and is missing, as in port=tap:{self.name}")
        most = parse_port(self.port).caps.queues
        if self.queues > most:
            raise UsageError(f"queues={self.queues} is more than port {self.port} has: {most}")


class ServeConfig(_Checked, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A whole server: its devices and what they share."""

    device: tuple[DeviceConfig, ...] = ()
    workers: Annotated[
        int, Meta(ge=0, le=MAX_WORKERS, description="threads that run the rings; 0, the event loop does")
    ] = 0
    cpus: Annotated[CpuList, Meta(description="CPUs of the worker threads, one each in turn")] | None = None
    poll: Annotated[
        Literal["event", "adaptive", "busy"],
        Meta(description="how a worker waits: asleep, looking for a while first, or looking for ever"),
    ] = "event"
    postcopy: Annotated[bool, Meta(description="offer postcopy migration, not memory slots")] = False
    loop: Annotated[Literal["uvloop", "asyncio"], Meta(description="the event loop")] = "uvloop"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least level logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="a line of text or of JSON for each event")
    ] = "text"
    trace: Annotated[str, Meta(min_length=1, description="file for a line a control message")] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cpus is not None and not self.workers:
            raise UsageError("cpus= is for worker threads: give workers=N with N from 1 on, too")
        if self.postcopy and not self.workers:
            raise UsageError("postcopy=on has threads wait for memory: give workers=N with N from 1 on, too")
        if self.poll != "event" and not self.workers:
            raise UsageError(f"poll={self.poll} is for worker threads: give workers=N with N from 1 on, too")
        if not self.device:
            raise UsageError("there is no device: give one with socket-path= (or fd=) and port=")
        for key in ("name", "socket_path", "fd"):
            seen = set()
            for device in self.device:
                value = getattr(device, key)
                if value is not None and value in seen:
                    raise UsageError(f"two devices have {key.replace('_', '-')}={value}: each needs its own")
                seen.add(value)


def parse_device_option(text: str) -> DeviceConfig:
    """`name=vm1,socket-path=/run/vm1.sock,port=tap:vm1`: `port=` stands last and takes all the rest."""
    what = f"device '{text}'"
    keys = [field.encode_name for field in msgspec.structs.fields(DeviceConfig)]
    head, port, spec = text.partition("port=") if text.startswith("port=") else text.partition(",port=")
    words = [*(split_pairs(what, head, keys) if head else ()), *([("port", spec)] if port else ())]
    try:
        return make_device_of_words(words, what)
    except UsageError as error:
        late = [key for key in keys if f",{key}=" in spec]
        raise (
            UsageError(f"{error}; port= takes the rest, so put {late[0]}= before it") if late else error
        ) from None


def make_device_of_words(words: Iterable[tuple[str, str]], what: str = "") -> DeviceConfig:
    """A device of keys and what was typed for them; a key that holds a list may come again."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(DeviceConfig)}
    values: dict[str, Any] = {}
    for key, word in words:
        with _errors_name(what):
            value = _value_of_word(key, word, types[key])
        if isinstance(value, tuple):
            value = (*values.get(key, ()), *value)
        elif key in values:
            raise UsageError(f"{what}: {key} is given twice")
        values[key] = value
    return make_device(values, what)


def load_toml(path: str) -> dict[str, Any]:
    """The keys of a TOML file, with `device` as DeviceConfigs: a ServeConfig but for what is given elsewhere.

    Raises UsageError for what is wrong in it and EnvironmentLacksError when it cannot be read.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise EnvironmentLacksError(
            f"the configuration file {path} cannot be read ({error.strerror}): check its path and permissions"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for key in values:
        check_key(path, key, (field.encode_name for field in msgspec.structs.fields(ServeConfig)))
    tables = values.get("device", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: a device is a table of its own that begins with [[device]]")
    devices = [make_device(table, f"{path}, device {number}") for number, table in enumerate(tables, 1)]
    return {**values, "device": tuple(devices)}


def make_device(values: Mapping[str, Any], what: str = "") -> DeviceConfig:
    """A device of keys and values; errors begin with `what`, which says where those stand."""
    fields = {field.encode_name: field.name for field in msgspec.structs.fields(DeviceConfig)}
    for key in values:
        check_key(what, key, fields)
    with _errors_name(what):
        return DeviceConfig(**{fields[key]: value for key, value in values.items()})


def make_config(devices: Sequence[DeviceConfig], values: Mapping[str, Any]) -> ServeConfig:
    """A server of its devices and its other keys."""
    others = {key.replace("-", "_"): value for key, value in values.items() if key != "device"}
    return ServeConfig(device=tuple(devices), **others)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors and for charts that make one."""

    def custom(kind: type) -> dict[str, Any]:
        return {"type": "string", "pattern": kind.PATTERN}  # type: ignore[attr-defined]

    return msgspec.json.schema(ServeConfig, schema_hook=custom)


# Values


def _check_value(key: str, value: object, kind: Any) -> Any:
    """`value` as the type of its key has it. Raises UsageError."""
    base, low, high = _look_into(kind)
    if base is int and type(value) is int:
        return check_range(key, value, low, high)
    try:
        return msgspec.convert(value, kind, dec_hook=_convert_custom)
    except msgspec.ValidationError as error:
        if get_origin(base) is Literal:
            choices = get_args(base)
            hint = near_match(str(value), choices) or f": it may be {' or '.join(choices)}"
            raise UsageError(f"{key}={value} is unknown{hint}") from None
        raise UsageError(f"{key}={value}: {_in_words(str(error))}") from None


def _convert_custom(kind: type, value: object) -> object:
    if not issubclass(kind, MacAddress | FileMode | CpuList) or isinstance(value, kind):
        return value
    return kind.parse(value)


def _in_words(message: str) -> str:
    """What msgspec says, in the words of someone who writes TOML."""
    message = message.replace(" | null`", "`")
    for code, word in (("`str`", "text in quotes"), ("`int`", "a number"), ("`bool`", "true or false")):
        message = message.replace(code, word)
    if "matching regex" in message:
        return "a name is made of letters, digits and _ . : @ + -"
    message = message.replace("`array`", "a list").replace("`object`", "a table")
    return message[:1].lower() + message[1:]


def _value_of_word(key: str, word: str, kind: Any) -> Any:
    """What someone typed, as a value that `_check_value` takes."""
    base, low, high = _look_into(kind)
    if base is int:
        return parse_number(key, word, low, high)
    if base is bool:
        return parse_switch(key, word)
    return (word,) if get_origin(base) is tuple else word


@contextmanager
def _errors_name(what: str) -> Iterator[None]:
    """A UsageError that comes out of the block begins with where the values stand."""
    try:
        yield
    except UsageError as error:
        raise (UsageError(f"{what}: {error}") if what else error) from None


def _look_into(kind: Any) -> tuple[Any, int, int]:
    """The type inside `Annotated[type, Meta(ge=low, le=high)] | None`, and its bounds."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    for note in getattr(kind, "__metadata__", ()):
        return kind.__origin__, note.ge or 0, note.le or 0
    return kind, 0, 0
