"""The default codec: MessagePack that tells types apart.

The packer of `msgpack` in strict mode hands every value that MessagePack would change to a hook. The hook
answers with an extension type, or with a list whose first item is a *mark* (an extension that no user value
can be), so that nothing is packed twice. What the packer does not report (bytearray, memoryview and its own
ExtType and Timestamp) is looked for beforehand, type by type over whole containers.

The first byte of the data says whether there are marks: without them no list needs a second look, and `msgspec`,
which is twice as fast, decodes. (It could not encode: it changes tuples, sets and others without a word.)
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec

from evercache.codecs.registry import TypeRegistry
from evercache.codecs.remedies import refusal
from evercache.codecs.scalars import SCALAR_CODES, SCALAR_DECODERS, encode_scalar
from evercache.codecs.shapes import MISSING, Shape
from evercache.errors import CannotEncode, CorruptEnvelope
from evercache.protocol.canonical import describe, shown

__all__ = ["PLAIN", "SMALL", "STRICT", "StrictCodec", "decode_plain"]

#: The number of this codec in envelopes.
STRICT = 1
#: The first byte of a payload whose values need no marks: `decode_plain` reads what follows.
PLAIN = 0
#: Up to so many bytes a copy costs less than a view.
SMALL = 4096

_BYTEARRAY, _MARK, _OBJECT, _MISSING = 2, 64, 65, 66
_MAX_DEPTH = 100
_PLAIN: frozenset[type] = frozenset({int, str, float, bool, type(None), bytes})
_SILENT: frozenset[type] = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})
_NESTING: frozenset[type] = frozenset({list, dict})
_WALKED = _PLAIN | _NESTING
_FACTORIES: dict[str, Any] = {
    kind.__name__: kind for kind in (int, float, str, bytes, bool, list, dict, set, tuple, frozenset)
} | {"": None}
_FACTORY_NAMES = {factory: name for name, factory in _FACTORIES.items()}


class StrictCodec:
    """MessagePack with exact types; classes only by the registry. Number 1."""

    number = STRICT

    def __repr__(self) -> str:
        return "StrictCodec()"

    def encode(self, value: object, types: TypeRegistry, context: bytes = b"") -> bytes:
        """See `Codec.encode`. Containers nest up to 100 deep; one that contains itself is refused."""
        for unicode_errors in (None, "surrogatepass"):
            encoding = _Encoding(types)
            packer = msgpack.Packer(
                default=encoding.default,
                strict_types=True,
                unicode_errors=unicode_errors,
                buf_size=8192,
            )
            try:
                data: bytes = packer.pack(_guard(value))
            except UnicodeEncodeError:
                continue  # lone surrogates: rare, and the packer is slower when it must let them pass
            except CannotEncode:
                raise
            except (ValueError, OverflowError, RecursionError) as error:
                raise CannotEncode(
                    f"the value is too large, nested too deep, or contains itself ({shown(error, str)}): "
                    "return something smaller"
                ) from error
            except RuntimeError as error:
                raise CannotEncode(f"the value was changed while it was encoded ({shown(error, str)})") from error
            return (b"\x01" if encoding.marked else b"\x00") + data
        raise CannotEncode("the value holds text that has no UTF-8 form")

    def decode(self, data: bytes, types: TypeRegistry, context: bytes = b"") -> object:
        """See `Codec.decode`."""
        try:
            form = data[0]
            rest = memoryview(data)[1:]
            if form == PLAIN:
                try:
                    return decode_plain(rest)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    pass  # damaged, lone surrogates, or a caller too deep for recursion (msgpack's has none)
                return msgpack.unpackb(
                    rest, strict_map_key=False, unicode_errors="surrogatepass", ext_hook=_plain_extension
                )
            if form > 1:
                raise ValueError(f"unknown form {form}")
            decoding = _Decoding(types)
            value = msgpack.unpackb(
                rest,
                strict_map_key=False,
                unicode_errors="surrogatepass",
                ext_hook=decoding.extension,
                list_hook=decoding.list,
            )
            if decoding.open_marks:
                raise ValueError("a mark out of place")
            return value
        except CorruptEnvelope:
            raise
        except Exception as error:  # hostile bytes may raise anything, also from a class's own __hash__
            raise CorruptEnvelope(f"not a value of this codec: {shown(error, str)}") from error


def _guard(value: Any) -> Any:
    """The value, with each bytearray in its lists and dicts wrapped so that the packer asks for it.

    Looks at whole levels of lists and dicts at once, in C, and copies only what holds a bytearray. Tuples,
    sets and objects come by the hook, which guards their items.
    """
    kind = type(value)
    if kind not in _NESTING:
        return _wrap(value) if kind in _SILENT else value
    level = gc.get_referents(value)  # the items; of a dict the keys too, unless all are exact str
    for _ in range(_MAX_DEPTH):
        kinds = set(map(type, level))
        if kinds <= _PLAIN:
            return value
        if not kinds.isdisjoint(_SILENT):
            return _wrapped(value, _MAX_DEPTH)
        if kinds.isdisjoint(_NESTING):
            return value
        if not kinds <= _WALKED:  # other objects would lead to their classes, and from there anywhere
            level = [item for item in level if type(item) in _NESTING]
        if len(level) > 1000:  # a list many times inside itself must not grow without bounds
            level = list(dict(zip(map(id, level), level, strict=True)).values())
        level = gc.get_referents(*level)
    raise _too_deep()


def _too_deep() -> CannotEncode:
    return CannotEncode(
        f"the value is nested deeper than {_MAX_DEPTH} levels, or contains itself: return something flatter"
    )


def _wrapped(value: Any, left: int) -> Any:
    kind = type(value)
    if kind not in _NESTING:
        return _wrap(value) if kind in _SILENT else value
    if not left:
        raise _too_deep()
    if kind is list:
        return [_wrapped(item, left - 1) for item in value]
    return {_wrapped(key, left - 1): _wrapped(item, left - 1) for key, item in value.items()}


class _Bytearray:
    """A bytearray on its way to the hook."""

    __slots__ = ("value",)

    def __init__(self, value: bytearray) -> None:
        self.value = value


def _wrap(value: Any) -> Any:
    if type(value) is bytearray:
        return _Bytearray(value)
    raise CannotEncode(refusal(value))


class _Encoding:
    """The hook of one call of `encode`."""

    __slots__ = ("marked", "types")

    def __init__(self, types: TypeRegistry) -> None:
        self.types = types
        self.marked = False

    def default(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALAR_CODES:
            return msgpack.ExtType(*encode_scalar(value))
        if kind is _Bytearray:
            return msgpack.ExtType(_BYTEARRAY, bytes(value.value))
        if value is MISSING:
            return msgpack.ExtType(_MISSING, b"")
        mark = _CONTAINER_MARKS.get(kind)
        if mark is not None:
            self.marked = True
            return [mark, *_guard(list(value))]
        if kind is OrderedDict or kind is Counter or kind is defaultdict:
            return self._mapping(value, kind)
        if kind is deque:
            self.marked = True
            longest = b"" if value.maxlen is None else str(value.maxlen).encode()
            return [msgpack.ExtType(_MARK, b"q" + longest), *_guard(list(value))]
        shape = self.types.shape_of(kind)
        if shape is None:
            raise CannotEncode(refusal(value))
        self.marked = True
        parts = _guard(shape.take(value))
        return [msgpack.ExtType(_OBJECT, shape.mark), *parts]

    def _mapping(self, value: Any, kind: type) -> Any:
        if getattr(value, "__dict__", None):
            raise CannotEncode(f"{describe(value)} has attributes of its own: return a plain dict")
        self.marked = True
        letter = b"o" if kind is OrderedDict else b"c"
        if kind is defaultdict:
            factory = value.default_factory
            name = _FACTORY_NAMES.get(factory) if factory is None or isinstance(factory, type) else None
            if name is None:
                raise CannotEncode(
                    "a defaultdict with a factory of its own cannot be rebuilt, so it is not cached: return a dict"
                )
            letter = b"d" + name.encode()
        return [msgpack.ExtType(_MARK, letter), _guard(dict(value.items()))]


_CONTAINER_MARKS: dict[type, msgpack.ExtType] = {
    tuple: msgpack.ExtType(_MARK, b"t"),
    set: msgpack.ExtType(_MARK, b"s"),
    frozenset: msgpack.ExtType(_MARK, b"f"),
}


class _Mark:
    """The first item of a list that is to become something else."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], object]) -> None:
        self.build = build


def _one_dict(parts: list[Any]) -> dict[Any, Any]:
    (part,) = parts
    if type(part) is not dict:
        raise ValueError("a mapping without its items")
    return part


def _counter(parts: list[Any]) -> object:
    made: Counter[Any] = Counter()
    dict.update(made, _one_dict(parts))
    return made


_BUILDERS: dict[bytes, Callable[[list[Any]], object]] = {
    b"t": tuple,
    b"s": set,
    b"f": frozenset,
    b"o": lambda parts: OrderedDict(_one_dict(parts)),
    b"c": _counter,
}
_MARKS = {letter: _Mark(build) for letter, build in _BUILDERS.items()}


def _plain_extension(code: int, data: bytes) -> object:
    """The hook where there are no marks."""
    return bytearray(data) if code == _BYTEARRAY else SCALAR_DECODERS[code](data)


#: The value of a payload of the form `PLAIN`, without its first byte. Raises whatever msgspec raises for what is
#: damaged, and for some rare values that `StrictCodec.decode` can read.
decode_plain: Callable[[bytes | memoryview], object] = msgspec.msgpack.Decoder(
    ext_hook=lambda code, data: _plain_extension(code, bytes(data))
).decode


class _Decoding:
    """The hooks of one call of `decode`."""

    __slots__ = ("open_marks", "types")

    def __init__(self, types: TypeRegistry) -> None:
        self.types = types
        self.open_marks = 0

    def extension(self, code: int, data: bytes) -> object:
        if code == _MARK:
            self.open_marks += 1
            return _MARKS.get(data) or _parametric_mark(data)
        if code == _OBJECT:
            shape = self.types.shape_named(data)
            if shape is None:
                raise CorruptEnvelope(
                    f"an object of the class {data[4:].decode(errors='replace')!r}, which is not allowed "
                    "here or has other fields now"
                )
            self.open_marks += 1
            return _Mark(_object_builder(self, shape))
        if code == _MISSING:
            self.open_marks += 1
            return MISSING
        if code == _BYTEARRAY:
            return bytearray(data)
        return SCALAR_DECODERS[code](data)

    def list(self, items: list[Any]) -> object:
        if not items or type(items[0]) is not _Mark:
            return items
        self.open_marks -= 1
        return items[0].build(items[1:])


def _parametric_mark(data: bytes) -> _Mark:
    """The mark of a deque with its `maxlen`, or of a defaultdict with its factory."""
    if data[:1] == b"q":
        longest = int(data[1:]) if data[1:] else None
        return _Mark(lambda parts: deque(parts, longest))
    if data[:1] != b"d":
        raise ValueError(f"unknown mark {data!r}")
    factory = _FACTORIES[data[1:].decode()]
    return _Mark(lambda parts: defaultdict(factory, _one_dict(parts)))


def _object_builder(decoding: _Decoding, shape: Shape) -> Callable[[list[Any]], object]:
    def build(parts: list[Any]) -> object:
        decoding.open_marks -= sum(part is MISSING for part in parts)
        return shape.build(parts)

    return build
