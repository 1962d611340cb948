"""The one exception that is meant for users: a single sentence they can act on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_LONGEST = 1000  # characters of a name in a sentence
_SHOWN = 60


class SctnetError(ValueError):
    """A mistake in what the user gave: a file, a key, a value.

    The message is one sentence that names the file or key, says what is wrong and what to do.
    The command line prints it without a traceback and exits with status 2.
    """


class NoMemoryError(SctnetError):
    """There was no memory for a file, which is no fault of the file's."""


@contextmanager
def as_one_sentence(name: str) -> Iterator[None]:
    """Raise :class:`SctnetError`, beginning with ``name``, for whatever else is raised.

    For the reading of files, one of which shall not end the work on all the others, or leave a
    process waiting: libraries raise kinds of errors that they do not document.
    """
    try:
        yield
    except SctnetError:
        raise
    except MemoryError as error:
        raise NoMemoryError(
            f"{name}: the memory did not suffice to read it, which is no fault of the file's: free "
            "some, or work on fewer or smaller pictures at a time"
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise SctnetError(f"{name}: cannot be read ({reason}): check the file") from error


def shortened(name: object) -> str:
    """Return a name for a sentence: of a very long one its beginning, and how long it is."""
    text = str(name)
    return text if len(text) <= _LONGEST else f"{text[:_SHOWN]}... ({len(text)} characters)"


def printable(text: str) -> str:
    """Return a text for a terminal: what it would obey or cannot show is written as an escape."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the name that was probably meant, to follow a sentence, or nothing."""
    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""
