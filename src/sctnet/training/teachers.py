"""Teachers: the protocol that alignment needs, and the kinds of networks that follow it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.checkpoints.model_folder import find_model, load_config, load_model
from sctnet.checkpoints.transformers_folder import is_transformers_folder, load_transformers_model
from sctnet.errors import SctnetError
from sctnet.models import Features, SegmentationNetwork, Widths

CHECKPOINTS = (".pth", ".pt", ".bin")
"""Suffixes of PyTorch's files."""


@runtime_checkable
class Teacher(Protocol):
    """A module (``torch.nn.Module``) that can teach.

    ``features`` takes images with the student's normalisation. ``decode``, the end of the teacher's
    decoder head, maps a decoder input to a decoder feature and logits; the student's own expanded
    feature goes through it too. A teacher whose ``widths`` has None for the decoder teaches only
    with its stages and logits.
    """

    classes: tuple[str, ...]
    widths: Widths

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features of normalised RGB images."""

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether the parameters learn; every module has this."""

    def eval(self) -> Any:
        """Use running statistics and drop nothing; every module has this."""


class NetworkTeacher(nn.Module):
    """One of this package's networks that teaches; also another SCTNet."""

    def __init__(self, network: SegmentationNetwork, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self.widths = network.widths

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features."""
        return self.network.features(images)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.network.decode(decoder_input)


class ForeignTeacher(nn.Module):
    """Any segmentation network of another package: two of its stages, and its logits.

    ``stage3`` and ``stage4`` name submodules (as in ``named_modules``) whose outputs have stride 16
    and 32. ``network(images)`` returns logits, or an output from which ``logits`` selects them. The
    decoder cannot be shared: the recipe needs ``alignment.decoder=0`` and
    ``alignment.shared_head=false``. Raises :class:`SctnetError` for a name that is not a submodule.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        *,
        stage3: str,
        stage4: str,
        logits: Callable[[Any], Tensor] = lambda output: output,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self._logits = logits
        self._seen: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for stage, name in (("stage3", stage3), ("stage4", stage4)):
            if name not in modules:
                raise SctnetError(
                    f"{stage}: the teacher has no submodule {name!r}; choose one of those that "
                    "named_modules() lists"
                )
            modules[name].register_forward_hook(self._remember(stage, name))
        self.widths = self._measured_widths()

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return the two stages and the logits."""
        logits = self._logits(self.network(images))
        stage3, stage4 = self._seen.pop("stage3"), self._seen.pop("stage4")
        return Features(None, stage3, stage4, None, None, logits, None)

    def decode(self, decoder_input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Raise :class:`SctnetError`: there is no decoder to share."""
        raise SctnetError(
            "alignment.shared_head: this teacher shares no decoder; set alignment.decoder=0 and "
            "alignment.shared_head=false"
        )

    def _remember(self, stage: str, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise SctnetError(f"{stage}: {name} gives no map (N x C x H x W); name another")
            self._seen[stage] = output

        return hook

    def _measured_widths(self) -> Widths:
        learning = self.network.training
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        with torch.no_grad():
            self.network.eval()
            features = self.features(torch.zeros(1, 3, 64, 64, device=device))
            self.network.train(learning)
        if features.logits.shape[1] != len(self.classes):
            raise SctnetError(
                f"classes: {len(self.classes)} names for a teacher with "
                f"{features.logits.shape[1]} classes"
            )
        return Widths(features.stage3.shape[1], features.stage4.shape[1], None, None)


def load_teacher(folder: str | os.PathLike[str]) -> NetworkTeacher:
    """Return the teacher of a model folder, a bundled name or a hub id, in eval mode.

    The folder is one of this package, or one of transformers with its classes in ``id2label``.
    Raises :class:`SctnetError` as :func:`load_model` and :func:`load_transformers_model` do.
    """
    if str(folder).endswith(CHECKPOINTS) and Path(folder).is_file():
        raise SctnetError(
            f"{folder}: a checkpoint cannot teach as it is; convert it to a folder: "
            f"sctnet convert {folder} FOLDER --teacher --classes ..."
        )
    path = find_model(folder)
    network: SegmentationNetwork
    if is_transformers_folder(path):
        network, classes = load_transformers_model(path)
    else:
        network, classes = load_model(path), load_config(path).classes
    in_layout: SegmentationNetwork = network.to(  # type: ignore[call-overload]
        memory_format=torch.channels_last  # as the student's
    )
    return NetworkTeacher(in_layout, classes).eval()
