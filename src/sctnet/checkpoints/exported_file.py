"""The description of an exported file: the text under ``sctnet`` in its metadata."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sctnet.checkpoints.model_folder import ModelConfig, first_message
from sctnet.errors import SctnetError

METADATA_KEY = "sctnet"
"""Of ONNX metadata_props, and of OpenVINO's rt_info."""

EXPORTED_SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
"""The files of each format that this package also reads; the first is the one that a user names."""

_MAX_CHARACTERS = 1_000_000  # a thousand class names and colours take some 50,000

Output = Literal["labels", "logits", "probabilities", "logits8"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Pixels = Annotated[int, Field(ge=1)]


class ExportedConfig(BaseModel):
    """All that is needed to use an exported file as the model folder that it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model: ModelConfig
    output: Output
    """``labels``, ``logits`` and ``probabilities`` at the picture's size; ``logits8`` at the
    network's own stride."""
    precision: Precision
    size: tuple[Pixels, Pixels] | None
    """Height and width of the only pictures that it takes; None: any."""
    batch: Annotated[int, Field(ge=1)] | None
    """The exact number of pictures that it takes; None: any number."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the model.safetensors that it was made from."""
    sctnet: str
    """The version that made it."""

    @property
    def mirrors(self) -> bool:
        """Whether the file itself averages with the mirrored picture, as the model does.

        Of ``logits8``, whoever uses the file does.
        """
        return self.model.flip and self.output != "logits8"

    @classmethod
    def from_text(cls, text: str | None, file: object) -> "ExportedConfig":
        """Read the description in the metadata of ``file``; ``text`` is None if there is none.

        Raises :class:`SctnetError`, which names the file, for a missing or invalid description.
        """
        if text is None:
            raise SctnetError(
                f"{file}: not made by `sctnet export`, so its classes and the way to prepare "
                "pictures are unknown: export the model folder"
            )
        if len(text) > _MAX_CHARACTERS:
            raise SctnetError(
                f"{file}: its description has {len(text):,} characters, which no export writes: "
                "export the model folder again"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SctnetError(
                f"{file}: its description is not one that this version reads "
                f"({first_message(error)}): export the model folder again"
            ) from error
