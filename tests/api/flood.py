"""Requests that nobody should send, drawn from a seed: bytes as they go over the wire, whatever an HTTP client thinks of
them.
"""

import base64
import copy
import gzip
import json
import random
import re
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from core import presets

METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]
HUGE = ["1" + "0" * 400, "9" * 5000, "-1e999", "1e400", "-0", "1E+2147483648", "NaN", "Infinity", "1_000", "0x10"]
CONTROL = "".join(map(chr, (*range(32), 0x7F, 0x85, 0x2028, 0x202E, 0xFEFF, 0xFFFE, 0x1F4A9)))
TEXTS = [
    "",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "a\0b",
    "../../etc/passwd",
    "%00",
    "'; DROP TABLE jobs; --",
    "{{7*7}}",
    "é" * 300,
]
WRONG = [None, True, -1, 0, 1.5, "", "x", [], {}, [[]], {"a": {}}, 10**30, -(10**30), 1e308, 5e-324, "1", TEXTS]


@dataclass(frozen=True)
class Case:
    """One request, and what it was made to be wrong in."""

    kind: str
    wire: bytes


@dataclass(frozen=True)
class Target:
    """Who asks, and what there is that it may and may not know of."""

    key: str
    own: list[str]  # ids of the project's jobs
    others: list[str]  # of another project's
    cursors: list[str]  # of its own list, and of the other's
    paths: list[tuple[str, str]]  # (method, template) of the service's operations
    uploads: dict[str, list[str]]  # ids of the project's uploads, by the name that paths have for them
    their_uploads: dict[str, list[str]]  # of another project's
    about: list[dict]  # jobs about the project's uploads


class Flood:
    """Cases without end, the same for the same seed."""

    def __init__(self, target, seed):
        self.target, self.draw = target, random.Random(seed)
        self.specs = [presets.get(name).model_dump(mode="json") for name in presets.names()] + target.about
        self.kinds = [name for name in dir(self) if name.startswith("make_")]

    def __iter__(self):
        while True:
            for name in self.kinds:
                yield Case(name.removeprefix("make_").replace("_", " "), getattr(self, name)())

    # what goes over the wire

    def request(self, method, path, body=None, headers=None, *, length=None, key=None):
        """A request; `headers` replace the usual ones, and None leaves one out."""
        used = {"Host": "x", "Connection": "close", "Authorization": f"Bearer {key or self.target.key}"}
        if body is not None:
            used |= {
                "Content-Type": "application/json",
                "Content-Length": str(len(body) if length is None else length),
            }
        used |= headers or {}
        lines = [f"{name}: ".encode() + _bytes(value) for name, value in used.items() if value is not None]
        return b"\r\n".join([f"{method} ".encode() + _bytes(path) + b" HTTP/1.1", *lines, b"", b""]) + (
            body or b""
        )

    def post(self, document, **options):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.request("POST", "/v1/jobs", body, **options)

    def spec(self):
        return copy.deepcopy(self.draw.choice(self.specs))

    def operation(self, ids, uploads=None):
        """Method and path of an operation of the service, about one of `ids` or `uploads`."""
        method, template = self.draw.choice(self.target.paths)
        path = template.replace("{job_id}", self.draw.choice(ids))
        for name, known in (self.target.uploads if uploads is None else uploads).items():
            path = path.replace(f"{{{name}}}", self.draw.choice(known))
        for name, values in (("{name}", ["schedules", "loss", "digits-schedules"]), ("{form}", ["png", "svg"])):
            path = path.replace(name, self.draw.choice(values))
        return method, re.sub(
            r"{\w+}", lambda _: self.draw.choice([self.uuid(), f"ds_{self.uuid()[:24]}", "x"]), path
        )

    def uuid(self):
        return str(UUID(int=self.draw.getrandbits(128)))

    def text(self):
        return self.draw.choice([*TEXTS, "".join(self.draw.choices(CONTROL, k=self.draw.randint(1, 20)))])

    def wrong(self):
        return copy.deepcopy(self.draw.choice(WRONG))  # as it may be spoilt in its turn

    # kinds of cases

    def make_wrong_types(self):
        """A preset with a few values replaced, removed or added, anywhere."""
        spec = self.spec()
        for _ in range(self.draw.randint(1, 3)):
            places = list(_places(spec))
            parent, key = self.draw.choice(places)
            match self.draw.randint(0, 3):
                case 0 if isinstance(parent, dict):
                    del parent[key]
                case 1 if isinstance(parent, dict):
                    parent[self.text()] = self.wrong()
                case 2:
                    parent[key] = copy.deepcopy(self.draw.choice(self.draw.choice(list(_places(self.spec())))[:1]))
                case _:
                    parent[key] = self.wrong()
        return self.post(spec)

    def make_deep_json(self):
        depth = self.draw.choice([10, 100, 500, 900, 1100, 5000, 100_000])
        opening, middle, closing = self.draw.choice([("[", "", "]"), ('{"a":', "1", "}"), ('[{"a":', "[]", "}]")])
        deep = opening * depth + middle + closing * self.draw.choice([depth, depth, depth - 1])
        spec = json.dumps(self.spec())
        return self.post(
            self.draw.choice([deep, spec[:-1] + f', "name": {deep}}}', f'{{"meta": {deep}}}']).encode()
        )

    def make_huge_numbers(self):
        text = json.dumps(self.spec())
        parent, key = self.draw.choice([place for place in _places(json.loads(text)) if _is_number(place)])
        huge = self.draw.choice(HUGE)
        match self.draw.randint(0, 2):
            case 0:
                return self.post(text.replace(json.dumps(parent[key]), huge, 1).encode())
            case 1:
                name = self.draw.choice(["limit", "after", "iteration"])
                _, path = self.operation(self.target.own)
                return self.request("GET", f"{path}?{name}={quote(huge)}")
            case _:
                return self.request("GET", f"/v1/jobs/{huge}")

    def make_control_characters(self):
        match self.draw.randint(0, 3):
            case 0:
                return self.post(self.spec() | {"name": self.text()})
            case 1:
                body = json.dumps(self.spec() | {"name": "NAME"}).encode()
                raw = self.text().encode("utf-8", "surrogatepass")
                return self.post(body.replace(b"NAME", raw))
            case 2:
                name = self.draw.choice(["state", "preset", "after", "limit", "iteration", "format", self.text()])
                _, path = self.operation(self.target.own)
                return self.request("GET", f"{path}?{_quoted(name)}={_quoted(self.text())}")
            case _:
                return self.request(self.draw.choice(METHODS), f"/v1/jobs/{_quoted(self.text())}")

    def make_duplicate_keys(self):
        spec = self.spec()
        name = self.draw.choice(list(spec))
        other = json.dumps(self.draw.choice(WRONG))
        return self.post((json.dumps(spec)[:-1] + f", {json.dumps(name)}: {other}}}").encode())

    def make_broken_json(self):
        body = bytearray(json.dumps(self.spec()).encode())
        for _ in range(self.draw.randint(1, 5)):
            place = self.draw.randrange(len(body))
            match self.draw.randint(0, 2):
                case 0:
                    body[place] = self.draw.randrange(256)
                case 1:
                    del body[place : place + self.draw.randint(1, 50)]
                case _:
                    body[place:place] = self.draw.randbytes(self.draw.randint(1, 4))
        return self.post(bytes(body))

    def make_lying_headers(self):
        body = json.dumps(self.spec()).encode()
        match self.draw.randint(0, 6):
            case 0:
                lie = self.draw.choice([0, 1, len(body) - 1, len(body) + 1, len(body) + 10_000, 1 << 40])
                return self.post(body, length=lie)
            case 1:
                kinds = [
                    "text/plain",
                    "multipart/form-data",
                    "application/json; charset=utf-16",
                    "*/*",
                    "",
                    self.text(),
                ]
                return self.post(body, headers={"Content-Type": _header(self.draw.choice(kinds))})
            case 2:
                kind = self.draw.choice(["gzip", "br", "deflate", "identity", "gzip, gzip", "x"])
                squeezed = gzip.compress(bytes(1 << 20)) if self.draw.random() < 0.5 else body
                return self.post(squeezed, headers={"Content-Encoding": kind})
            case 3:
                chunks = self.draw.choice(
                    [b"5\r\nabcde\r\n0\r\n\r\n", b"ffffffffff\r\nx", b"-1\r\n", b"zz\r\n\r\n", b"0\r\n\r\n"]
                )
                framing = {"Transfer-Encoding": "chunked", "Content-Length": self.draw.choice([None, "5"])}
                return self.request("POST", "/v1/jobs", chunks, framing)
            case 4:
                lies = self.draw.choice(["-1", "+5", "1e3", "5, 6", "0x10", "", " ", "9" * 100])
                return self.post(body, headers={"Content-Length": lies})
            case 5:
                names = [
                    "Accept",
                    "If-None-Match",
                    "If-Match",
                    "Range",
                    "Last-Event-ID",
                    "Idempotency-Key",
                    "Cookie",
                ]
                values = [
                    "*",
                    "bytes=0-",
                    "-1",
                    '"',
                    'W/"',
                    "9" * 400,
                    "text/event-stream;q=x",
                    _header(self.text()),
                ]
                method, path = self.operation([self.draw.choice(self.target.own)])
                if method == "GET" and path.endswith("/events"):
                    values.remove("text/event-stream;q=x")  # a stream has no end to wait for
                return self.request(method, path, headers={self.draw.choice(names): self.draw.choice(values)})
            case _:
                keys = [
                    "",
                    "Bearer",
                    "Bearer ",
                    "Basic x",
                    "Bearer rg_" + "A" * 43,
                    f"bearer\t{self.target.key}",
                    "Bearer \xff",
                ]
                return self.request("GET", "/v1/jobs", headers={"Authorization": self.draw.choice(keys)})

    def make_other_projects(self):
        """Everything that can be done to a job or an upload, to another project's."""
        method, path = self.operation(self.target.others, self.target.their_uploads)
        if method == "POST" and path == "/v1/jobs":
            return self.request("GET", f"/v1/jobs?after={self.draw.choice(self.target.cursors)}")
        return self.request(
            method, path + self.draw.choice(["", "", "", "?limit=100", "?iteration=last", "?format=npz"])
        )

    def make_others_uploads(self):
        """Jobs of ours about what another project has uploaded."""
        spec = copy.deepcopy(self.draw.choice(self.target.about))
        text = json.dumps(spec)
        for name, known in self.target.uploads.items():
            for one in known:
                text = text.replace(one, self.draw.choice(self.target.their_uploads[name]))
        return self.post(text.encode())

    def make_forms(self):
        """Uploads that are none: parts, names, boundaries and bytes."""
        boundary = self.draw.choice(["b", "b" * 70, "b" * 71, "", "b c", '"b', "é"])
        parts = [self.part() for _ in range(self.draw.choice([0, 1, 2, 2, 2, 3, 40]))]
        ending = self.draw.choice(["--", "--", "--", "", "-"])
        mark = boundary.encode()
        body = b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + mark + ending.encode()
        if self.draw.random() < 0.2:
            place = self.draw.randrange(len(body))
            body = body[:place] + self.draw.randbytes(3) + body[place:]
        kind = self.draw.choice(["multipart/form-data"] * 5 + ["multipart/mixed", "application/zip"])
        given = {"Content-Type": f"{kind}; boundary={boundary}"}
        return self.request("POST", self.draw.choice(["/v1/programs", "/v1/datasets"]), body, given)

    def part(self):
        name = self.draw.choice(
            ["name", "name", "file", "file", "file", "kind", "images", "labels", "", "x" * 500]
        )
        file = self.draw.choice(["", '; filename="x.zip"', '; filename="../../x"', "; filename*=UTF-8''%ff"])
        contents = [
            b"",
            b"mine",
            self.draw.randbytes(50),
            bytes(9000),
            self.text().encode("utf-8", "surrogatepass"),
        ]
        head = self.draw.choice([f'Content-Disposition: form-data; name="{name}"{file}'] * 8 + ["A: b", ""])
        return head.encode() + b"\r\n\r\n" + self.draw.choice(contents)

    def make_cursors(self):
        cursor = self.draw.choice(self.target.cursors)
        place = self.draw.randrange(len(cursor))
        made = f"{self.draw.choice(['2026-01-01', '0001-01-01T00:00:00+00:00', '9999-12-31T23:59:59.999999+23:59', 'x'])}"
        made = base64.urlsafe_b64encode(f"{made} {self.uuid()}".encode()).decode()
        spoilt = [
            cursor[:place],
            cursor[:place] + self.draw.choice("AZ_-=%+/ ") + cursor[place + 1 :],
            cursor * 50,
            base64.urlsafe_b64encode(self.draw.randbytes(self.draw.randint(0, 60))).decode(),
            made,
            made.rstrip("="),
        ]
        return self.request("GET", f"/v1/jobs?limit=100&after={_quoted(self.draw.choice(spoilt))}")

    def make_paths(self):
        own = self.draw.choice(self.target.own)
        parts = [
            "..",
            ".",
            "%2e%2e",
            "%2f",
            "%00",
            "",
            "jobs",
            "v1",
            own,
            own.upper(),
            own[:-1],
            f"{{{own}}}",
            "%ff",
            "é",
            "*",
        ]
        path = "/" + "/".join(self.draw.choices(parts, k=self.draw.randint(1, 6)))
        return self.request(
            self.draw.choice(METHODS), self.draw.choice([path, "/v1/jobs/" + "a" * 20_000, "/v1" + path])
        )

    def make_nonsense(self):
        """Bytes that are no HTTP."""
        good = bytearray(self.post(self.spec()))
        for _ in range(self.draw.randint(1, 10)):
            good[self.draw.randrange(120)] = self.draw.randrange(256)
        return self.draw.choice([bytes(good), self.draw.randbytes(200), b"\r\n" * 100, b"GET / HTTP/9.9\r\n\r\n"])


def _places(value):
    """(container, key) of everything in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _is_number(place):
    value = place[0][place[1]]
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(text):
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _header(text):
    return text.encode("utf-8", "replace").decode("latin-1").replace("\r", "").replace("\n", "")


def _bytes(text):
    return text.encode("utf-8", "surrogatepass")
