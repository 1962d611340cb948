"""A cache of exports in the user's cache folder."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from sctnet.checkpoints.exported_file import Output, Precision
from sctnet.checkpoints.model_folder import CONFIG_FILE, WEIGHTS_FILE, find_model
from sctnet.errors import SctnetError
from sctnet.export.exporting import FORMATS, Format, export_model
from sctnet.writing import cache_folder


def cached_export(
    model: str | os.PathLike[str],
    format: Format,  # noqa: A002 - the command's own word
    precision: Precision = "fp32",
    output: Output = "logits8",
) -> Path:
    """Return the file of a model in this format, exported now or earlier.

    The file is in the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``), below ``sctnet``.
    Its folder is named by this package's version and the SHA-256 of weights and configuration, so a
    change of any of these makes another file. Raises :class:`SctnetError` as
    :func:`~sctnet.export.exporting.export_model` does, and if the cache cannot be written.
    """
    folder = find_model(model)
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        digest.update((folder / name).read_bytes())
    place = cache_folder() / "sctnet" / f"{digest.hexdigest()[:24]}-{version('sctnet')}"
    file = place / f"{output}-{precision}{FORMATS[format].suffixes[0]}"
    if not file.is_file():
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SctnetError(
                f"{place}: cannot be written ({error.strerror}); name another folder in "
                "XDG_CACHE_HOME, or give a file that `sctnet export` made"
            ) from error
        export_model(folder, file, format=format, precision=precision, output=output)
    return file
