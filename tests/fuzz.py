"""Seeded mutations of files: of the values that JSON holds, and of the bytes of any file."""

import json
from copy import deepcopy

WORDS = (
    *(None, True, False, 0, 1, -1, 0.5, -1.5, 2**31, 2**40, 2**63, -(2**63), 2**70, 10**18, 1e300, float("nan")),
    *(float("inf"), float("-inf"), "", " ", "0", "1", "nan", "null", "é", "\ud800", "\0", "猫" * 50, "x" * 5000),
    *("../../etc/passwd", "/dev/zero", [], {}, [[]], [None], {"": None}, [0] * 300, {"a": {"b": [1]}}),
)
"""Values that a file may hold where another is expected."""
DEPTH = 3000


def mutate_value(content, generator):
    """Plain values with one to three changes, and a text that names them; `content` stays as it is."""
    content, told = deepcopy(content), []
    for _ in range(generator.choice((1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = generator.choice(places)
        kind = generator.choice(
            ("delete", "replace", "replace", "replace", "double", "rename", "nest", "number", "swap")
        )
        if kind == "delete":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif kind == "rename" and isinstance(holder, dict):
            holder[generator.choice(("id", "name", "x", f"{key}s", str(key).upper()))] = holder.pop(key)
        elif kind == "nest":
            holder[key] = generator.choice(({"x": holder[key]}, [holder[key]]))
        elif kind == "number" and isinstance(holder[key], int | float):
            holder[key] = generator.choice((-holder[key], holder[key] * 10**9, holder[key] + 0.5, str(holder[key])))
        elif kind == "swap":
            other, where = generator.choice(places)
            holder[key], other[where] = deepcopy(other[where]), deepcopy(holder[key])
        else:
            kind, holder[key] = "replace", deepcopy(generator.choice(WORDS))
        told.append(f"{kind} {key!r}")
    return content, ", ".join(told)


def _places(value):
    for key, inside in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inside, dict | list):
            yield from _places(inside)


def mutate_json(content, generator):
    """The bytes of a JSON file with a change, and its name: of its values, or of its text."""
    if generator.random() < 0.8:
        values, told = mutate_value(json.loads(content), generator)
        return json.dumps(values).encode(), told
    if generator.random() < 0.2:
        return b"[" * DEPTH + content + b"]" * DEPTH, "deep nesting"
    return mutate_bytes(content, generator)


def mutate_bytes(content, generator):
    """Bytes with a change, and its name."""
    kind = generator.choice(("cut", "flip", "insert", "remove", "repeat", "replace", "empty", "words", "lines"))
    start = generator.randrange(len(content) + 1)
    end = min(start + generator.choice((1, 4, 40)), len(content))
    if kind == "cut":
        return content[:start], f"cut at {start}"
    if kind == "empty":
        return generator.choice((b"", b"\xef\xbb\xbf", b"\n", b"\0" * 100, b"\xff\xfe" + content)), "empty"
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(generator.choice((1, 1, 5, 50))):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        return bytes(changed), "flipped bits"
    if kind == "insert":
        junk = generator.choice(
            (b"\0", b"\xff", b"9" * 400, b"-", b"&x;", b"<a>", b'"', b"[" * 2000, b": *a", "é".encode())
        )
        return content[:start] + junk + content[start:], f"insert {junk[:8]!r} at {start}"
    if kind == "remove":
        return content[:start] + content[end:], f"remove {start} to {end}"
    if kind == "repeat":
        return content[:end] + content[start:end] * 20 + content[end:], f"repeat {start} to {end}"
    if kind == "replace":
        return content[:start] + generator.randbytes(end - start) + content[end:], f"replace {start} to {end}"
    if kind == "words":
        words = content.split(b" ")
        words[generator.randrange(len(words))] = json.dumps(generator.choice(WORDS)).encode()
        return b" ".join(words), "another word"
    lines = content.split(b"\n")
    generator.shuffle(lines)
    return b"\n".join(lines), "shuffled lines"
