"""Damage to files: of their bytes, of their words, and of the values of those that are JSON or a table."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

Structure = Literal["bytes", "text", "json", "lines", "yaml", "csv", "gzip", "png", "safetensors"]

_TOKENS = [
    *(
        b"",
        b"\0",
        b"nan",
        b"-inf",
        b"1e999",
        b"-1",
        b"0",
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"4294967295",
        b"2147483648",
    ),
    *(b"99999999999999999999", b"1e-320", b"true", b"null", b"~", b"=", b"+", b"%", b",", b";", b"\t", b"\r", b"\n"),
    *(b'"', b"'", b"\\", b"#", b"..", b"../../etc/passwd", b"/", b"%s%n", b"{}", b"{0}", b"[" * 2000, b'{"a":' * 2000),
    *(b"- " * 400, b"&a [*a]", b"*a", b"<<: *a", b"!!int x", b"!!python/object:os.system", b"!!timestamp x", b"!!set"),
    *(b"2001-99-99", b"1:" * 3000 + b"1", b"match:", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"\\ud800"'),
    *("\N{ARABIC-INDIC DIGIT THREE}".encode(), "\N{SUPERSCRIPT TWO}".encode(), "\N{RIGHT-TO-LEFT OVERRIDE}".encode()),
    *("\N{MINUS SIGN}5".encode(), "\N{FULLWIDTH DIGIT SEVEN}".encode(), b"A" * 200_000),
    *(byte * 200_000 for byte in (b" ", b"\t", b"\n", b"-", b"5")),  # searched carelessly they take the square of that
]
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 255, 65536, 2**31, 2**63, 2**64, 10**18, 10**400, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        " ",
        "nan",
        "0",
        "-1",
        "\0",
        "../..",
        "/etc/passwd",
        "\ud800",
        "\u0663",
        "x" * 100_000,
    ),
    *([], {}, [[]], [0] * 1000, {"": None}, {"name": 1}, "1b1d2,1b1", "9999999b9999999", "256b999999999"),
]


def mutate(content: bytes, others: Sequence[bytes], structure: Structure, chance: random.Random) -> bytes:
    """A damaged copy of ``content``; ``others`` are files of the same kind, pieces of which may be put in."""
    if structure == "gzip" and chance.random() < 0.7:  # inside, where a checksum does not tell at once
        inside = [gzip.decompress(one) for one in (content, *others)]
        return gzip.compress(mutate(inside[0], inside, "bytes", chance), 1, mtime=0)
    if structure == "png" and chance.random() < 0.7:
        return _with_checksums(mutate(content, others, "bytes", chance))
    parse = _STRUCTURES.get(structure)
    if parse is not None and chance.random() < 0.6:
        changed = parse(content, chance)
        if changed is not None and chance.random() < 0.8:
            return changed
        content = changed or content
    kinds = [_flip, _set, _integer, _delete, _repeat, _truncate, _insert]
    kinds += [_token, _token, _word, _word] if structure != "bytes" else [_token]
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if chance.random() < 0.05:
            _splice(damaged, chance.choice(others), chance)
        else:
            chance.choice(kinds)(damaged, chance)
    return bytes(damaged)


def _with_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks, as far as there are any, have the checksums that they should have."""
    data, at = bytearray(content), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, and often in the header."""
    return chance.randrange(min(len(data), 512) + 1 if chance.random() < 0.5 else len(data) + 1)


def _length(chance: random.Random) -> int:
    return chance.choice((1, 1, 2, 4, 8, 16, 64, 256, 4096))


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[min(_place(data, chance), len(data) - 1)] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random) -> None:
    if data:
        data[min(_place(data, chance), len(data) - 1)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _integer(data: bytearray, chance: random.Random) -> None:
    size = chance.choice((2, 4, 8))
    number = chance.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 65535, 30000))
    place = _place(data, chance)
    order: Literal["little", "big"] = "little" if chance.random() < 0.5 else "big"
    data[place : place + size] = number.to_bytes(size, order)


def _delete(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    del data[place : place + _length(chance)]


def _repeat(data: bytearray, chance: random.Random) -> None:
    place, length = _place(data, chance), _length(chance)
    data[place:place] = data[place : place + length] * chance.choice((1, 1, 2, 10, 100))


def _truncate(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _insert(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    data[place:place] = chance.randbytes(_length(chance))


def _token(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    data[place : place + chance.choice((0, 0, 1, 4))] = chance.choice(_TOKENS)


def _word(data: bytearray, chance: random.Random) -> None:
    """Exchange one of the words or numbers of a text."""
    place = _place(data, chance)
    start = next((i for i in range(place, len(data)) if data[i : i + 1].isalnum()), len(data))
    end = next((i for i in range(start, len(data)) if not (data[i : i + 1].isalnum() or data[i] in b".-_")), len(data))
    data[start:end] = chance.choice(_TOKENS)


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


def _json(content: bytes, chance: random.Random) -> bytes | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return _changed_tree(value, chance)


def _lines(content: bytes, chance: random.Random) -> bytes | None:
    """Of a text that has JSON in every line."""
    lines = content.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    changed = _json(lines[number], chance)
    return None if changed is None else b"".join([*lines[:number], changed + b"\n", *lines[number + 1 :]])


def _safetensors(content: bytes, chance: random.Random) -> bytes | None:
    """The header, or what segcft says in it, often without the checksum that would tell."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = header["__metadata__"]
    if chance.random() < 0.8:
        if chance.random() < 0.8:
            said.pop("sha256", None)
        said["segcft"] = _changed_tree(json.loads(said["segcft"]), chance).decode()
        changed = json.dumps(header).encode()
    else:
        changed = _changed_tree(header, chance)
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]


def _yaml(content: bytes, chance: random.Random) -> bytes | None:
    import yaml

    value = _TREES.get(content)
    if value is None:
        try:
            value = _TREES[content] = yaml.safe_load(content)
        except yaml.YAMLError:
            return None
    return _changed_tree(copy.deepcopy(value), chance)


_TREES: dict[bytes, Any] = {}


def _changed_tree(value: Any, chance: random.Random) -> bytes:
    """JSON, which is YAML too, of a tree with some of its values exchanged."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        places = [*_places(value)]
        if not places:
            break
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1:
                other, elsewhere = chance.choice(places)
                holder[key] = copy.deepcopy(other[elsewhere])
            case 2 if isinstance(holder, dict):
                holder[str(chance.choice(_VALUES))] = holder.pop(key)
            case 3:
                holder[key] = [holder[key]] * (chance.choice((1, 2, 500)) if len(places) < 500 else 1)
            case _:
                holder[key] = copy.deepcopy(chance.choice(_VALUES))  # which is changed in turn
    text = json.dumps(value)
    if chance.random() < 0.03:
        deep = chance.choice((50, 500, 5000, 50_000))
        text = "[" * deep + text + "]" * deep
    return text.encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every holder (mapping or list) and key of a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else []
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return found


def _csv(content: bytes, chance: random.Random) -> bytes | None:
    text = content.decode("utf-8", errors="replace")
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error:
        return None
    if not rows or not rows[0]:
        return None
    for _ in range(chance.choice((1, 1, 2, 5))):
        row = chance.choice(rows)
        if not row:
            continue
        column = chance.randrange(len(row))
        match chance.randrange(5):
            case 0:
                del row[column]
            case 1:
                rows.insert(chance.randrange(len(rows)), list(row))
            case 2:
                other = chance.choice(rows) or [""]
                row[column] = chance.choice(other)
            case 3:
                row.insert(column, str(chance.choice(_VALUES)))
            case _:
                row[column] = chance.choice(
                    (str(chance.choice(_VALUES)), chance.choice(_TOKENS).decode(errors="replace"))
                )
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode("utf-8", errors="surrogatepass")


_STRUCTURES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "json": _json,
    "lines": _lines,
    "yaml": _yaml,
    "csv": _csv,
    "safetensors": _safetensors,
}
