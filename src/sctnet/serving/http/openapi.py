"""What the OpenAPI page says of bodies and answers that are not plain JSON models."""

from typing import Any

from sctnet.serving.http.answers import ANSWERS
from sctnet.serving.http.open_inference_protocol import HEADER_LENGTH, RequestHead

SERVER = (
    "Semantic segmentation of pictures. `POST /predict` takes an encoded picture and gives its "
    "label map, an overlay, or areas and outlines; `/v2` is the Open Inference Protocol."
)

_BYTES = {"type": "string", "format": "binary"}
_ERROR = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"error": {"type": "string"}},
            "required": ["error"],
        }
    }
}
_REASONS = {
    400: "Malformed request.",
    401: "The API key is missing or wrong.",
    404: "No such model.",
}
_REASONS_OF_WORK = {
    406: "No answer of the kinds in Accept.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or pictures.",
    415: "A Content-Encoding that is not known.",
    429: "Too many requests are waiting; Retry-After says when to try again.",
    503: "Not answered in time, or the server is stopping.",
}


def _errors(reasons: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": text, "content": _ERROR} for status, text in reasons.items()}


ERRORS = _errors(_REASONS)
_ERRORS_OF_WORK = _errors({**_REASONS, **_REASONS_OF_WORK})

METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Figures.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    **_errors({401: _REASONS[401]}),
}

_described = {answer.media_type: answer.what for answer in reversed(ANSWERS)}
PREDICTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result, of the kind that Accept asks for.",
        "content": {
            kind: {"schema": {**(_BYTES if kind.startswith("image/") else {"type": "object"})}}
            for kind in dict.fromkeys(answer.media_type for answer in ANSWERS)
        },
    },
    **_ERRORS_OF_WORK,
}
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "description": "An encoded picture, itself or as the one file of a form.",
        "content": {
            "image/jpeg": {"schema": _BYTES},
            "image/png": {"schema": _BYTES},
            "image/webp": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": _BYTES}, "required": ["image"]}
            },
        },
    }
}

INFERRED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"Label maps; where they are binary, {HEADER_LENGTH} says where they begin.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": _BYTES},
        },
    },
    **_ERRORS_OF_WORK,
}
INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": RequestHead.model_json_schema(ref_template="#/$defs/{model}")
            },
            "application/octet-stream": {"schema": _BYTES},
        },
    }
}
