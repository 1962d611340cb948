"""Tables for people."""

from rich.table import Table
from rich.text import Text

from sctnet.evaluation.evaluator import Evaluation


def scores_table(evaluation: Evaluation) -> Table:
    """Return the IoU of every class and, below, the totals."""
    scores = evaluation.scores
    table = Table("class", title=f"{evaluation.images} pictures")
    table.add_column("IoU %", justify="right")
    for name, value in scores.iou.items():
        # As Text: in a plain str, rich would take [/x] or [bold] for markup.
        table.add_row(Text(name), "absent" if value is None else f"{100 * value:.2f}")
    table.add_section()
    table.add_row("mean IoU", f"{100 * scores.miou:.2f}")
    table.add_row("pixel accuracy", f"{100 * scores.pixel_accuracy:.2f}")
    table.add_row("mean accuracy", f"{100 * scores.mean_accuracy:.2f}")
    table.add_row("images/s, predictor alone", f"{evaluation.images_per_second:.2f}")
    return table
