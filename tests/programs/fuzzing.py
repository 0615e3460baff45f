"""Mutations of a program, looked at in this process: `python -m tests.programs.fuzzing program.zip FIRST STOP`.

Prints a line a mutation: its number, how it was made, and `refused`, `accepted`, or the name of an exception that should
not have been. A number without a verdict is where the process died.
"""

import random
import sys
import warnings
from pathlib import Path

from core.errors import InvalidProgram
from tests.programs import forging

KINDS = ("bytes of the file", "bytes of a function", "bytes of a module", "a cut", "the manifest", "an exchange")


def mutated(program, number):
    """The kind of a mutation, and the program that it leads to; the same for the same number always."""
    draw = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    entries = forging.entries_of(program)
    functions = sorted(name for name in entries if name.startswith("functions/"))
    name = draw.choice(functions)
    match kind:
        case "bytes of the file":
            return kind, scrambled(program, draw)
        case "bytes of a function":
            return kind, forging.zipped(entries | {name: scrambled(entries[name], draw)})
        case "bytes of a module":
            content = entries[name]
            start = content.index(b"ML\xefR")
            end = len(content) - len(content) // 8
            return kind, forging.zipped(
                entries | {name: content[:start] + scrambled(content[start:end], draw) + content[end:]}
            )
        case "a cut":
            at = draw.randrange(len(entries[name]))
            cut = (
                entries[name][:at] if draw.random() < 0.5 else entries[name][:at] + bytes(len(entries[name]) - at)
            )
            return kind, forging.zipped(entries | {name: cut})
        case "the manifest":
            return kind, forging.zipped(entries | {"manifest.json": reworded(entries["manifest.json"], draw)})
        case _:
            other = draw.choice(functions)
            return kind, forging.zipped(entries | {name: entries[other], other: entries[name]})


def scrambled(content, draw):
    """A few bytes changed, moved, repeated or dropped."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(len(changed))
        match draw.randrange(5):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
            case 2:
                changed[at : at + 4] = draw.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
            case 3:
                length = draw.randrange(1, 64)
                changed[at : at + length] = changed[draw.randrange(len(changed)) :][:length]
            case _:
                del changed[at : at + draw.choice((1, 4, 64))]
    return bytes(changed)


def reworded(content, draw):
    """JSON whose numbers, words or structure have changed."""
    words = [
        b"0",
        b"-1",
        b"1e400",
        b"[]",
        b"{}",
        b"null",
        b'""',
        b"99999999999999999999",
        b"true",
        b"\xff",
        b'"cpu"',
    ]
    changed = content
    for _ in range(draw.choice((1, 2, 3))):
        at = draw.randrange(len(changed))
        changed = changed[:at] + draw.choice(words) + changed[at + draw.choice((0, 1, 2, 8)) :]
    return changed


def verdict(content):
    from core.programs import archive
    from core.programs.looking import looked_at

    try:
        looked_at(archive.read(content))
    except InvalidProgram:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
    return "accepted"


def main():
    program, first, stop = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    for number in range(first, stop):
        kind, content = mutated(program, number)
        print(number, kind, sep="\t", end="\t", flush=True)
        print(verdict(content), flush=True)


if __name__ == "__main__":
    main()
