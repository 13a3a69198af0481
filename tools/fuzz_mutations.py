"""Mutations of files: of bytes, of JSON values, and of the headers of safetensors files."""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

Bytes = bytes
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 7, 65535, 1 << 20, 1 << 31, 1 << 40, 1 << 63, 1 << 80, 0.5, -0.0, 1e30),
    *(1e308, float("nan"), float("inf"), "", "x", "0", "1/0", "-1/3", "../..", "\ud800", "\0", "nan", [], {}),
    *([[]], [0, 0], [1, 2, 3, 4, 5, 6], {"": None}, "9" * 5000, "日本語"),
)
DEPTH = 20_000  # of nested lists, more than a recursive parser takes


def mutate_bytes(content: Bytes, other: Bytes, draw: random.Random) -> Bytes:
    """One to four random changes; `other` is a file of the same kind, from which parts come."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        content = draw.choice(BYTE_MUTATIONS)(bytearray(content or b"\0"), other or b"\0", draw)
    return content


def _place(content: bytearray, draw: random.Random) -> int:
    """A random position, half of them near the begin or the end, where headers and indexes are."""
    position = draw.randrange(len(content))
    if draw.random() < 0.5:
        position = draw.randrange(min(len(content), 256))
        position = position if draw.random() < 0.7 else len(content) - 1 - position
    return position


def _flip(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    for _ in range(draw.choice((1, 3, 20))):
        content[_place(content, draw)] ^= 1 << draw.randrange(8)
    return bytes(content)


def _number(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    """A number that often is a limit, in place of another."""
    width = draw.choice((1, 2, 4, 8))
    value = draw.choice(INTERESTING) & ((1 << 8 * width) - 1)
    start = _place(content, draw)
    content[start : start + width] = value.to_bytes(width, draw.choice(("little", "big")))
    return bytes(content)


def _truncate(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    return bytes(content[: draw.randrange(len(content))])


def _noise(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    start, length = _place(content, draw), draw.choice((4, 64, 1024))
    content[start : start + length] = draw.randbytes(len(content[start : start + length]))
    return bytes(content)


def _delete(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    start, length = _place(content, draw), draw.choice((1, 16, 188, 1024))
    return bytes(content[:start] + content[start + length :])


def _repeat(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    start, length = _place(content, draw), draw.choice((1, 16, 188, 1024))
    return bytes(
        content[:start] + content[start : start + length] * draw.choice((2, 3, 50)) + content[start:]
    )


def _splice(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    return bytes(content[: _place(content, draw)]) + other[draw.randrange(len(other)) :]


def _zero(content: bytearray, other: Bytes, draw: random.Random) -> Bytes:
    start, length = _place(content, draw), draw.choice((8, 256, 4096))
    content[start : start + length] = bytes(len(content[start : start + length]))
    return bytes(content)


ByteMutation = Callable[[bytearray, Bytes, random.Random], Bytes]
BYTE_MUTATIONS: tuple[ByteMutation, ...] = (
    *(_flip, _flip, _number, _number, _number, _truncate, _noise, _delete, _repeat, _splice, _zero),
)


def mutate_json(content: Bytes, draw: random.Random) -> Bytes:
    """A JSON text with one to three values changed, removed, added or exchanged."""
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 3))):
        value = _mutate_value(value, draw)
    text = json.dumps(value)
    if draw.random() < 0.02:
        return text.replace("1", "[" * DEPTH + "]" * DEPTH, 1).encode()
    return text.encode("utf-8", "surrogatepass")


def _mutate_value(value: Any, draw: random.Random) -> Any:
    value = deepcopy(value)
    places = list(_places(value))
    if not places or draw.random() < 0.01:
        return draw.choice(ODD)
    holder, key = draw.choice(places)
    match draw.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(("", "extra", "__class__", "config"))] = draw.choice(ODD)
        case 2:
            another, name = draw.choice(places)
            try:
                holder[key] = deepcopy(another[name])
            except (KeyError, IndexError):  # it was just removed
                holder[key] = None
        case 3 if isinstance(holder[key], int | float):
            holder[key] = draw.choice((-holder[key], holder[key] + 1, holder[key] * 1000, holder[key] / 3))
        case 4 if isinstance(holder[key], list):
            holder[key] = holder[key] * draw.choice((2, 1000))
        case _:
            holder[key] = draw.choice(ODD)
    return value


def _places(value: Any) -> "list[tuple[Any, Any]]":
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found += [(value, key), *_places(inner)]
    return found


def mutate_safetensors(content: Bytes, draw: random.Random) -> Bytes:
    """A safetensors file with another header, whose length is right, and JSON texts in its metadata too."""
    length = int.from_bytes(content[:8], "little")
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    texts = [name for name, text in header.get("__metadata__", {}).items() if text.startswith("{")]
    if texts and draw.random() < 0.6:
        name = draw.choice(texts)
        changed = mutate_json(header["__metadata__"][name].encode(), draw)
        header["__metadata__"][name] = changed.decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = mutate_json(json.dumps(header).encode(), draw)
    return len(text).to_bytes(8, "little") + text + values


def mutate_file(path: Path, other: Path, draw: random.Random) -> None:
    """Change the file `path` in place; `other` is one of the same kind."""
    content = path.read_bytes()
    is_structured = path.suffix in (".json", ".safetensors") and draw.random() < 0.75
    if is_structured and path.suffix == ".json":
        content = mutate_json(content, draw)
    elif is_structured:
        content = mutate_safetensors(content, draw)
    else:
        content = mutate_bytes(content, other.read_bytes(), draw)
    path.write_bytes(content)
