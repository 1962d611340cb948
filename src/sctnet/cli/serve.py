"""``sctnet serve``."""

from typing import Annotated

import typer

from sctnet.cli.options import FLIP, PRECISIONS, SCALES, TILE, numbers


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Model folders, bundled names, hub ids, exported files; settings of one follow "
            "it: MODEL,name=street,precision=bf16,device=cpu,workers=2,batch=4,delay=2,"
            "scales=1+1.5,flip=true,tile=512."
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads a model; default: one a core, 1 on a GPU.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures of one size at a time, at most; default: 4, in fp32 on a CPU 2."
        ),
    ] = None,
    delay: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a picture waits for others, at most.")
    ] = 2.0,
    scales: Annotated[str, typer.Option(help=SCALES)] = "1.0",
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help=FLIP)] = None,
    tile: Annotated[int | None, typer.Option(min=32, help=TILE)] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests a model accepts at once; more are answered 429.")
    ] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take.")] = 30.0,
    max_megabytes: Annotated[float, typer.Option(help="Of a request's body.")] = 64.0,
    max_megapixels: Annotated[
        float, typer.Option(help="Of all pictures of a request, checked before they are decoded.")
    ] = 20.0,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A page's origin that may use it from a browser (CORS), or *; repeat."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SCTNET_API_KEY",
            help="What clients have to send. Others on this machine see a command line, not the "
            "variable.",
        ),
    ] = None,
) -> None:
    """Serve models over HTTP: POST /predict, and the Open Inference Protocol at /v2.

    Writes one line of JSON a request. SIGHUP reloads the models without dropping a request;
    SIGTERM and Ctrl-C finish what was accepted.
    """
    from sctnet.errors import SctnetError
    from sctnet.serving.http.limits import Limits

    try:
        from sctnet.serving.http.served_model import read_choices
        from sctnet.serving.http.server import serve as run
    except ImportError as error:
        raise SctnetError(f'{error.name} is missing: pip install "sctnet[serve]"') from error
    defaults = {
        "precision": precision, "device": device, "workers": workers,
        "batch": batch, "delay": delay, "scales": numbers("--scales", scales), "flip": flip,
        "tile": tile,
    }  # fmt: skip
    limits = Limits(int(max_megabytes * 1e6), int(max_megapixels * 1e6), timeout, queue)
    run(read_choices(models, defaults), host, port, limits, api_key, allow_origin or ())
