"""Pictures from a request's bytes, with limits on arrival and before decoding."""

import zlib
from collections.abc import AsyncIterator
from email.message import Message

from sctnet.data.images import decode_image, holds_more, image_size
from sctnet.errors import SctnetError
from sctnet.inference.sources import Picture
from sctnet.serving.http.limits import Claim, Limits, Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The formats that are decoded, by Pillow's names."""

FRAMES = "X-Frames"

_EITHER = 32 + zlib.MAX_WBITS  # zlib's number for: gzip or deflate, as its header says


async def read_body(
    chunks: AsyncIterator[bytes], declared: str | None, limits: Limits, claim: Claim
) -> bytes:
    """Return a body, of a ``declared`` Content-Length or none, no larger than the limits allow."""
    limits.check_body(int(declared) if declared and declared.isdecimal() else 0)
    received, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        limits.check_body(size)
        claim(len(chunk))
        received.append(chunk)
    return b"".join(received)


def decompressed(body: bytes, encoding: str | None, limits: Limits, claim: Claim) -> bytes:
    """Undo a Content-Encoding, and never unpack more than a body may have."""
    if encoding in {None, "", "identity"}:
        return body
    if encoding not in {"gzip", "deflate"}:
        raise Refusal(415, "the Content-Encoding is not gzip, deflate or identity")
    stream = zlib.decompressobj(_EITHER)
    try:
        content = stream.decompress(body, limits.body + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not {encoding} data") from error
    limits.check_body(len(content))
    if not stream.eof:
        raise Refusal(400, f"the {encoding} data end too early")
    claim(len(content))
    return content


def uploaded_file(body: bytes, content_type: str | None) -> bytes:
    """Return the one file of a form (multipart/form-data), or else the body itself."""
    message = Message()
    message["Content-Type"] = content_type or ""
    if message.get_content_type() != "multipart/form-data":
        return body
    boundary = str(message.get_param("boundary") or "").encode()
    parts = body.split(b"--" + boundary) if boundary else []
    if len(parts) != 3:
        raise Refusal(
            400,
            "the form does not hold one file and nothing else: send one, or the encoded image "
            "itself as the body",
        )
    _, found, content = parts[1].partition(b"\r\n\r\n")
    if not found or not content.endswith(b"\r\n"):
        raise Refusal(400, "the form is cut short: send it again")
    return content[:-2]


def several_frames(images: list[bytes]) -> dict[str, str]:
    """Return the header that tells of frames or pages which were not labelled, where there are."""
    try:
        more = any(holds_more(image, "the image", FORMATS) for image in images)
    except SctnetError:  # its first frame is whole, and was decoded
        return {}
    return {FRAMES: "the first of several is labelled"} if more else {}


def decode_pictures(images: list[bytes], limits: Limits, claim: Claim) -> list[Picture]:
    """Decode images, all of which are small enough together by what their headers say."""
    names = [f"image {number}" for number in range(len(images))] if images[1:] else ["the image"]
    try:
        sizes = [
            image_size(image, name, FORMATS) for image, name in zip(images, names, strict=True)
        ]
        pixels = sum(height * width for height, width in sizes)
        limits.check_pixels(pixels)
        claim(3 * pixels)
        return [
            decode_image(image, name, formats=FORMATS)
            for image, name in zip(images, names, strict=True)
        ]
    except Refusal:
        raise
    except SctnetError as error:
        raise Refusal(400, str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders fail on damaged bytes with undocumented exceptions
        raise Refusal(400, "the image cannot be decoded: save it again as PNG or JPEG") from error
