"""Lists of files in the place of folders: a text with a picture, or a picture and its mask, a line.

Both are divided by a tab, a comma, a semicolon or spaces, whichever gives two files. A path is
relative to the YAML file, or else to the list. Where ``masks`` is a folder, a picture's mask is the
one there that shares most of the end of its path; where it is a list, the one on the same line.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath

from sctnet.data.dataset import Files
from sctnet.data.dataset_yaml import FolderConfig, Listed, is_list
from sctnet.data.pairing import (
    MASK_SUFFIXES,
    Mismatch,
    Paired,
    complain_of_folder,
    find_masks,
    mask_stem,
)
from sctnet.data.picture_files import is_file
from sctnet.errors import SctnetError, shortened

_DIVIDED_BY = "\t,;"

Row = tuple[Path, ...]
"""A picture, or a picture and its mask."""


def find_listed(
    base: Path, config: FolderConfig, split: str, complain: Callable[[Mismatch], None]
) -> Paired:
    """Return the pictures of a split that is listed, in the order of the list, with their masks.

    ``complain`` is told of everything that does not pair; where it returns, the rest is paired.
    Raises :class:`SctnetError` for a list that cannot be read.
    """
    rows = _read(base, config.images[split], f"images.{split}")
    masks = config.masks.get(split)
    if masks is None:
        mask_of: Callable[[int, Row], Path | None] = _beside
    elif is_list(masks):
        listed = _read(base, masks, f"masks.{split}")
        if len(listed) != len(rows):
            raise SctnetError(
                f"masks.{split}: {len(listed)} masks are listed for {len(rows)} pictures: list "
                "one for each, in the same order"
            )
        mask_of = partial(_on_the_same_line, listed)
    else:
        assert isinstance(masks, Path)
        folder = base / masks
        if not folder.is_dir():
            complain_of_folder(folder, f"masks.{split}", complain)
            return Paired([], {})
        pictures = {row[0] for row in rows}
        below = find_masks(folder, MASK_SUFFIXES, complain, pictures)
        mask_of = partial(_in_folder, base, config, below)
    return _paired(base, config, split, rows, mask_of, complain)


def _paired(
    base: Path,
    config: FolderConfig,
    split: str,
    rows: Sequence[Row],
    mask_of: Callable[[int, Row], Path | None],
    complain: Callable[[Mismatch], None],
) -> Paired:
    files: list[Files] = []
    image_of_mask: dict[Path, Path] = {}
    seen: set[Path] = set()
    unlabelled = 0
    for number, row in enumerate(rows):
        image, mask = row[0], mask_of(number, row)
        if image in seen:
            complain(Mismatch("listed-twice", f"{image} is listed twice in images.{split}"))
            continue
        seen.add(image)
        missing = next((path for path in (image, mask) if path and not is_file(path)), None)
        if missing is not None:
            sentence = f"{shortened(missing)} is listed and not there: correct the list or the path"
            complain(Mismatch("listed-missing", sentence))
        elif mask is None and config.unlabelled == "allowed":
            unlabelled += 1
        elif mask is None:
            sentence = (
                f"{image} has no mask: list it on the same line, correct masks.{split}, or set "
                "unlabelled: allowed"
            )
            complain(Mismatch("missing-mask", sentence))
        elif image_of_mask.setdefault(mask, image) != image:
            sentence = (
                f"{image_of_mask[mask]} and {image} share one mask, {mask}: give each its own"
            )
            complain(Mismatch("shared-stem", sentence))
        else:
            files.append(Files(f"{split}/{_name(image, base)}", image, mask))
    return Paired(files, {}, unlabelled)


def _beside(_: int, row: Row) -> Path | None:
    return row[1] if len(row) > 1 else None


def _on_the_same_line(masks: Sequence[Row], number: int, _: Row) -> Path:
    return masks[number][0]


def _in_folder(
    base: Path, config: FolderConfig, masks: Mapping[Path, Path], _: int, row: Row
) -> Path | None:
    if len(row) > 1:
        return row[1]
    parts = PurePath(_name(row[0], base)).parts
    stems = (mask_stem(Path(*parts[start:]), config) for start in range(len(parts)))
    return next((masks[stem] for stem in stems if stem in masks), None)


def _name(image: Path, base: Path) -> str:
    """Return a picture's path from the YAML file's folder where it lies below, else from the root.

    A name is part of the paths of results, and so must not lead out of their folder.
    """
    image, base = image.absolute(), base.absolute()
    below = image.relative_to(base if image.is_relative_to(base) else image.anchor)
    return PurePath(*(part for part in below.parts if part != "..")).as_posix()


def _read(base: Path, place: Path | Listed, key: str) -> list[Row]:
    """Return the rows of a list with the paths where they are, or would be."""
    if not isinstance(place, Path):
        rows = [item if isinstance(item, tuple) else (item,) for item in place]
        found = [tuple(base / path for path in row) for row in rows]
        source = key
    else:
        source = str(base / place)
        found = [_divided(line, base, place.parent) for line in _lines(base / place, key)]
    if not found:
        raise SctnetError(f"{source}: the list is empty: write a picture on each line")
    return found


def _lines(path: Path, key: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SctnetError(f"{path}: not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise SctnetError(
            f"{path}: the list cannot be read ({error.strerror}): correct {key} in the YAML file"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _divided(line: str, base: Path, beside: Path) -> Row:
    """Return the paths of a line; names may hold what divides others."""

    def placed(text: str) -> Path:
        name = text.strip().strip('"')
        names = dict.fromkeys((name, name.replace("\\", "/")))
        options = [folder / each for each in names for folder in (base, base / beside)]
        return next(filter(is_file, options), options[0])

    whole = placed(line)
    if is_file(whole):
        return (whole,)
    cuts = [number for sign in _DIVIDED_BY for number, each in enumerate(line) if each == sign]
    cuts += [number for number, each in enumerate(line) if each == " "]
    pairs = [(placed(line[:cut]), placed(line[cut + 1 :])) for cut in cuts]
    for there in (pair for pair in pairs if all(map(is_file, pair))):
        return there
    for half in (pair for pair in pairs if is_file(pair[0])):
        return half
    return pairs[0] if len(pairs) == 1 else (whole,)
