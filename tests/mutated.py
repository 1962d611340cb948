"""Files of every kind that is read, and damaged copies of them."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

RGB = np.kron(
    np.random.default_rng(0).integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1), np.int64)
).astype(np.uint8)


def _saved(mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _deep(array: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, array)[1].tobytes()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a street"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0comment"
    return exif


def pictures() -> dict[str, bytes]:
    """Return a small picture in every format and kind of pixel."""
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    animated = {}
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        animated[f"animated {kind}"] = file.getvalue()
    deep = RGB[..., ::-1].astype(np.uint16) * 257
    return {
        **{f"PNG {mode}": _saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
        **{f"JPEG {mode}": _saved(mode, "JPEG") for mode in ("L", "RGB", "CMYK")},
        "PNG 16": _deep(deep[..., 0], ".png"),
        "PNG 16 RGB": _deep(deep, ".png"),
        "PNG EXIF": _saved("RGB", "PNG", exif=_exif()),
        "JPEG EXIF": _saved("RGB", "JPEG", exif=_exif()),
        "JPEG progressive": _saved("RGB", "JPEG", progressive=True),
        "TIFF float": _deep(RGB[..., 0].astype(np.float32) / 255, ".tiff"),
        "TIFF 16": _deep(deep[..., 0], ".tiff"),
        **{
            f"TIFF {way}": _saved("RGB", "TIFF", compression=way)
            for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        },
        "TIFF 1": _saved("1", "TIFF", compression="group4"),
        "TIFF CMYK": _saved("CMYK", "TIFF"),
        "TIFF EXIF": _saved("RGB", "TIFF", exif=_exif()),
        "WEBP lossless": _saved("RGBA", "WEBP", lossless=True),
        **{kind: _saved("RGB", kind) for kind in ("WEBP", "AVIF", "BMP", "PPM", "GIF", "JPEG2000")},
        "BMP P": _saved("P", "BMP"),
        "PGM": _saved("L", "PPM"),
        **animated,
    }


def labelme() -> bytes:
    """Return a LabelMe file with a shape of every kind."""
    mask = np.zeros((5, 5), np.uint8)
    mask[1:4, 1:4] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    import base64

    shapes = [
        {"label": "car", "points": [[1, 1], [9, 2], [5, 9]], "shape_type": "polygon"},
        {"label": "car", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "road", "points": [[9, 9], [12, 12]], "shape_type": "circle"},
        {
            "label": "road", "points": [[2, 2], [6, 6]], "shape_type": "mask",
            "mask": base64.b64encode(file.getvalue()).decode(),
        },
    ]  # fmt: skip
    return json.dumps({"shapes": shapes, "imageHeight": 24, "imageWidth": 32}).encode()


def coco() -> bytes:
    """Return a COCO file of instances with an area of every kind."""
    areas: list[object] = [
        [[1, 1, 9, 1, 9, 9]],
        {"size": [24, 32], "counts": [100, 30, 638]},
        {"size": [24, 32], "counts": "T3N2h0"},
        [],
    ]
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [
                {
                    "id": number, "image_id": 1, "category_id": 1, "segmentation": area,
                    "bbox": [1, 1, 8, 8],
                }
                for number, area in enumerate(areas)
            ],
        }
    ).encode()  # fmt: skip


def mutated(content: bytes, seed: int) -> bytes:
    """Return a damaged copy: cut, bits turned, bytes replaced, doubled, dropped or swapped."""
    draw = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(int(draw.integers(1, 4))):
        if not data:
            break
        place = int(draw.integers(len(data)) * draw.choice([1, 1, 0.1]))  # headers more often
        size = int(draw.integers(1, 16))
        way = int(draw.integers(7))
        if way == 0:
            del data[place:]
        elif way == 1:
            data[place] ^= 1 << int(draw.integers(8))
        elif way == 2:
            data[place : place + size] = draw.bytes(size)
        elif way == 3:
            data[place:place] = data[place : place + size]
        elif way == 4:
            del data[place : place + size]
        elif way == 5:
            other = int(draw.integers(len(data)))
            data[place : place + size] = data[other : other + size]
        else:
            numbers = (0, 1, 255, 65535, 2**31 - 1, 2**32 - 1)
            data[place : place + 4] = struct.pack("<I", int(draw.choice(numbers)))
    if draw.random() < 0.3 and bytes(data[:4]) == b"\x89PNG":
        return with_checksums(bytes(data))
    return bytes(data)


def with_checksums(png: bytes) -> bytes:
    """Return a PNG whose chunks have right checksums, so that what they hold is looked at."""
    whole, place = bytearray(png[:8]), 8
    while place + 12 <= len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        body = png[place + 4 : place + 8 + size]
        whole += png[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return bytes(whole)


def copies(samples: dict[str, bytes], seeds: range) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of samples in turns, each with what it was made of."""
    names = list(samples)
    for seed in seeds:
        name = names[seed % len(names)]
        yield f"{name}, seed {seed}", mutated(samples[name], seed)


Reader = Callable[[bytes], object]
