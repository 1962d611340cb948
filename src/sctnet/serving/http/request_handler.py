"""The way of a request: read, decode, label, encode, within a time limit and with a record."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sctnet.errors import SctnetError
from sctnet.inference.predictor import LabelMap
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture
from sctnet.serving.http.limits import Claim, Limits, Refusal
from sctnet.serving.http.metrics import RequestRecord
from sctnet.serving.http.micro_batcher import Finished
from sctnet.serving.http.reading import read_body
from sctnet.serving.http.served_model import ServedModel

RECORD = "sctnet.record"
"""Where a request's record is in its ASGI scope."""

Asked = TypeVar("Asked")
Unpack = Callable[[bytes, Claim], tuple[Asked, list[Picture]]]
"""Parses a body: returns the request and its pictures."""
Pack = Callable[[Asked, Segmenter, list[Picture], list[LabelMap]], Response]
"""Makes the answer from the request, the model, the pictures and their label maps."""


class Gone(Exception):  # noqa: N818 - not a mistake
    """The client has closed the connection."""


class Handler:
    """Handles requests; decoding and encoding have threads of their own.

    OpenCV, Pillow and zlib let other threads run while they work.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "sctnet-codec")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    async def handle(
        self, request: Request, model: ServedModel, unpack: Unpack[Asked], pack: Pack[Asked]
    ) -> Response:
        """Answer a request; raises :class:`Refusal` for one that cannot be answered."""
        record: RequestRecord = request.scope[RECORD]
        record.model = model.name
        with model.admission.enter() as claim:
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await self._stages(request, model, unpack, pack, claim)
            except TimeoutError as error:
                raise self._too_late("decode" in record.stages) from error
            except (ClientDisconnect, Gone) as error:
                raise Refusal(499, "the client has closed the connection") from error
            except MemoryError as error:
                raise Refusal(503, "out of memory: send smaller pictures") from error

    async def _stages(
        self,
        request: Request,
        model: ServedModel,
        unpack: Unpack[Asked],
        pack: Pack[Asked],
        claim: Claim,
    ) -> Response:
        record: RequestRecord = request.scope[RECORD]
        with record.stage("read"):
            declared = request.headers.get("content-length")
            body = await read_body(request.stream(), declared, self.limits, claim)
        record.bytes_in = len(body)
        with record.stage("decode"):
            asked, pictures = await self._in_pool(unpack, body, claim)
        del body
        record.pictures = len(pictures)
        record.pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
        segmenter, futures = model.submit(pictures)
        try:
            finished = await _unless_gone(request, futures)
        except SctnetError as error:  # for example too little memory
            raise Refusal(503, str(error)) from error
        finally:
            for future in futures:
                future.cancel()
        record.stages["queue"] = max(each.waited for each in finished)
        record.stages["infer"] = max(each.worked for each in finished)
        labels = [each.result for each in finished]
        with record.stage("encode"):
            return await self._in_pool(pack, asked, segmenter, pictures, labels)

    async def _in_pool(self, function: Callable[..., Asked], *arguments: object) -> Asked:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _too_late(self, was_read: bool) -> Refusal:
        limit = f"{self.limits.seconds:g} seconds"
        if was_read:
            return Refusal(503, f"not answered within {limit}: try again later")
        return Refusal(408, f"the body did not arrive within {limit}", {"Connection": "close"})


async def _unless_gone(
    request: Request, futures: list[Future[Finished[LabelMap]]]
) -> list[Finished[LabelMap]]:
    """Wait for results; raise :class:`Gone` as soon as the client has left."""
    results = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.ensure_future(_closed(request))
    waiting: set[asyncio.Future[Any]] = {results, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if results.done():
            return await results
        raise Gone
    finally:
        results.cancel()
        gone.cancel()


async def _closed(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
