"""``sctnet data``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check and prepare labels before training.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Check and prepare labels before training."""


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="A data set's root or YAML file.")],
    splits: Annotated[
        str, typer.Option(help="Which, such as train,val. Default: all but repetitions of others.")
    ] = "",
    fix: Annotated[
        Path | None,
        typer.Option(
            help="Of a YAML data set: write a corrected YAML file here, or, for a name without "
            ".yaml, a folder of mended masks with one."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures of what was found.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the findings for programs.")] = None,
) -> None:
    """Read every picture and mask, and report what would spoil a run.

    Reports missing pairs, unreadable files, masks that do not hold the classes (and why), rare and
    absent classes, and pictures in two splits; suggests class weights and a crop. Never changes the
    originals. The exit status is 1 if something would spoil training.
    """
    from rich.console import Console

    from sctnet.checking.check import check_dataset, open_splits
    from sctnet.checking.fixes import check_target, write_fix
    from sctnet.checking.page import save_check_page
    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import check_summary
    from sctnet.writing import write_whole

    names = [name.strip() for name in splits.split(",") if name.strip()]
    if fix is not None:
        check_target(fix, source)
    opened = open_splits(source, names)
    with counting_progress("reading", sum(len(split.data) for split in opened)) as progress:
        report = check_dataset(source, opened, progress)
    Console(highlight=False, soft_wrap=True).print(*check_summary(report), sep="\n")
    if json is not None:
        write_whole(json, report.to_json().encode())
        print(f"Written to {json}")  # noqa: T201
    if html is not None:
        save_check_page(report, html)
        print(f"Written to {html}")  # noqa: T201
    if fix is not None:
        for line in write_fix(report, fix):
            print(line)  # noqa: T201
    if report.has_errors:
        raise typer.Exit(1)


@app.command()
def prepare(
    root: Annotated[Path, typer.Argument(help="The root of a COCO-Stuff-10K, as unpacked.")],
) -> None:
    """Turn labels that are slow to read into PNGs, once: the .mat files of COCO-Stuff-10K.

    You can interrupt it and run it again. Broken files are named, and the exit status is then 1.
    """
    from sctnet.cli.progress import console, progress_bar
    from sctnet.data.prepared_labels import prepare_cocostuff

    with progress_bar() as progress:
        bar = progress.add_task("preparing", total=None, text="")
        prepared = prepare_cocostuff(
            root, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    for failure in prepared.failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    print(  # noqa: T201
        f"{root}: {prepared.written} label maps written, {prepared.present} were there, "
        f"{len(prepared.failures)} failed"
    )
    if prepared.failures:
        raise typer.Exit(1)


@app.command()
def suggest(
    model: Annotated[str, typer.Argument(help="A model folder, bundled name, hub id or file.")],
    pictures: Annotated[
        list[str],
        typer.Option(help="A folder, glob, list (.txt) or video; may be given several times."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the pictures and their labels.")],
    number: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 20,
) -> None:
    """Choose pictures worth labelling next: the model is unsure of them, and they differ.

    Writes them with the model's labels as a start, for LabelMe and as COCO, a sheet, a list, and
    data.yaml, by which the corrected labels train.
    """
    from sctnet.cli.progress import counting_progress
    from sctnet.errors import printable
    from sctnet.unlabelled.suggest import DATA_FILE, SHEET_FILE
    from sctnet.unlabelled.suggest import suggest as run

    with counting_progress("looking", None) as progress:
        found = run(model, pictures, number, out, progress)
    for remark in found.remarks:
        print(printable(remark))  # noqa: T201
    for picture, uncertainty in zip(found.pictures, found.uncertainties, strict=True):
        print(f"{100 * uncertainty:5.1f} % unsure  {printable(str(picture))}")  # noqa: T201
    print(  # noqa: T201
        f"{len(found.pictures)} of {found.looked_at} pictures; see {out / SHEET_FILE}, correct the "
        f"labels in {out / 'pictures'} (LabelMe) or {out / 'coco.json'}, and train with "
        f"--data {out / DATA_FILE}"
    )
