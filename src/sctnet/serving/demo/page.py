"""The demonstration page: drop a picture or a video, or use the camera, and see its classes."""

import base64
from pathlib import Path
from typing import Any

import cv2

from sctnet.data.picture_files import VIDEO_ENDINGS
from sctnet.pictures.encoding import encode_picture
from sctnet.serving.demo.labelling import EXAMPLES, DemoLabelling, example_picture
from sctnet.serving.demo.quiet_gradio import gradio
from sctnet.serving.demo.results import (
    MAX_BYTES,
    MAX_PICTURE_PIXELS,
    MAX_VIDEO_SECONDS,
    Packed,
)

_ASSETS = Path(__file__).parent / "assets"

_LIMITS = (
    f"Pictures of up to {MAX_PICTURE_PIXELS // 1_000_000} million pixels, videos of up to "
    f"{MAX_VIDEO_SECONDS} seconds, {MAX_BYTES // 2**20} MB at most. "
    "Nothing leaves this computer, nothing is kept."
)
_OPACITY = 50  # percent
_SET_OPACITY = """(percent) => {
  document.documentElement.style.setProperty("--class-opacity", percent / 100);
}"""


def _path(payload: Any) -> str | None:
    """Return the path of the one file of a drop zone, which gradio has found among its uploads."""
    return str(payload.path) if isinstance(payload, gradio.FileData) else None


def build_page(labelling: DemoLabelling) -> gradio.Blocks:
    """Return the page as gradio's blocks."""
    models = list(labelling.segmenters)

    def overlay(asked: list[Any]) -> Packed:
        token, opacity = asked
        return labelling.overlay(str(token), float(opacity))

    page: gradio.Blocks
    with gradio.Blocks(title="sctnet", analytics_enabled=False, fill_width=True) as page:
        gradio.HTML(_asset("heading.html").replace("LIMITS", _LIMITS), elem_id="heading")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                with gradio.Tab("File"):
                    upload = gradio.File(
                        label="Drop a picture or a video",
                        file_types=["image", "video", *sorted(VIDEO_ENDINGS)],
                        height=190,
                        elem_id="upload",
                    )
                    # gradio's own component leaves an empty file beside each upload, and for a
                    # derived class gradio writes a file beside this one.
                    setattr(upload, "preprocess", _path)  # noqa: B010 - mypy sees a method
                with gradio.Tab("Camera"):
                    camera = gradio.Image(
                        label="Take a picture",
                        sources=["webcam"],
                        type="filepath",
                        image_mode=None,  # or gradio would decode it, whatever its size
                        webcam_options=gradio.WebcamOptions(mirror=False),
                        height=260,
                        elem_id="camera",
                    )
                examples = gradio.HTML(
                    "".join(_thumbnail(number) for number in range(len(EXAMPLES))),
                    html_template=_asset("examples.html"),
                    css_template=_asset("examples.css"),
                    js_on_load=_asset("examples.js"),
                    apply_default_css=False,
                    elem_id="examples",
                )
                model = gradio.Dropdown(models, value=models[0], label="Model", elem_id="model")
                opacity = gradio.Slider(
                    0,
                    100,
                    _OPACITY,
                    step=1,
                    label="Opacity, %",
                    buttons=[],
                    elem_id="opacity",
                    info="Of pictures at once, of videos before they are dropped.",
                )
            with gradio.Column(scale=4, min_width=320):
                viewer = gradio.HTML(
                    None,
                    html_template='<div class="viewer"></div>',
                    css_template=_asset("viewer.css"),
                    js_on_load=_asset("viewer.js"),
                    server_functions=[overlay],
                    apply_default_css=False,
                    elem_id="viewer",
                )
        # One at a time: they share the processor.
        alone: dict[str, Any] = {"concurrency_id": "labelling", "concurrency_limit": 1}
        upload.upload(
            labelling.label_upload, [upload, model, opacity], [viewer, upload], api_name="label",
            show_progress_on=viewer, **alone,
        )  # fmt: skip
        camera.input(
            labelling.label_upload, [camera, model, opacity], [viewer, camera],
            api_visibility="private", show_progress_on=viewer, **alone,
        )  # fmt: skip
        examples.select(labelling.label_example, model, viewer, api_visibility="private", **alone)
        model.input(labelling.label_again, model, viewer, api_visibility="private", **alone)
        opacity.change(None, opacity, None, js=_SET_OPACITY)

        def close(request: gradio.Request) -> None:
            session = str(request.session_hash)
            labelling.sessions.close(session)
            labelling.remove_abandoned()
            page.state_holder.session_data.pop(session, None)  # gradio would hold it for an hour

        page.unload(close)
    return page


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _thumbnail(number: int) -> str:
    small = cv2.resize(example_picture(number), (160, 120), interpolation=cv2.INTER_AREA)
    source = base64.b64encode(encode_picture(small, ".jpg")).decode()
    name = EXAMPLES[number].removesuffix(".png")
    return (
        f'<button type="button" data-number="{number}" title="{name}">'
        f'<img alt="{name}" src="data:image/jpeg;base64,{source}"></button>'
    )
