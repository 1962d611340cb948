"""The one exception that is meant for users: a single sentence they can act on."""


class SctnetError(ValueError):
    """A mistake in what the user gave: a file, a key, a value.

    The message is one sentence that names the file or key, says what is wrong and what to do.
    The command line prints it without a traceback and exits with status 2.
    """
