"""Files of every kind that is read, damaged copies of them, and their readers."""

import base64
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from sctnet.checkpoints.paddle_checkpoint import read_paddle_checkpoint
from sctnet.data.classification.webdataset import open_shards
from sctnet.data.coco_instances import find_instances
from sctnet.data.dataset import FileDataset, Files
from sctnet.data.dataset_yaml import read_config
from sctnet.data.folder import open_folder
from sctnet.data.folds import folds_of
from sctnet.data.images import (
    EncodedImage,
    frame_count,
    image_size,
    read_image,
    read_mask,
    read_mask_encoding,
)
from sctnet.data.labelme import LabelNames, read_labelme
from sctnet.data.rle import encode_counts
from sctnet.data.voc import open_voc
from sctnet.errors import SctnetError
from sctnet.inference.video.source import open_video
from sctnet.training.recipe import load_recipe

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
        {"size": [24, 32], "counts": encode_counts(np.array([100, 30, 638]))},
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


def description() -> bytes:
    """Return the YAML of a data set with most of its keys."""
    return (
        b"images: {train: a, val: b}\nmasks: {train: c}\npolygons: {val: d.json}\n"
        b"classes: [road, car]\nids: {7: 0, 26: 1}\nmask_suffix: _m\nignored_labels: [x]\n"
    )


def recipe() -> bytes:
    """Return a recipe of its own."""
    return (
        b"name: own\ndescription: short\ndata: {source: synthetic}\nmodel: {variant: sctnet-s}\n"
        b"augmentation: {crop: [64, 96], scale: [0.5, 2.0]}\nschedule: {iterations: 10}\n"
        b"optimizer: {rate: 1.0e-3}\nrun: {batch_size: 8, log_every: 5}\n"
    )


def shard() -> bytes:
    """Return a WebDataset shard of two pictures with their classes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a", "b"):
            for ending, content in (("jpg", _saved("RGB", "JPEG")), ("cls", b"1")):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def video(ending: str) -> bytes:
    """Return ten frames."""
    file = io.BytesIO()
    with av.open(file, "w", ending) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(10):
            frame = np.roll(cv2.resize(RGB, (64, 48)), number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


NAMES = LabelNames(("background", "car", "road"), ())


def _read_instances(path: Path) -> None:
    (path.parent / "a.png").write_bytes(b"")
    for picture in find_instances(path, path.parent, "train", NAMES).values():
        if picture.height * picture.width < 1_000_000:
            picture.labels()


def _read_layout(path: Path) -> None:
    for place in ("JPEGImages/p.jpg", "SegmentationClass/p.png", "ImageSets/Segmentation/t.txt"):
        (path.parent / place).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / place).write_bytes(b"p\n")
    (path.parent / "labelmap.txt").write_bytes(path.read_bytes())
    open_voc(path.parent, ["t"])


def _read_list(path: Path) -> None:
    for name in ("a.png", "b c.png"):
        (path.parent / name).write_bytes(b"")
    listed = path.with_name("listed.txt")
    listed.write_bytes(path.read_bytes())
    described = path.with_name("listed.yaml")
    described.write_text("images: {train: listed.txt}\nclasses: [road, car]\n")
    try:
        open_folder(described, ["train"])
    finally:
        listed.unlink()
        described.unlink()


def _read_folds(path: Path) -> None:
    files = [Files(name, path, path) for name in ("a", "b")]
    data = FileDataset("two", ("road", "car"), None, files, read_mask)
    folds_of(data, 2, path, 0)


def _read_shard(path: Path) -> None:
    described = path.with_name("shards.yaml")
    described.write_text(f"shards: {{train: {path.name}}}\nclasses: [cat, dog]\n")
    data = open_shards(described, ["train"])
    for index in range(len(data)):
        data.encoded(index).decode()


def _read_video(path: Path) -> None:
    with open_video(path) as source:
        for _ in zip(range(20), source.frames(), strict=False):
            pass


def paddle() -> bytes:
    """Return a state dict as ``paddle.save`` writes it."""
    content = {"a.weight": np.ones((3, 2, 1, 1), np.float32), "a._mean": np.zeros(3)}
    return pickle.dumps({**content, "StructuredToParameterName@@": {"a.weight": "a_0.w_0"}}, 4)


READERS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path], object]]] = {
    "picture": (pictures, read_image),
    "mask": (pictures, read_mask),
    "mask's palette": (pictures, read_mask_encoding),
    "frames": (pictures, frame_count),
    "reduced": (pictures, lambda path: EncodedImage(path.read_bytes(), str(path)).decode(4)),
    "header": (pictures, lambda path: image_size(path.read_bytes(), str(path))),
    "shapes": (lambda: {"LabelMe": labelme()}, lambda path: read_labelme(NAMES, path)),
    "instances": (lambda: {"COCO": coco()}, _read_instances),
    "description": (lambda: {"YAML": description()}, read_config),
    "recipe": (lambda: {"YAML": recipe()}, lambda path: load_recipe(str(path))),
    "layout": (lambda: {"labelmap.txt": b"a:1,2,3::\np:3,4,5::\n"}, _read_layout),
    "list": (lambda: {"text": b"a.png\tb c.png\nb c.png a.png\n"}, _read_list),
    "folds": (lambda: {"JSON": b'{"seed": 0, "folds": [["a"], ["b"]]}'}, _read_folds),
    "shard": (lambda: {"tar": shard()}, _read_shard),
    "Paddle": (lambda: {"pdparams": paddle()}, read_paddle_checkpoint),
    "video": (lambda: {each: video(each) for each in ("mp4", "matroska")}, _read_video),
}
"""What is read, by a word: undamaged samples, and the function that reads a file."""


def told(read: Callable[[Path], object], path: Path) -> str | None:
    """Return the sentence of a reader, or None where it read the file."""
    try:
        read(path)
    except SctnetError as error:
        return str(error)
    return None
