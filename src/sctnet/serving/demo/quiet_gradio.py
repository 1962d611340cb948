"""gradio, imported without telemetry and without a list of results."""

import os

from sctnet.errors import SctnetError

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

try:
    import gradio
except ImportError as error:
    raise SctnetError('the page needs gradio: pip install "sctnet[demo]"') from error

__all__ = ["gradio"]
