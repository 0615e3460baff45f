"""Data sets as users send them: sound ones, and ones that no honest program writes."""

import gzip
import io
import struct
import zlib
from functools import cache

import numpy as np

STORED, DEFLATED = 0, 8
IDX_CODES = {"u1": 8, "i1": 9, "i2": 0xB, "i4": 0xC, "f4": 0xD, "f8": 0xE}


def arrays(rng, count=30, shape=(4, 4), classes=3):
    return {
        "images": rng.integers(0, 256, (count, *shape)).astype(np.uint8),
        "labels": np.arange(count) % classes,
    }


def npz(compressed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_with_header(text, data=b"", version=(1, 0), length=None):
    """A .npy file with this header, whatever it says."""
    header = text if isinstance(text, bytes) else text.encode("latin-1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + header + data


def described(descr="<f8", fortran_order=False, shape=(3, 4)):
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n"


class Entry:
    """Of a zip file; any field may be a lie."""

    def __init__(self, name, data=b"", **lies):
        self.name = name if isinstance(name, bytes) else name.encode()
        self.method = lies.get("method", STORED)
        self.packed = lies.get("packed", _deflate(data) if self.method == DEFLATED else data)
        self.size = lies.get("size", len(data))
        self.packed_size = lies.get("packed_size", len(self.packed))
        self.crc = lies.get("crc", zlib.crc32(data))
        self.flags, self.attributes = lies.get("flags", 0), lies.get("attributes", 0)
        self.extra = lies.get("extra", b"")
        self.offset = lies.get("offset")

    def _common(self):
        fields = (20, self.flags, self.method, 0, 33, self.crc, self.packed_size, self.size)
        return struct.pack("<HHHHHIIIHH", *fields, len(self.name), len(self.extra))

    def local(self):
        return b"PK\3\4" + self._common() + self.name + self.extra + self.packed

    def central(self, offset):
        where = offset if self.offset is None else self.offset
        rest = struct.pack("<HHHII", 0, 0, 0, self.attributes, where)
        return b"PK\1\2" + struct.pack("<H", 0x031E) + self._common() + rest + self.name + self.extra


def zipped(*entries, count=None, directory_bytes=None, before_end=b"", comment=b""):
    body, directory = b"", b""
    for entry in entries:
        directory += entry.central(len(body))
        body += entry.local()
    count = len(entries) if count is None else count
    size = len(directory) if directory_bytes is None else directory_bytes
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, len(body), len(comment))
    return body + directory + before_end + end + comment


def pair(images=None, labels=None, **options):
    """An archive of two entries, one of which may be anything."""
    rng = np.random.default_rng(0)
    sound = {name: Entry(f"{name}.npy", npy(array)) for name, array in arrays(rng).items()}
    return zipped(images or sound["images"], labels or sound["labels"], **options)


def idx(array, code=None, axes=None, shape=None):
    array = np.asarray(array)
    shape = array.shape if shape is None else shape
    code = IDX_CODES.get(array.dtype.str[1:], 8) if code is None else code
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape) if axes is None else axes, *shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@cache
def bomb(size):
    """`size` zeros, deflated a thousandfold, and their CRC; made without compressing them all."""
    block = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    crc = 0
    for _ in range(size >> 20):
        crc = zlib.crc32(block, crc)
    return packed * (size >> 20) + end, crc


def bomb_entry(name, size, declared=None):
    """A .npy entry of `size` zeros, in a header that declares `declared`."""
    count = size if declared is None else declared
    head = npy_with_header(described("|u1", shape=(count // 1024, 1024)))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed_head = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packed, crc = bomb(size)
    whole = zlib.crc32(bytes(0), zlib.crc32(head))
    return Entry(
        name,
        method=DEFLATED,
        packed=packed_head + packed,
        size=len(head) + count,
        crc=whole if declared is not None else _crc_of(head, size) if size < 1 << 27 else crc,
    )


def _crc_of(head, size):
    crc = zlib.crc32(head)
    for _ in range(size >> 20):
        crc = zlib.crc32(bytes(1 << 20), crc)
    return crc


def _deflate(data):
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


# Files that are wrong, by what is wrong with them: each what the parts of the request hold.

NAN = np.full((3, 4), np.nan)
LABELS = np.array([0, 1, 2])


def values(images, labels=LABELS):
    return {"file": npz(images=images, labels=labels)}


def one_bad(place, bad, dtype=np.float32):
    array = np.ones((4000, 100), dtype)
    array[place] = bad
    return values(array, np.arange(4000) % 2)


_OK = Entry("labels.npy", npy(np.arange(30) % 3))
_SYMLINK, _FOLDER = 0o120777 << 16, 0o040755 << 16
_ZIP64 = struct.pack("<HHQQ", 1, 16, 2**63, 2**63)

WRONG_VALUES = {
    "NaN": lambda: values(NAN),
    "one NaN far in": lambda: one_bad((3999, 99), np.nan),
    "infinity": lambda: one_bad((7, 7), -np.inf),
    "half infinity": lambda: one_bad((7, 7), np.inf, np.float16),
    "beyond float32": lambda: one_bad((7, 7), 1e39, np.float64),
    "signalling NaN": lambda: values(np.full((3, 4), 0x7F800001, np.uint32).view(np.float32)),
    "negative label": lambda: values(np.ones((3, 4)), np.array([0, 1, -1])),
    "huge label": lambda: values(np.ones((3, 4)), np.array([0, 1, 2**62])),
    "label 1000": lambda: values(np.ones((3, 4)), np.array([0, 1, 1000])),
    "unsigned huge label": lambda: values(np.ones((3, 4)), np.array([0, 1, 2**64 - 1], np.uint64)),
    "float labels": lambda: values(np.ones((3, 4)), np.array([0.0, 1.0, 2.0])),
    "fractional labels": lambda: values(np.ones((3, 4)), np.array([0.0, 1.5, 2.0])),
    "text labels": lambda: values(np.ones((3, 4)), np.array(["a", "b", "c"])),
    "one class": lambda: values(np.ones((3, 4)), np.zeros(3, int)),
    "fewer labels": lambda: values(np.ones((4, 4))),
    "more labels": lambda: values(np.ones((2, 4))),
    "no rows": lambda: values(np.ones((0, 4)), np.zeros(0, int)),
    "no features": lambda: values(np.ones((3, 0))),
    "no axis": lambda: values(np.float64(1)),
    "one axis": lambda: values(np.ones(3)),
    "four axes": lambda: values(np.ones((3, 2, 2, 3))),
    "labels in a column": lambda: values(np.ones((3, 4)), LABELS[:, None]),
    "objects": lambda: values(np.array([[1, 2], [3, "x"], [5, None]], object)),
    "complex": lambda: values(np.ones((3, 4), complex)),
    "long double": lambda: values(np.ones((3, 4), np.longdouble)),
    "text": lambda: values(np.array([["a"], ["b"], ["c"]])),
    "bytes": lambda: values(np.array([[b"a"], [b"b"], [b"c"]])),
    "dates": lambda: values(np.zeros((3, 4), "M8[s]")),
    "records": lambda: values(np.zeros((3, 4), [("a", "f8"), ("b", "i4")])),
    "subarrays": lambda: values(np.zeros(3, [("a", "f8", (4,))])),
    "no labels": lambda: {"file": npz(images=np.ones((3, 4)))},
    "no images": lambda: {"file": npz(labels=LABELS)},
    "images and inputs": lambda: {"file": npz(images=np.ones((3, 4)), inputs=np.ones((3, 4)), labels=LABELS)},
    "nothing in it": lambda: {"file": npz()},
    "too many features": lambda: values(np.zeros((2, (1 << 20) + 1), np.uint8), np.array([0, 1])),
}

WRONG_HEADERS = {
    "4 TiB": described(shape=(2**29, 1024)),
    "2**70 bytes": described(shape=(2**35, 2**35)),
    "more than there is": described(shape=(4, 4)),
    "less than there is": described(shape=(2, 4)),
    "other type": described("<f4"),
    "negative": described(shape=(-3, -4)),
    "truth values": described(shape=(True, 12)),
    "floats": described(shape=(3.0, 4)),
    "no tuple": described(shape=[3, 4]),
    "a long integer": "{'descr': '<f8', 'fortran_order': False, 'shape': (3L, 4L), }\n",
    "object type": described("|O"),
    "void": described("|V8"),
    "no type": described("<q9"),
    "number for a type": described(8),
    "nested type": described([("a", [("b", "<f8", (10**6,))])]),
    "comma type": described("f8,f8"),
    "empty": "",
    "not a dict": "[1, 2]\n",
    "missing": "{'descr': '<f8', 'shape': (3, 4)}\n",
    "another": "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), 'x': 1}\n",
    "fortran 2": "{'descr': '<f8', 'fortran_order': 2, 'shape': (3, 4)}\n",
    "a call": "__import__('os').system('true')\n",
    "comprehension": "{'descr': [0 for _ in '9' * 10**9], 'fortran_order': False, 'shape': (3, 4)}\n",
    "deep parentheses": "(" * 4000 + "\n",
    "deep lists": "[" * 2000 + "]" * 2000 + "\n",
    "deep signs": "-" * 4000 + "1\n",
    "deep type": "{'descr': " + "[" * 90 + "]" * 90 + ", 'fortran_order': False, 'shape': (3, 4)}\n",
    "thousands of digits": "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 4000 + ",)}\n",
    "exponent": "{'descr': '<f8', 'fortran_order': False, 'shape': (9**9**9, 4)}\n",
    "64 axes": described(shape=(1,) * 64),
    "NUL": "{'descr': '<f8\0', 'fortran_order': False, 'shape': (3, 4)}\n",
    "not text": "\xff\xfe" * 30,
    "unclosed text": "{'descr': '<f8\n",
    "three quotes": "'''" * 3 + "\n",
    "indented": "    {'descr': '<f8',\n\n  'x'\n",
    "5000 long": described() + " " * 5000,
}

WRONG_ARCHIVES = {
    **{
        f"named {name!r}": lambda name=name: pair(Entry(name, npy(np.ones((30, 4)))))
        for name in (
            "/etc/passwd", "../images.npy", "a/b/c/images.npy", "a/" * 500 + "x.npy", "..\\images.npy", "C:images.npy",
            "images.npy/", "images", "images.pkl", "", ".", ".npy", "-images.npy", "x" * 5000 + ".npy", "im\nages.npy",
            b"im\0ages.npy", b"\xff\xfe.npy", "bílder.npy",
        )
    },
    "twice": lambda: zipped(Entry("images.npy", npy(np.ones((30, 4)))), _OK, _OK),
    "two names for the directory": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), attributes=_FOLDER)),
    "a link": lambda: pair(Entry("images.npy", b"/etc/passwd", attributes=_SYMLINK)),
    "encrypted": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), flags=1)),
    "strongly encrypted": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), flags=0x41)),
    "patched": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), flags=0x20)),
    **{
        f"method {method}": lambda method=method: pair(Entry("images.npy", npy(np.ones((30, 4))), method=method))
        for method in (1, 6, 9, 12, 14, 93, 95, 98, 99, 65535)
    },
    "said to be deflated": lambda: pair(Entry("images.npy", packed=npy(np.ones((30, 4))), method=DEFLATED)),
    "wrong CRC": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), crc=1)),
    "size 0": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), size=0)),
    "size too small": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), size=500)),
    "size too large": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), size=2**31)),
    "packed size too large": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), packed_size=2**31)),
    "packed size 0": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), packed_size=0)),
    "sizes of zip64": lambda: pair(
        Entry("images.npy", npy(np.ones((30, 4))), size=2**32 - 1, packed_size=2**32 - 1, extra=_ZIP64)
    ),
    "zip64 of nothing": lambda: pair(
        Entry("images.npy", npy(np.ones((30, 4))), size=2**32 - 1, extra=struct.pack("<HH", 1, 0))
    ),
    "extra that ends early": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), extra=b"\1\0\xff\xff")),
    "elsewhere": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), offset=2**32 - 2)),
    "in the other": lambda: pair(Entry("images.npy", npy(np.ones((30, 4))), offset=500)),
    "17 entries": lambda: zipped(*[Entry(f"a{number}.npy") for number in range(17)]),
    "20 000 entries": lambda: zipped(*[Entry(f"{number}.npy") for number in range(20_000)], count=2, directory_bytes=0),
    "20 000 entries, said so": lambda: zipped(*[Entry(f"{number}.npy") for number in range(20_000)]),
    "a directory of 4 GiB": lambda: pair(directory_bytes=2**32 - 1),
    "65535 entries": lambda: pair(count=65535),
    "a comment": lambda: pair(comment=b"x" * 60_000),
    "zip64": lambda: pair(before_end=b"PK\6\7" + bytes(16)),
    "nothing but an end": lambda: zipped(),
    "half an end": lambda: b"PK\3\4" + pair()[-15:],
    "a local header only": lambda: b"PK\3\4",
    "not an array": lambda: pair(Entry("images.npy", b"not an array at all")),
    "an empty entry": lambda: pair(Entry("images.npy", b"")),
    "a pickle": lambda: pair(Entry("images.npy", b"cos\nsystem\n(S'true'\ntR.")),
    "version 3": lambda: pair(Entry("images.npy", npy_with_header(described(), bytes(96), (3, 0)))),
    "version 9": lambda: pair(Entry("images.npy", npy_with_header(described(), bytes(96), (9, 0)))),
    "header of 4 GiB": lambda: pair(
        Entry("images.npy", npy_with_header(described(), bytes(96), (2, 0), length=2**32 - 1))
    ),
    "header of 64 KiB": lambda: pair(Entry("images.npy", npy_with_header(described(), bytes(96), length=65535))),
    "bomb of 64 MiB": lambda: pair(bomb_entry("images.npy", 64 << 20), Entry("labels.npy", npy(np.arange(65536).astype("u1") % 2))),
    "1 MB for 1 GiB": lambda: pair(
        bomb_entry("images.npy", 1 << 30), Entry("labels.npy", npy(np.arange(1 << 20, dtype=np.int16) % 2))
    ),
    "1 GiB behind a small header": lambda: pair(bomb_entry("images.npy", 1 << 30, 30 * 1024)),
    "labels that are a bomb": lambda: pair(None, bomb_entry("labels.npy", 64 << 20)),
}  # fmt: skip

SOUND_IDX = {
    "images": idx(np.arange(480).reshape(30, 4, 4).astype("u1")),
    "labels": idx((np.arange(30) % 3).astype("u1")),
}


def idx_with(**parts):
    return SOUND_IDX | parts


WRONG_IDX = {
    "no images": lambda: {"labels": SOUND_IDX["labels"]},
    "images twice": lambda: {"file": SOUND_IDX["images"]},
    "all three": lambda: {**SOUND_IDX, "file": npz(images=np.ones((3, 4)), labels=LABELS)},
    "exchanged": lambda: {"images": SOUND_IDX["labels"], "labels": SOUND_IDX["images"]},
    "empty": lambda: idx_with(images=b""),
    "two bytes": lambda: idx_with(images=b"\0\0"),
    "no sizes": lambda: idx_with(images=SOUND_IDX["images"][:10]),
    "ends early": lambda: idx_with(images=SOUND_IDX["images"][:-1]),
    "goes on": lambda: idx_with(images=SOUND_IDX["images"] + b"x"),
    "type 10": lambda: idx_with(images=idx(np.zeros((30, 4), "u1"), code=10)),
    "no axis": lambda: idx_with(images=idx(np.uint8(1))),
    "255 axes": lambda: idx_with(images=idx(np.zeros((30, 4), "u1"), axes=255)),
    "4 axes": lambda: idx_with(images=idx(np.zeros((30, 1, 2, 2), "u1"))),
    "2**96": lambda: idx_with(images=idx(np.zeros(4, "u1"), shape=(2**32 - 1,) * 3)),
    "4 GiB": lambda: idx_with(images=idx(np.zeros(4, "u1"), shape=(30, 2**16, 2**11))),
    "no examples": lambda: {"images": idx(np.zeros((0, 4), "u1")), "labels": idx(np.zeros(0, "u1"))},
    "more labels": lambda: idx_with(labels=idx((np.arange(31) % 3).astype("u1"))),
    "NaN": lambda: idx_with(images=idx(np.full((30, 4), np.nan, "f4"))),
    "float labels": lambda: idx_with(labels=idx(np.zeros(30, "f4"))),
    "negative labels": lambda: idx_with(labels=idx(np.full(30, -1, "i2"))),
    "gzip that ends early": lambda: idx_with(images=gzip.compress(SOUND_IDX["images"])[:-9]),
    "gzip with another CRC": lambda: idx_with(images=gzip.compress(SOUND_IDX["images"])[:-8] + bytes(8)),
    "gzip and more": lambda: idx_with(images=gzip.compress(SOUND_IDX["images"]) + b"more"),
    "gzip of gzip": lambda: idx_with(images=gzip.compress(gzip.compress(SOUND_IDX["images"]))),
    "gzip of nothing": lambda: idx_with(images=gzip.compress(b"")),
    "half a gzip header": lambda: idx_with(images=b"\x1f\x8b\x08"),
    "gzip bomb": lambda: idx_with(images=_gzip_bomb(64 << 20)),
}


def _gzip_bomb(size):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, size >> 14, 128, 128)
    packed = packer.compress(head)
    for _ in range(size >> 20):
        packed += packer.compress(bytes(1 << 20))
    return packed + packer.flush()


NOT_DATA = {
    "nothing": b"",
    "text": b"a,b,c\n1,2,3\n",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a pickle": b"\x80\x04K\x01.",
    "an array alone": npy(np.ones((3, 4))),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    "a tar": b"images.npy".ljust(512, b"\0"),
}


WRONG = [
    *(f"values: {name}" for name in WRONG_VALUES),
    *(f"header: {name}" for name in WRONG_HEADERS),
    *(f"archive: {name}" for name in WRONG_ARCHIVES),
    *(f"idx: {name}" for name in WRONG_IDX),
    *(f"not data: {name}" for name in NOT_DATA),
]


@cache
def wrong(which):
    """One of the above: the files of an upload."""
    kind, _, name = which.partition(": ")
    match kind:
        case "values":
            return WRONG_VALUES[name]()
        case "header":
            images = Entry("images.npy", npy_with_header(WRONG_HEADERS[name], bytes(96)))
            return {"file": pair(images, Entry("labels.npy", npy(LABELS)))}
        case "archive":
            return {"file": WRONG_ARCHIVES[name]()}
        case "idx":
            return WRONG_IDX[name]()
        case _:
            return {"file": NOT_DATA[name]}


def mutated(rng):
    """A sound data set in which something was changed at random. Some of them still are sound."""
    if rng.random() < 0.3:
        files = dict(SOUND_IDX)
        if rng.random() < 0.5:
            files = {name: gzip.compress(content) for name, content in files.items()}
    else:
        files = {"file": npz(compressed=bool(rng.random() < 0.5), **arrays(rng))}
    name = sorted(files)[rng.integers(len(files))]
    content = bytearray(files[name])
    match rng.integers(6):
        case 0:  # ends early
            del content[rng.integers(len(content)) :]
        case 1:  # flipped bits
            for at in rng.integers(0, len(content), rng.integers(1, 9)):
                content[at] ^= 1 << rng.integers(8)
        case 2:  # a stretch overwritten
            at, length = rng.integers(len(content)), rng.integers(1, 64)
            content[at : at + length] = rng.bytes(min(length, len(content) - at))
        case 3:  # a stretch taken out, or doubled
            at, length = rng.integers(len(content)), rng.integers(1, 200)
            content[at : at + length] = bytes(content[at : at + length]) * (2 * int(rng.integers(2)))
        case 4:  # a number made huge
            at = rng.integers(max(1, len(content) - 8))
            content[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**16 - 1, 2**31, 2**32 - 1]))
        case _:  # a declared shape or type changed
            digits = [at for at, byte in enumerate(content[:2000]) if chr(byte) in "0123456789<>|ufi"]
            for at in rng.choice(digits, min(3, len(digits))) if digits else ():
                content[at] = rng.choice(list(b"0123456789<>|ufiO"))
    return files | {name: bytes(content)}
