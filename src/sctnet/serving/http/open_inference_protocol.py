"""The Open Inference Protocol, version 2, over HTTP: tensors as JSON or as bytes behind it.

https://github.com/kserve/open-inference-protocol, ``inference_rest.md``, and of Triton's extensions
the binary one, ``extension_binary_data.md``: a JSON head of as many bytes as the header
``Inference-Header-Content-Length`` says, then the tensors that it announces, one behind the other,
little-endian; an element of BYTES is its length in four bytes, then its content.

A request holds one input. Pictures come as ``images``, UINT8, N x H x W x 3 (RGB), or encoded, as
``encoded_images``, BYTES, N; in JSON, where bytes cannot be, each of these in base64. The answer is
``labels``, N x H x W, UINT8 or, above 255 classes, UINT16.
"""

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from pydantic import BaseModel, Field, ValidationError

from sctnet.checkpoints.model_folder import first_message
from sctnet.pipeline.label_dtype import label_dtype
from sctnet.serving.http.limits import Limits, Refusal

HEADER_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"
"""Of every model: a server of ours has the current one."""

PICTURES, ENCODED, LABELS = "images", "encoded_images", "labels"

Dimension = Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]


class RequestedTensor(BaseModel):
    """An input as the head of a request announces it."""

    name: Annotated[str, Field(examples=[PICTURES])]
    shape: Annotated[list[Dimension], Field(max_length=8, examples=[[1, 2, 2, 3]])]
    datatype: Annotated[str, Field(examples=["UINT8"])]
    parameters: dict[str, Any] = {}
    data: Annotated[list[Any] | None, Field(examples=[[0] * 12])] = None


class RequestedOutput(BaseModel):
    """What is wanted back, and how."""

    name: Literal["labels"]
    parameters: dict[str, Any] = {}


class RequestHead(BaseModel):
    """The JSON of a request; what the protocol does not know is passed over."""

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[RequestedTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=1)] | None = None


class InferenceRequest(NamedTuple):
    """A request, read."""

    id: str | None
    pictures: UInt8[np.ndarray, "n h w 3"] | None
    encoded: list[bytes]
    """Where there are no pictures: images, still encoded."""
    binary: bool
    """Whether labels are wanted as bytes."""


def parse_request(body: bytes, header_length: str | None, limits: Limits) -> InferenceRequest:
    """Read a request's body; raises :class:`Refusal` for any other content."""
    head_size = _head_size(header_length, len(body))
    try:
        head = RequestHead.model_validate_json(body[:head_size])
    except ValidationError as error:
        raise Refusal(400, f"the request's JSON: {first_message(error)}") from error
    tensor = head.inputs[0]
    _refuse_extensions(head)
    content = _binary_content(tensor, memoryview(body)[head_size:])
    kind = (tensor.name, tensor.datatype)
    if kind in {(PICTURES, "UINT8"), (ENCODED, "UINT8")}:
        return InferenceRequest(head.id, _pictures(tensor, content, limits), [], _binary(head))
    if kind in {(PICTURES, "BYTES"), (ENCODED, "BYTES")}:
        return InferenceRequest(head.id, None, _images(tensor, content, limits), _binary(head))
    raise Refusal(
        400,
        f"no such input: give {PICTURES} of datatype UINT8, or {ENCODED} of datatype BYTES",
    )


def response(
    model: str, request: InferenceRequest, labels: Sequence[np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers that answer a request with one label map a picture."""
    tensor = np.stack(labels)
    output: dict[str, Any] = {
        "name": LABELS,
        "datatype": _datatype(tensor.dtype),
        "shape": list(tensor.shape),
    }
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if request.id is not None:
        head["id"] = request.id
    if not request.binary:
        output["data"] = tensor.ravel().tolist()
        return json.dumps({**head, "outputs": [output]}).encode(), {}
    content = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(content)}
    text = json.dumps({**head, "outputs": [output]}).encode()
    return text + content, {HEADER_LENGTH: str(len(text))}


def model_metadata(name: str, classes: Sequence[str], runs: str) -> dict[str, Any]:
    """Return what ``GET /v2/models/NAME`` says; exactly one of the two inputs is to be given."""
    kind = label_dtype(len(classes))
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "sctnet",
        "inputs": [
            {"name": PICTURES, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": ENCODED, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": LABELS, "datatype": _datatype(kind), "shape": [-1, -1, -1]}],
        "parameters": {"classes": list(classes), "runs": runs},
    }


def _datatype(kind: np.dtype[Any]) -> str:
    return kind.name.upper()


def _head_size(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 20):
        raise Refusal(400, f"{HEADER_LENGTH}: not a number of bytes")
    if not 0 < int(header_length) <= size:
        raise Refusal(400, f"{HEADER_LENGTH}: more than the body's {size} bytes, or none")
    return int(header_length)


def _refuse_extensions(head: RequestHead) -> None:
    """Refuse what would change the meaning and is not done here."""
    given = [head.inputs[0].parameters, *(output.parameters for output in head.outputs or [])]
    for name in ("shared_memory_region", "classification"):
        if any(name in parameters for parameters in given):
            raise Refusal(400, f"{name}: an extension that this server does not have")


def _binary(head: RequestHead) -> bool:
    default = head.parameters.get("binary_data_output", False)
    outputs = head.outputs or []
    wanted = outputs[0].parameters.get("binary_data", default) if outputs else default
    return wanted is True


def _binary_content(tensor: RequestedTensor, rest: memoryview) -> memoryview | None:
    """Return the input's bytes behind the head; None where its data stand in the head."""
    size = tensor.parameters.get("binary_data_size")
    if size is None and tensor.data is not None:
        size = 0
    elif size is None:
        raise Refusal(400, f"inputs.0: no data: give data, or binary_data_size and {HEADER_LENGTH}")
    elif tensor.data is not None:
        raise Refusal(400, "inputs.0: data and binary_data_size: give only one of them")
    if type(size) is not int or size != len(rest):
        raise Refusal(
            400, f"inputs.0: {len(rest)} bytes follow the JSON, which is not what it announces"
        )
    return rest if tensor.data is None else None


def _pictures(
    tensor: RequestedTensor, content: memoryview | None, limits: Limits
) -> UInt8[np.ndarray, "n h w 3"]:
    shape = tensor.shape
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise Refusal(
            400, f"inputs.0.shape: {shape} is not N x H x W x 3 (RGB pictures of one size)"
        )
    limits.check_count(shape[0])
    limits.check_pixels(shape[0] * shape[1] * shape[2])
    if content is not None:
        values = np.frombuffer(content, np.uint8)
    else:
        values = _bytes_of_numbers(tensor.data or [], shape)
    if values.size != np.prod(shape, dtype=np.int64):
        raise Refusal(400, f"inputs.0: {values.size} values are not the {shape} that shape says")
    return values.reshape(shape)


def _bytes_of_numbers(data: list[Any], shape: list[int]) -> UInt8[np.ndarray, "_"]:
    """Return numbers, in one list or nested as the shape is, as bytes."""
    if data and isinstance(data[0], list):
        for size in shape[1:]:
            if not all(isinstance(part, list) and len(part) == size for part in data):
                raise Refusal(400, f"inputs.0.data: not nested as {shape} says")
            data = [value for part in data for value in part]
    try:
        return np.frombuffer(bytes(data), np.uint8)  # of all but whole numbers, bytes() takes none
    except (TypeError, ValueError) as error:
        raise Refusal(400, "inputs.0.data: give whole numbers from 0 to 255") from error


def _images(tensor: RequestedTensor, content: memoryview | None, limits: Limits) -> list[bytes]:
    if len(tensor.shape) not in {1, 2} or 0 in tensor.shape or tensor.shape[1:] not in ([], [1]):
        raise Refusal(400, f"inputs.0.shape: {tensor.shape} is not N, one or more encoded images")
    limits.check_count(tensor.shape[0])
    images = _from_base64(tensor.data or []) if content is None else _elements(content)
    if len(images) != tensor.shape[0]:
        raise Refusal(
            400, f"inputs.0: {len(images)} encoded images, not the {tensor.shape[0]} of shape"
        )
    return images


def _elements(content: memoryview) -> list[bytes]:
    elements = []
    place = 0
    while place < len(content):
        if place + 4 > len(content):
            raise Refusal(400, "inputs.0: the encoded images are cut short")
        (size,) = struct.unpack_from("<I", content, place)
        place += 4
        if place + size > len(content):
            raise Refusal(400, "inputs.0: the encoded images are cut short")
        elements.append(bytes(content[place : place + size]))
        place += size
    return elements


def _from_base64(data: list[Any]) -> list[bytes]:
    images = []
    for entry in data:
        text = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        try:
            images.append(base64.b64decode(text if isinstance(text, str) else "?", validate=True))
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                400, "inputs.0.data: not encoded images in base64, as JSON has to hold them"
            ) from error
    return images
