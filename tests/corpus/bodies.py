"""Requests with a valid image whose form, JSON, options or headers are wrong."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator

from tests.corpus.case import Case, files

BOUNDARY = "corpus-boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str | bytes, value: bytes, more: str = "") -> bytes:
    quoted = name.encode() if isinstance(name, str) else name
    return b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
        BOUNDARY.encode(),
        quoted,
        more.encode(),
        value,
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def options(rng: random.Random) -> Iterator[Case]:
    picture = part("image", files()["JPEG"], '; filename="a.jpg"')
    odd = (
        "nan inf -inf 1e999 -1 1_0 0x1 ٣ true null [] {} %00 ../../etc/passwd ${jndi:ldap://x/a} <b>".split()
    )
    odd += ["", " ", "\0", "0\0", "9" * 5000, "'; DROP TABLE x;--", "\r\nX: y", "\ud7ff"]
    for name in ("score_threshold", "max_detections", "classes", "mask_format", "output"):
        for value in odd:
            body = form(picture, part(name, value.encode()))
            yield Case(f"option {name} {value[:25]!r}", body, MULTIPART)
    names = ["", "\0", "a" * 3000, *"Score_Threshold image[] __proto__ data version body ../x".split()]
    for name in names:
        yield Case(f"option called {name[:20]!r}", form(picture, part(name, b"1")), MULTIPART)
    yield Case("option that is no UTF-8", form(picture, part("output", b"\xff\xfe\x80")), MULTIPART)
    for count in (30, 1000, 5000):
        fields = (part(f"field{i}", b"x") for i in range(count))
        yield Case(f"form of {count} fields", form(picture, *fields), MULTIPART)


def documents(rng: random.Random) -> Iterator[Case]:
    text = base64.b64encode(files()["JPEG"]).decode()
    for name, image in {
        "cut": text[:-3],
        "with spaces": text[:40] + "  " + text[40:],
        "url-safe": text.replace("/", "_").replace("+", "-"),
        "not base64": "?" * 99,
        "empty": "",
        "of nothing": "====",
        "umlauts": "äöü",
        "surrogate": "\ud800",
        "null": "\0" * 9,
        "a path": "/etc/passwd",
        "a URL": "http://127.0.0.1:8081/models",
        "a file URL": "file:///etc/passwd",
        "data URI": "data:image/png;base64," + text,
        "data URI without base64": "data:image/png," + text,
        "data URI, long": "data:" + "a" * 100_000 + ";base64," + text,
        "of JSON": base64.b64encode(b'{"image": 1}').decode(),
    }.items():
        yield Case(f"JSON image {name}", json.dumps({"image": image}).encode(), "application/json")
    for value in (None, 0, -1, 1.5, True, [], {}, [text], {"b64": text}, "x" * 100_000):
        given = {
            "image": {"image": value},
            "options": {"image": text, "options": value},
            "score_threshold": {"image": text, "options": {"score_threshold": value}},
            "classes": {"image": text, "options": {"classes": value}},
        }
        for name, document in given.items():
            body = json.dumps(document).encode()
            yield Case(f"JSON {name} {str(value)[:12]!r}", body, "application/json")
    numbers = ["9" * 5000, "0." + "9" * 5000, *'NaN Infinity -Infinity 1e999 "\\ud800" [[[[1]]]]'.split()]
    for value in numbers:
        asked = f'{{"image": "{text}", "options": {{"score_threshold": {value}}}}}'.encode()
        yield Case(f"JSON threshold {value[:15]}", asked, "application/json")
    for name, body in {
        "[ 100,000 deep": b"[" * 100_000,
        "object 50,000 deep": b'{"image":' * 50_000,
        "closed 20,000 deep": b"[" * 20_000 + b"]" * 20_000,
        "options 900 deep": b'{"image": "", "options": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
        "nothing": b"",
        "spaces": b" " * 99,
        "number": b"1",
        "string": b'"x"',
        "null": b"null",
        "cut": b'{"image": "',
        "two": b"{}{}",
        "NUL": b'{"image\0": 1}',
        "UTF-16": '{"image": ""}'.encode("utf-16"),
        "BOM": b'\xef\xbb\xbf{"image": ""}',
        "latin-1": b'{"im\xe4ge": ""}',
        "same key twice": b'{"image": 1, "image": 2}',
        "10,000 keys": json.dumps({f"k{i}": i for i in range(10_000)}).encode(),
        "list of pictures": json.dumps([{"image": text}] * 2).encode(),
        "single quotes": b"{'image': ''}",
    }.items():
        yield Case(f"JSON {name}", body, "application/json")


def forms(rng: random.Random) -> Iterator[Case]:
    jpeg = files()["JPEG"]
    picture = part("image", jpeg, '; filename="a.jpg"')
    whole = form(picture)
    for name, body in {
        "without an end": picture,
        "cut in the picture": whole[: len(whole) // 2],
        "cut in a header": whole[:40],
        "empty": b"",
        "of nothing but an end": form(),
        "with line feeds only": whole.replace(b"\r\n", b"\n"),
        "with a preamble": b"hello\r\n" + whole,
        "with an epilogue": whole + b"hello",
        "of another boundary": whole.replace(BOUNDARY.encode(), b"other"),
        "with two pictures": form(picture, picture),
        "with image and data": form(picture, part("data", jpeg)),
        "with text for the picture": form(part("image", b"hello")),
        "with an empty picture": form(part("image", b"", '; filename="a"')),
        "without a name": form(b"--%s\r\nContent-Disposition: form-data\r\n\r\nx\r\n" % BOUNDARY.encode()),
        "without headers": form(b"--%s\r\n\r\nx\r\n" % BOUNDARY.encode()),
        "with a NUL in a name": form(part("im\0age", jpeg)),
        "with a name of 100 kB": form(part("a" * 100_000, b"x")),
        "with a header of 1 MB": form(part("image", jpeg, "; x=" + "a" * 10**6)),
        "with base64 inside": form(
            part("image", base64.b64encode(jpeg), "\r\nContent-Transfer-Encoding: base64")
        ),
        "with JSON inside": form(part("image", b"[" * 50_000, "\r\nContent-Type: application/json")),
        "with a form inside": form(part("image", whole, f"\r\nContent-Type: {MULTIPART}")),
        "with a charset that is none": form(
            part("image", jpeg, "\r\nContent-Type: text/plain; charset=none")
        ),
        "with UTF-16 text": form(part("image", jpeg, "\r\nContent-Type: text/plain; charset=utf-16")),
        "with a broken file name": form(part("image", jpeg, '; filename="\xff\r\nX-Y: z')),
        "with a file name in RFC 2231": form(part("image", jpeg, "; filename*=utf-8''%00%ff%2e%2e%2f")),
    }.items():
        yield Case(f"form {name}", body, MULTIPART)
    kinds = "multipart/form-data multipart/mixed application/x-www-form-urlencoded text/plain nonsense */*".split()
    kinds += [f"multipart/form-data; boundary={boundary}" for boundary in ("", '"', "b" * 5000)]
    kinds += ["a/b; c", "application/json; charset=utf-7", "image/svg+xml", "application/octet-stream"]
    for kind in [*kinds, "image/jpeg; " + "x" * 2000]:
        yield Case(f"form typed {kind[:40]}", whole, kind)


def headed(rng: random.Random) -> Iterator[Case]:
    """A valid image with unusual request headers."""
    form_ = form(part("image", files()["JPEG"], '; filename="a.jpg"'))
    for name, headers in {
        "a header of 4 kB": {"X-Long": "x" * 4000},
        "a header of 200 kB": {"X-Long": "x" * 200_000},
        "60 headers": {f"X-{i}": "x" for i in range(60)},
        "2,000 headers": {f"X-{i}": "x" * 50 for i in range(2000)},
        "describe": {"describe": "True"},
        "explain": {"explain": "True"},
        "describe, explain": {"describe": "True", "explain": "True"},
        "an odd request id": {"X-Request-ID": "${jndi:ldap://x}' OR 1=1"},
        "a language": {"Accept-Language": "x" * 3000},
        "a range": {"Range": "bytes=0-" + "9" * 400},
        "gzip that is none": {"Content-Encoding": "gzip"},
        "a cookie": {"Cookie": "a=" + "b" * 4000},
        "another host": {"Host": "evil.example"},
        "an origin": {"Origin": "https://evil.example"},
        "a batch size": {"batchSize": "-1"},
        "a sequence": {"ts_request_sequence_id": "../x"},
        "accept nothing": {"Accept": "image/svg+xml"},
        "a forwarder": {"X-Forwarded-For": "' x"},
    }.items():
        yield Case(f"good picture with {name}", form_, MULTIPART, headers=tuple(headers.items()))


KINDS = (options, documents, forms, headed)
