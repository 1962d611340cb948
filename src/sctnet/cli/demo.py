"""``sctnet demo``."""

from typing import Annotated

import typer

from sctnet.cli.options import PRECISIONS


def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Models to choose from: folders, bundled names, hub ids. Default: all bundled.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on this machine; 0 takes any free port.")
    ] = 7860,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
) -> None:
    """Open a web page on this machine that labels pictures, videos and what the camera sees.

    Nothing leaves the machine, and nothing is kept. Ctrl-C ends it.
    """
    import webbrowser

    from sctnet.checkpoints.model_folder import bundled_models
    from sctnet.inference.segmenter import Segmenter
    from sctnet.serving.demo.server import serve_demo

    def ready(address: str) -> None:
        print(f"Open {address} (Ctrl-C ends it)", flush=True)  # noqa: T201
        if open_browser:
            webbrowser.open(address)

    names = dict.fromkeys(models or bundled_models())
    serve_demo({name: Segmenter(name, device, precision) for name in names}, port, ready)
