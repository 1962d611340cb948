"""Write the pages of the site that are made from the code, `results/` and `CHANGELOG.md`.

    python tools/site_pages.py

Commands, recipes, HTTP routes, figures and changes appear in docs/reference/ when the site is
built; they are never committed.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import readme_figures
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sctnet.cli import app
from sctnet.training.recipe import (
    ClassificationRecipe,
    Recipe,
    SegmentationRecipe,
    load_recipe,
    shipped_recipes,
)
from sctnet.training.recipe_part import RecipePart
from sctnet.writing import write_text

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write the pages; nothing is written where nothing changed."""
    pages = {
        "commands": commands(),
        "recipes": recipes(),
        "http": http_routes(),
        "figures": figures(),
        "changes": re.sub(
            r"\]\(docs/", "](../", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        ),
    }
    for name, text in pages.items():
        path = ROOT / "docs" / "reference" / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


# Commands, from Typer.


def commands() -> str:
    """Return the page of all commands with all their arguments and options."""
    parts = [
        "# Commands",
        "Exit status: 0; 1 where some inputs failed, the others are done; 2 for a mistake in the "
        "command, told in one sentence; 130 after Ctrl-C. `NO_COLOR=1` leaves out colours, `sctnet "
        "--quiet COMMAND` the bars that move. A file gets its name when it is complete. `sctnet "
        "--install-completion` teaches your shell to complete commands and options.",
    ]
    for name, command in _leaves(typer.main.get_command(app), "sctnet"):
        parts += [f"## {name}", _described(command, name)]
    return "\n\n".join(parts) + "\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something."""
    below = getattr(command, "commands", {})
    if command.invoke_without_command if below else True:
        yield name, command
    for each, inner in below.items():
        yield from _leaves(inner, f"{name} {each}")


def _described(command: Any, name: str) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    rows = [
        (
            f"`{_names(each)}`",
            _kind(each),
            "required" if each.required else _default(each.default),
            each.help or "",
        )
        for each in command.params
        if each.name != "help"
    ]
    table = _table(("", "takes", "default", "meaning"), rows) if rows else ""
    return f"```\n{name} {usage}\n```\n\n{inspect.cleandoc(command.help or '')}\n\n{table}"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "nothing"
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("from", parameter.min), ("to", parameter.max))
        if bound is not None
    ]
    several = parameter.multiple or parameter.nargs == -1
    annotation = parameter.type_descriptor.annotation
    kind = _type_name(get_args(annotation)[0] if several else annotation).removesuffix(" or null")
    return " ".join([kind, *bounds]) + (", several" if several else "")


def _default(value: Any) -> str:
    return "" if value in (None, False, "", ...) else f"`{value}`"


# Recipes, from their models.


def recipes() -> str:
    """Return the page of all recipes and all their fields."""
    parts = [
        "# Recipes",
        "A recipe is a YAML file with the fields below. On the command line a field is set as "
        "`part.field=value`, as in `sctnet train RECIPE run.seed=1 'augmentation.crop=[512,512]'`. "
        "A recipe may name one other as its `base` and override fields of it. An unknown field is "
        "refused.",
        "## Shipped recipes",
        "`sctnet recipes show NAME` prints all fields of one.",
        _table(
            ("recipe", "network", "what it is"),
            [
                (f"`{name}`", f"`{(r := load_recipe(name)).model.variant}`", r.description)
                for name in shipped_recipes()
            ],
        ),
    ]
    for title, model in (
        ("Segmentation", SegmentationRecipe),
        ("Classification", ClassificationRecipe),
    ):
        parts += [f"## {title}", *_fields(model, title.lower())]
    return "\n\n".join(parts) + "\n"


def _fields(model: type[BaseModel], task: str, path: str = "") -> Iterator[str]:
    """Yield the table of a part, then those of the parts below it."""
    rows, below = [], []
    meanings = attribute_docstrings(model)
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *get_args(field.annotation)) if is_part(each)]
        key = f"{path}{name}"
        meaning = " ".join(filter(None, [_sentence(field.description), meanings.get(name, "")]))
        if inner:
            meaning = " ".join(
                filter(None, [meaning, f"[Its fields](#{task}-{key.replace('.', '-')})."])
            )
            below.append((inner[0], key))
        rows.append((f"`{key}`", _type(field), _field_default(field, bool(inner)), meaning))
    if path:
        yield f"### {path[:-1]} {{#{task}-{path[:-1].replace('.', '-')}}}"
    yield _plain(documentation(model))
    yield _table(("field", "type", "default", "meaning"), rows)
    for part, key in below:
        yield from _fields(part, task, f"{key}.")


def documentation(model: type[BaseModel]) -> str:
    """Return what the docstrings of a part, and of the part that it extends, say."""
    parts = [
        each
        for each in model.__mro__
        if is_part(each) and each not in (BaseModel, RecipePart, Recipe)
    ]
    return "\n\n".join(inspect.cleandoc(each.__doc__ or "") for each in parts)


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the texts that stand below the fields of a model and of its bases."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not is_part(each) or each is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(field.target, ast.Name)
            ):
                found[field.target.id] = _plain(" ".join(str(ast.literal_eval(text.value)).split()))
    return found


def is_part(annotation: Any) -> bool:
    """Say whether this is a part of a recipe, with fields of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sentence(text: str | None) -> str:
    if not text:
        return ""
    first = text[0].upper() if text.split()[0].strip(",;").isalpha() else text[0]
    return first + text[1:].rstrip(".") + "."


def _plain(docstring: str) -> str:
    """Return a docstring as Markdown: literals in single backticks, roles as names."""
    docstring = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring)
    return docstring.replace("``", "`")


def _type(field: FieldInfo) -> str:
    text = _type_name(field.annotation)
    bounds = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    limits = [
        f"{word} {getattr(each, key):g}"
        for each in field.metadata
        for key, word in bounds.items()
        if getattr(each, key, None) is not None
    ]
    return " ".join([text, *limits])


def _type_name(annotation: Any) -> str:
    words: dict[Any, str] = {
        str: "text", int: "whole number", float: "number", bool: "true or false",
        type(None): "null", Any: "anything", Path: "path",
    }  # fmt: skip
    if annotation in words:
        return words[annotation]
    if is_part(annotation):
        return "fields"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        several = [each for each in inner if each is not ...]
        return f"[{', '.join(map(_type_name, several))}{', ...' if ... in inner else ''}]"
    if origin is dict:
        return "fields"
    if origin is not None and "Literal" in str(origin):
        return ", ".join(f"`{each}`" for each in inner)
    if origin is not None and "Annotated" in str(annotation):
        return _type_name(inner[0])
    return " or ".join(map(_type_name, inner)) or str(annotation)


def _field_default(field: FieldInfo, is_part: bool) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if is_part and value is not None:
        return "its defaults"
    shown = json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"`{shown}`"


# HTTP routes, from the server's own description.


def http_routes() -> str:
    """Return the page of the server's routes."""
    from sctnet.serving.http.application import create_application
    from sctnet.serving.http.limits import Limits
    from sctnet.serving.http.metrics import Metrics

    described = create_application([SimpleNamespace(name="model")], Limits(), Metrics()).openapi()  # type: ignore[list-item]
    parts = [
        "# HTTP",
        "What `sctnet serve` answers; [Serving](../serving.md) has examples, and the server itself "
        "tells the same at `/openapi.json`.",
    ]
    for path, methods in described["paths"].items():
        if "{version}" in path:  # the same, for a version of the model
            continue
        for method, route in methods.items():
            parts += [
                f"## {method.upper()} {path}",
                _plain(inspect.cleandoc(route.get("description", ""))),
            ]
            given = [
                (f"`{each['name']}`", each["in"], each.get("description", ""))
                for each in route.get("parameters", [])
            ]
            if given:
                parts.append(_table(("parameter", "in", "meaning"), given))
            bodies = route.get("requestBody", {}).get("content", {})
            if bodies:
                parts.append("Body: " + ", ".join(f"`{kind}`" for kind in bodies) + ".")
            answers = [
                (
                    f"{status}",
                    ", ".join(f"`{kind}`" for kind in answer.get("content", {})),
                    answer["description"],
                )
                for status, answer in route["responses"].items()
            ]
            parts.append(_table(("status", "type", "meaning"), answers))
    return "\n\n".join(parts) + "\n"


# Figures, from results/.


def figures() -> str:
    """Return the page of measured figures, each with its machine and its command."""
    rows = []
    for path in sorted((ROOT / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        rows.append(
            (
                f"`{path.stem}`",
                str(
                    found.get("what")
                    or found.get("data")
                    or found.get("recipe")
                    or found.get("model")
                    or ""
                ),
                str(found.get("processor") or found.get("device") or ""),
                str(found.get("threads", "")),
                f"`{found.get('command') or _benchmark(path.stem)}`",
                f"`{found.get('commit', '')}`",
            )
        )
    runs = []
    for path in sorted((ROOT / "results").rglob("scores.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        if "miou" in scores:
            runs.append(
                (
                    f"`{path.parent.relative_to(ROOT / 'results')}`",
                    f"{100 * scores['miou']:.1f}",
                    f"{100 * scores['pixel_accuracy']:.1f}",
                    str(scores.get("model", "")),
                    str(scores.get("data", "")),
                    f"`{scores.get('commit', '')}`",
                )
            )
    return (
        "\n\n".join(
            [
                "# Figures",
                "Every figure on this site and in the README was measured. This page is made from "
                "the files of `results/` when the site is built. Nothing was measured on a GPU "
                "yet. The machines were shared: compare figures of one table, not of two.",
                "## In words",
                readme_figures.figures().strip(),
                "## On a CPU and on a GPU",
                _order_of_networks(),
                "## Scores",
                "In %. Each folder of `results/` has the resolved recipe, the curve, the scores of "
                "every class and, where there is more to tell, a README with the commands.",
                _table(("run", "mIoU", "pixels", "model", "pictures", "commit"), runs),
                "## Times and memory",
                _table(("file", "what", "processor", "threads", "command", "commit"), rows),
            ]
        )
        + "\n"
    )


_PAPER_FPS = {"sctnet-b": (105.0, 62.8), "ddrnet-23-slim": (138.9, 106.7)}
"""Table 1 at 2048x1024 on an RTX 3090: TensorRT, PyTorch."""


def _order_of_networks() -> str:
    """Compare SCTNet-B with DDRNet-23-slim, in the paper and on a CPU."""
    report = json.loads((ROOT / "results" / "deployment_avx512.json").read_text(encoding="utf-8"))
    times = {
        (row["model"], row["how"], row["precision"]): row["milliseconds"] for row in report["rows"]
    }

    def fastest(model: str) -> float:
        return min(
            ms
            for (name, how, what), ms in times.items()
            if (name, what) == (model, "fp32") and "plain" not in how
        )

    plain = [times[model, "onnx, plain", "fp32"] for model in _PAPER_FPS]
    best = [fastest(model) for model in _PAPER_FPS]
    rows = [
        (
            f"RTX 3090, {name}, 2048x1024 (Table 1)",
            *(f"{1000 / fps[i]:.1f} ms" for fps in _PAPER_FPS.values()),
            f"{_PAPER_FPS['ddrnet-23-slim'][i] / _PAPER_FPS['sctnet-b'][i]:.2f}",
        )
        for i, name in enumerate(("TensorRT", "PyTorch"))
    ]
    for what, pair in (("plain ONNX", plain), ("fastest form, fp32", best)):
        rows.append(
            (
                f"two CPU cores, {what}, 512x1024",
                *(f"{ms:.1f} ms" for ms in pair),
                f"{pair[0] / pair[1]:.2f}",
            )
        )
    return _table(("", *(f"`{name}`" for name in _PAPER_FPS), "ratio"), rows)


def _benchmark(stem: str) -> str:
    """Return the command that wrote a file of results."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        if re.search(rf"\b{stem}\.json", path.read_text(encoding="utf-8")):
            return f"python benchmarks/{path.name}"
    if stem.startswith("deployment_"):
        return "make bench-deploy"
    if stem == "tables":
        return "make bench-tables"
    return "see its benchmark"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
