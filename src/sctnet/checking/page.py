"""The report of a check as one HTML page with pictures, which needs no other file."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from sctnet.checking.check import Report
from sctnet.checking.findings import Finding
from sctnet.data.dataset import FileDataset, SegmentationDataset
from sctnet.data.images import read_mask
from sctnet.errors import SctnetError
from sctnet.pictures.overlay import overlay
from sctnet.pictures.palette import Colour, default_palette
from sctnet.writing import write_whole

_WIDEST = 480  # pixels of a thumbnail's longer side: letters of a legend are readable
_SHOWN_VALUES = 8
_SAMPLES = 4  # of each split

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Check of {{ report.source }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
section { border-left: 4px solid #c90; margin: 1.5rem 0; padding-left: 1rem; }
section.error { border-color: #c22; }
h2 { font-size: 1.05rem; margin: 0; }
li { overflow-wrap: anywhere; }
figure { display: inline-block; margin: .4rem .8rem .4rem 0; max-width: 30rem;
  vertical-align: top; }
figure img { max-width: 100%; }
figcaption { font-size: .85rem; color: #555; overflow-wrap: anywhere; }
.chip { display: inline-block; width: .8em; height: .8em; margin-right: .5em; }
</style>
</head>
<body>
<h1>Check of {{ report.source }}</h1>
<p>Errors: {{ errors }}, warnings: {{ report.findings | length - errors }}.
Suggested: {{ report.suggestions() | join(" ") }}</p>
<table>
<tr><th>split</th><th>pictures</th><th>commonest size</th><th>sizes</th><th>ignored %</th></tr>
{% for row in splits %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for finding, figures in findings %}
<section class="{{ 'error' if finding.is_error else 'warning' }}">
<h2>{{ 'Error' if finding.is_error else 'Warning' }}: {{ finding.cause }}
in {{ finding.split }}{% if finding.count %} ({{ finding.count }}){% endif %}</h2>
<p>{{ finding.sentence }}</p>
{% if finding.details %}<ul>{% for detail in finding.details %}<li>{{ detail }}</li>{% endfor %}
</ul>{% endif %}
{% for caption, picture in figures %}
<figure>{% if picture %}<img src="{{ picture }}" alt="">{% endif %}
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</section>
{% endfor %}
{% for name, figures in samples %}
<h2>Samples of {{ name }}</h2>
{% for caption, picture in figures %}
<figure>{% if picture %}<img src="{{ picture }}" alt="">{% endif %}
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% endfor %}
<h2>Classes</h2>
{% if report.diagnoses %}<p>As the masks are read now, with the errors above.</p>{% endif %}
<table>
<tr><th>class</th>
{% for name in report.labelled_tallies %}<th>{{ name }} %</th><th>pictures</th>{% endfor %}
<th>suggested weight</th></tr>
{% for colour, row in classes %}<tr>{% for cell in row %}<td>
{%- if loop.first %}<span class="chip" style="background: rgb{{ colour }}"></span>{% endif -%}
{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
</body>
</html>
"""


def save_check_page(report: Report, path: str | Path) -> None:
    """Write the page: splits, findings with pictures, samples, classes. Nothing is linked.

    Samples show what no rule finds: labels that lie beside their things, and names swapped.

    Raises :class:`SctnetError` where the file cannot be written.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(_TEMPLATE)
    page = template.render(
        report=report,
        errors=sum(finding.is_error for finding in report.findings),
        splits=_split_rows(report),
        findings=[(finding, _figures(report, finding)) for finding in report.findings],
        samples=[(split.name, _samples(report, split.name)) for split in report.splits],
        classes=list(
            zip(_colours(report.classes, report.colours), report.class_rows(), strict=True)
        ),
    )
    write_whole(path, page.encode("utf-8", "replace"))


def _split_rows(report: Report) -> list[list[Any]]:
    rows = []
    for name, tally in report.tallies.items():
        size = "".join(f"{width} x {height}" for (height, width), _ in tally.sizes.most_common(1))
        ignored = f"{100 * report.ignored_share(name):.2f}"
        rows.append([name, tally.pictures, size, len(tally.sizes), ignored])
    return rows


def _figures(report: Report, finding: Finding) -> list[tuple[str, str]]:
    """Return captions and pictures as data URIs; an empty one where a file cannot be read."""
    data = {split.name: split.data for split in report.splits}
    diagnosed = {diagnosis.cause for diagnosis in report.diagnoses.values()}
    return [
        figure
        for name, index in finding.pictures
        for figure in _pair(data[name], index, raw=finding.cause in diagnosed)
    ]


def _samples(report: Report, name: str) -> list[tuple[str, str]]:
    """Return some pictures of a split, spread evenly, with their labels over them."""
    data = next(split.data for split in report.splits if split.name == name)
    if not data.labelled or not len(data):
        return []
    numbers = np.unique(np.linspace(0, len(data) - 1, min(len(data), _SAMPLES)).astype(int))
    return [
        figure
        for index in numbers.tolist()
        for figure in _pair(data, index, raw=name in report.diagnoses)
    ]


def _pair(data: SegmentationDataset, index: int, raw: bool) -> list[tuple[str, str]]:
    """Show a picture and its labels, or its mask as it is where it was meant to hold others."""
    try:
        image = _shrunk(data.image(index))
    except SctnetError:
        return [(f"{data.item_name(index)}: cannot be read", "")]
    mask = _raw_figure(data, index) if raw else _mask_figure(data, index, image)
    return [(data.item_name(index), _uri(image)), mask]


def _mask_figure(
    data: SegmentationDataset, index: int, image: UInt8[np.ndarray, "h w 3"]
) -> tuple[str, str]:
    """Show labels over the picture, or what a mask stores where it holds no labels."""
    try:
        labels = _shrunk(data.labels(index))
    except SctnetError:
        return _raw_figure(data, index)
    if labels.shape != image.shape[:2]:
        return _raw_figure(data, index)
    return "labels", _uri(
        overlay(image, labels, _colours(data.classes, data.colours), data.classes)
    )


def _raw_figure(data: SegmentationDataset, index: int) -> tuple[str, str]:
    if not isinstance(data, FileDataset):
        return "no labels can be shown", ""
    try:
        values = read_mask(data.files[index].mask)
    except SctnetError:
        return "the mask cannot be read", ""
    if values.ndim == 3:
        return "the mask as it is", _uri(_shrunk(values))
    found, ranks = np.unique(_shrunk(values), return_inverse=True)
    colours = np.array(default_palette(min(len(found), 254)), np.uint8)
    named = ", ".join(str(value) for value in found[:_SHOWN_VALUES])
    more = " ..." if len(found) > _SHOWN_VALUES else ""
    return f"the mask's values in colours: {named}{more}", _uri(colours[ranks % len(colours)])


def _shrunk(array: Integer[np.ndarray, "h w *c"]) -> Integer[np.ndarray, "h2 w2 *c"]:
    """Scale to a thumbnail without mixing values, by taking every n-th pixel."""
    height, width = array.shape[:2]
    scale = min(1.0, _WIDEST / max(height, width))
    rows = (np.arange(max(1, round(height * scale))) / scale).astype(int).clip(max=height - 1)
    columns = (np.arange(max(1, round(width * scale))) / scale).astype(int).clip(max=width - 1)
    return np.asarray(array[rows][:, columns])


def _colours(classes: Sequence[str], colours: Sequence[Colour] | None) -> Sequence[Colour]:
    return colours or (default_palette(len(classes)) if classes else ())


def _uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 88]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)
    return "data:image/jpeg;base64," + b64encode(content.tobytes()).decode()
