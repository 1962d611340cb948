"""The routes: ``POST /predict``, the Open Inference Protocol, health, metrics, a page to try it.

Why FastAPI with a micro-batcher and not LitServe: with JPEGs of 480 x 360, a decoder and a PNG
encoder, but no network, sixteen clients got 465 answers a second from FastAPI and 246 from
LitServe, on the same two busy cores. LitServe passes data between processes and takes only JSON or
forms, so neither a picture as the body nor the binary protocol fits. It also owns the routes, and
has no limit before a body is read.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response

from sctnet.inference.predictor import LabelMap
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture
from sctnet.serving.http import open_inference_protocol as open_inference
from sctnet.serving.http import openapi as descriptions
from sctnet.serving.http.answers import Answer, chosen_answer
from sctnet.serving.http.limits import Claim, Limits, Refusal
from sctnet.serving.http.metrics import Metrics
from sctnet.serving.http.middleware import RequestMiddleware
from sctnet.serving.http.open_inference_protocol import InferenceRequest
from sctnet.serving.http.page import PAGE
from sctnet.serving.http.reading import (
    FRAMES,
    decode_pictures,
    decompressed,
    several_frames,
    uploaded_file,
)
from sctnet.serving.http.request_handler import Handler
from sctnet.serving.http.served_model import ServedModel

_BINARY_HEADER = "Inference-Header-Content-Length"
_JSON_EXPANDS = 5  # bytes that a list of numbers takes in memory for each of its characters


class Application:
    """The functions of the routes, and their common state."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits, metrics: Metrics) -> None:
        self._models = {model.name: model for model in models}
        self._first = models[0].name
        self._limits, self._metrics = limits, metrics
        self._handler = Handler(limits)
        self._stopping = False

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """End the threads, when the last request is answered."""
        yield
        self._stopping = True
        for model in self._models.values():
            await run_in_threadpool(model.close)
        self._handler.close()

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise Refusal(404, f"no such model: choose from {', '.join(self._models)}")
        return self._models[name]

    async def predict(
        self,
        request: Request,
        model: Annotated[
            str | None, Query(description="Its name; by default the first one.", max_length=100)
        ] = None,
    ) -> Response:
        """Label a picture: the body is a JPEG, PNG, WebP, BMP or TIFF.

        The header Accept chooses what comes back: `image/png` (default) the label map,
        whose pixel values are the class indices; `image/jpeg` or `image/png;kind=overlay` the
        picture tinted in the classes' colours; `application/json` areas, COCO run lengths and
        polygons of each class; `application/geo+json` the polygons alone.
        """
        served = self._model(model or self._first)
        answer = chosen_answer(request.headers.get("accept"))
        encoding, kind = (
            request.headers.get(name) for name in ("content-encoding", "content-type")
        )

        def unpack(body: bytes, claim: Claim) -> tuple[_Asked, list[Picture]]:
            content = uploaded_file(decompressed(body, encoding, self._limits, claim), kind)
            pictures = decode_pictures([content], self._limits, claim)
            return _Asked(answer, several_frames([content])), pictures

        return await self._handler.handle(request, served, unpack, _predicted)

    async def infer(
        self,
        request: Request,
        model_name: str,
        version: str = open_inference.VERSION,
        inference_header_content_length: Annotated[
            str | None, Header(description="Bytes of the JSON, where binary tensors follow it.")
        ] = None,
    ) -> Response:
        """Label pictures by the Open Inference Protocol, in JSON or with binary tensors."""
        served = self._model(model_name)
        _check_version(version)
        encoding = request.headers.get("content-encoding")
        told: dict[str, str] = {}

        def unpack(body: bytes, claim: Claim) -> tuple[InferenceRequest, list[Picture]]:
            content = decompressed(body, encoding, self._limits, claim)
            if inference_header_content_length is None:
                claim(_JSON_EXPANDS * len(content))
            asked = open_inference.parse_request(
                content, inference_header_content_length, self._limits
            )
            if asked.pictures is not None:
                return asked, list(asked.pictures)
            pictures = decode_pictures(asked.encoded, self._limits, claim)
            told.update(several_frames(asked.encoded))
            if len({picture.shape for picture in pictures}) > 1:
                raise Refusal(400, "pictures of several sizes: send those of each size together")
            return asked, pictures

        def pack(
            asked: InferenceRequest, _: Segmenter, __: list[Picture], labels: list[LabelMap]
        ) -> Response:
            content, headers = open_inference.response(model_name, asked, labels)
            kind = "application/octet-stream" if headers else "application/json"
            return Response(content, media_type=kind, headers={**(headers or {}), **told})

        return await self._handler.handle(request, served, unpack, pack)

    async def server(self) -> dict[str, Any]:
        """Name the server and its extensions of the protocol."""
        return {
            "name": "sctnet", "version": version("sctnet"), "extensions": ["binary_tensor_data"]
        }  # fmt: skip

    async def live(self) -> dict[str, bool]:
        """Report that the process is alive."""
        return {"live": True}

    async def ready(self) -> Response:
        """Report whether the server takes requests."""
        return JSONResponse({"ready": not self._stopping}, 503 if self._stopping else 200)

    async def model(self, model_name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        """Describe a model: inputs, outputs, classes."""
        segmenter = self._model(model_name).segmenter
        _check_version(version)
        return open_inference.model_metadata(model_name, segmenter.classes, str(segmenter))

    async def model_ready(
        self, model_name: str, version: str = open_inference.VERSION
    ) -> dict[str, Any]:
        """Report that a model takes requests."""
        self._model(model_name)
        _check_version(version)
        return {"name": model_name, "ready": True}

    async def metrics(self) -> Response:
        """Return the figures for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> Response:
        """Show a page on which a picture can be tried."""
        return HTMLResponse(PAGE)


class _Asked(NamedTuple):
    """What a request for a prediction wants, and what has to be told of its picture."""

    answer: Answer
    headers: dict[str, str]


def _predicted(
    asked: _Asked, segmenter: Segmenter, pictures: list[Picture], labels: list[LabelMap]
) -> Response:
    result = Segmentation(labels[0], pictures[0], segmenter.classes, segmenter.colours)
    headers = {"Vary": "Accept", **asked.headers}
    return Response(
        asked.answer.encode(result), media_type=asked.answer.media_type, headers=headers
    )


def _check_version(version: str) -> None:
    if version != open_inference.VERSION:
        raise Refusal(404, f"no such version: every model has the version {open_inference.VERSION}")


def create_application(
    models: Sequence[ServedModel],
    limits: Limits,
    metrics: Metrics,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """Return the ASGI application that serves these models.

    Pages of the ``origins`` may use it from a browser; ``*`` stands for all pages.
    """
    routes = Application(models, limits, metrics)
    app = FastAPI(
        title="sctnet",
        version=version("sctnet"),
        description=descriptions.SERVER,
        lifespan=routes.lifespan,
        redoc_url=None,
    )
    app.add_middleware(RequestMiddleware, metrics=metrics, api_key=api_key)
    if origins:  # outside: a browser asks without the key whether it may send one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Encoding", "Content-Type", _BINARY_HEADER],
            expose_headers=["X-Request-Id", "Retry-After", FRAMES, _BINARY_HEADER],
        )
    for kind in (Refusal, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    v2, model = "/v2", "/v2/models/{model_name}"
    answers: dict[str, Any] = {"responses": descriptions.ERRORS}
    app.get("/", include_in_schema=False)(routes.page)
    app.get("/metrics", response_class=Response, responses=descriptions.METRICS)(routes.metrics)
    app.post(
        "/predict",
        response_class=Response,
        responses=descriptions.PREDICTED,
        openapi_extra=descriptions.PREDICT_BODY,
    )(routes.predict)
    app.get(v2, **answers)(routes.server)
    app.get(f"{v2}/health/live", **answers)(routes.live)
    app.get(f"{v2}/health/ready", **answers)(routes.ready)
    for place in (model, f"{model}/versions/{{version}}"):
        app.get(place, **answers)(routes.model)
        app.get(f"{place}/ready", **answers)(routes.model_ready)
        app.post(
            f"{place}/infer",
            response_class=Response,
            responses=descriptions.INFERRED,
            openapi_extra=descriptions.INFER_BODY,
        )(routes.infer)
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    """Answer an error with one sentence, in the format of the protocol."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        status, message, headers = error.status, str(error), error.headers
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}: see /docs for what there is"
        headers = dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        status, message = 400, f"{first['loc'][-1]}: {first['msg']}"
    else:
        status, message = 500, "the server failed, and its log says why: try again"
    return JSONResponse({"error": message}, status, headers)
