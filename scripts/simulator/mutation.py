"""Messages that no worker sends: one field of a protobuf message, or some of its bytes, changed at random."""

from __future__ import annotations

import random
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

_NUMBERS: Final = (0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_REALS: Final = (0.0, -0.0, -1.0, 1e-308, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS: Final = ("", "\x00", "../../etc/passwd", "a" * 65_536, "\u202e", "%s%n", "'; DROP TABLE leases; --", "0" * 64)
_REAL_TYPES: Final = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def mutate_field(message: MessageT, rng: random.Random, spare: tuple[str, ...] = ()) -> MessageT:
    """A copy in which one field, perhaps of a message within it, has another value; never one named in `spare`."""
    copy = type(message)()
    copy.CopyFrom(message)
    fields = [field for field in copy.DESCRIPTOR.fields if field.name not in spare]
    field = cast("FieldDescriptor", rng.choice(fields))  # the implementation in C has the same attributes
    if field.is_repeated:
        copy.ClearField(field.name)
    elif field.message_type is not None:
        getattr(copy, field.name).CopyFrom(mutate_field(getattr(copy, field.name), rng))
    else:
        setattr(copy, field.name, _value(field, rng, getattr(copy, field.name)))
    return copy


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """`data` with bits flipped, a piece cut out, doubled or made up, or nothing of it left."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randint(1, 16))
    match rng.randrange(5):
        case 0:
            return data[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start:end]) + data[end:]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:]
        case 3:
            return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[end:]
        case _:
            return rng.randbytes(rng.randint(0, 256))


def _value(field: FieldDescriptor, rng: random.Random, now: object) -> object:
    match field.cpp_type:
        case kind if kind in _REAL_TYPES:
            return rng.choice((*_REALS, rng.gauss(0.0, 1e6)))
        case FieldDescriptor.CPPTYPE_BOOL:
            return not now
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_STRING:
            return rng.choice((*_TEXTS, rng.randbytes(rng.randint(1, 40)).hex()))
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.randint(0, 100)  # an open set: unknown values arrive, too
    if field.type == FieldDescriptor.TYPE_BYTES:
        return mutate_bytes(now if isinstance(now, bytes) else b"", rng)
    bits = 32 if field.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_INT32} else 64
    return rng.choice([*(number for number in _NUMBERS if number < 2**bits), rng.getrandbits(bits)])
