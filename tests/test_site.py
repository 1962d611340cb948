"""The pages of the site that are made from the code, and the check of its links."""

import importlib.util
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from sctnet.training.recipe import ClassificationRecipe, SegmentationRecipe

TOOLS = Path(__file__).parents[1] / "tools"


def tool(name):
    """Import a file of tools/."""
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


pages = tool("site_pages")


def unexplained(model: type[BaseModel], path: str = "") -> list[str]:
    """Return the fields of which neither a text beside them nor their part's says the meaning."""
    found = []
    texts = pages.attribute_docstrings(model)
    for name, field in model.model_fields.items():
        inner = [
            each
            for each in (field.annotation, *pages.get_args(field.annotation))
            if pages.is_part(each)
        ]
        if inner:
            found += unexplained(inner[0], f"{path}{name}.")
        elif not (
            field.description or name in texts or f"``{name}``" in pages.documentation(model)
        ):
            found.append(f"{path}{name}")
    return found


@pytest.mark.parametrize("recipe", [SegmentationRecipe, ClassificationRecipe])
def test_every_field_of_a_recipe_is_explained(recipe):
    assert unexplained(recipe) == []


def test_every_command_has_its_options_on_the_page():
    page = pages.commands()
    assert "## sctnet data check" in page
    for option in ("`--dry-run`", "`--flip, --no-flip`", "`--fix`", "`--allow-origin`"):
        assert option in page


def test_every_route_is_on_the_page():
    page = pages.http_routes()
    for route in ("## POST /predict", "## POST /v2/models/{model_name}/infer", "## GET /metrics"):
        assert route in page


def test_figures_name_machine_and_command():
    page = pages.figures()
    assert "python benchmarks/serving.py" in page
    assert "see its benchmark" not in page


def site(folder: Path, body: str) -> Path:
    (folder / "index.html").write_text(f'<h2 id="here">Here</h2>{body}')
    return folder


@pytest.mark.parametrize(
    "link", ['<a href="none.html">', '<a href="#there">', '<img src="none.png">',
             '<script src="https://example.org/a.js">']
)  # fmt: skip
def test_a_link_to_nowhere_is_told(tmp_path, link):
    assert len(list(tool("site_links").mistakes(site(tmp_path, link)))) == 1


def test_links_that_lead_somewhere_are_not_told(tmp_path):
    body = '<a href="#here"><a href="index.html#here"><a href="https://example.org"><a href="/">'
    body = body.replace('<a href="/">', '<a href=".">')
    assert list(tool("site_links").mistakes(site(tmp_path, body))) == []
