"""What schemathesis must know beyond the document: real pictures. SCHEMATHESIS_HOOKS loads it."""

import base64

import schemathesis
from hypothesis import strategies as st

from tests.handler.awkward import animation, corners, oriented, palette, rgba, save

PICTURES = {
    f"image/{kind}": [save(corners(), kind)] for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif")
}
PICTURES["image/jpeg"] += [
    oriented(6),
    save(corners().convert("CMYK"), "JPEG"),
    save(corners().convert("L"), "JPEG"),
]
PICTURES["image/png"] += [palette(transparent=True), rgba()]
PICTURES["image/gif"] += [animation("GIF")]
ALL = sorted({picture for pictures in PICTURES.values() for picture in pictures})
TEXTS = [base64.b64encode(picture).decode() for picture in ALL]

for media_type, pictures in PICTURES.items():
    schemathesis.openapi.media_type(media_type, st.sampled_from(pictures))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(ALL))
schemathesis.openapi.format("binary", st.sampled_from(ALL))


@schemathesis.deserializer("image/png")
def png_as_text(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """A binary answer, as the schema sees it; it must begin as a PNG does."""
    assert response.content.startswith(b"\x89PNG\r\n\x1a\n")
    return response.content.decode("latin-1")


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: object) -> bool:
    """Leave out fields whose name is empty, or all control characters, which Java trims away.

    TorchServe's own form parser answers them with 500 before the handler is asked.
    """
    names = body if isinstance(body, dict) else {}
    return all(any(letter.isprintable() and letter != " " for letter in str(name)) for name in names)


schemathesis.openapi.format("picture", st.sampled_from([*TEXTS, f"data:image/jpeg;base64,{TEXTS[0]}"]))
