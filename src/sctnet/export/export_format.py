"""The description of a file format; the module of each format has one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sctnet.checkpoints.exported_file import Precision
from sctnet.export.parity import Run
from sctnet.export.quantisation import Quantiser


class ExportFormat(NamedTuple):
    """A file format: its files, and how they are written and run."""

    suffixes: tuple[str, ...]
    """The suffixes of its files; the first belongs to the file that a user names."""
    precisions: tuple[Precision, ...]
    write: Callable[..., Run]
    """Writes the files of ``(network, config, file)`` and returns what runs them. A format with
    int8 takes a fourth argument, which quantises the float model."""
    quantiser: Callable[[Any], Quantiser] | None = None
    """Makes the quantiser of a float model, for a format with int8."""
