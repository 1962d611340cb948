"""Segmentation models of transformers as their authors use them: own pictures, own size, own end.

Where :mod:`~sctnet.models.transformers_networks` builds networks that learn and show their stages,
this takes any model that labels pixels, whole: its processor prepares the pictures and turns its
output into scores.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sctnet.checkpoints.model_folder import CONFIG_FILE, PREPROCESSOR_FILE
from sctnet.checkpoints.transformers_folder import classes_of
from sctnet.errors import SctnetError
from sctnet.models.transformers_networks import quiet, transformers_package

PROCESSOR_FILE = "processor_config.json"
"""Where newer folders keep what :data:`PREPROCESSOR_FILE` holds."""

BY_QUERIES = ("maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3")
"""Models of universal segmentation, whose scores are sums over queries and no logits."""

_SMALLEST = 1e-12  # of a score, so that its logarithm is finite


class TransformersModel(nn.Module):
    """A model of ``AutoModelForSemanticSegmentation`` or of universal segmentation.

    ``folder`` is a local one with config.json, safetensors and the processor's configuration; its
    code is that of the installed transformers, never the folder's, and nothing is downloaded.
    Raises :class:`SctnetError` for a model that does not label pixels, one that cannot be loaded
    and one without the names of its classes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        file = folder / CONFIG_FILE
        self.classes = classes_of(folder)
        self.kind = _kind(folder)
        if not any((folder / name).exists() for name in (PREPROCESSOR_FILE, PROCESSOR_FILE)):
            raise SctnetError(
                f"{folder}: holds no {PREPROCESSOR_FILE}, so it is unknown how pictures are "
                "prepared: save the model's processor there (save_pretrained)"
            )
        transformers = transformers_package()
        universal = self.kind in BY_QUERIES
        family = "Universal" if universal else "Semantic"
        loader = getattr(transformers, f"AutoModelFor{family}Segmentation")
        kept = {"local_files_only": True, "trust_remote_code": False}
        with quiet(), _told(file):
            self.model, report = loader.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **kept
            )
            of_task = self.kind == "oneformer"
            opener = transformers.AutoProcessor if of_task else transformers.AutoImageProcessor
            self._processor = opener.from_pretrained(folder, **kept)
        lacking = [*report["missing_keys"], *report["mismatched_keys"]]
        if lacking:
            raise SctnetError(
                f"{folder}: its weights lack {lacking[0]}, which would be random: give the folder "
                "of a model that was trained whole"
            )
        if not hasattr(self._processor, "post_process_semantic_segmentation"):
            raise SctnetError(
                f"{folder}: its processor, {type(self._processor).__name__}, labels no pixels: "
                f"give a {self.kind} with the processor of its segmentation"
            )
        self._inputs = {"task_inputs": ["semantic"]} if of_task else {}
        self.eval()

    def extra_repr(self) -> str:
        """Say how pictures are prepared, which decides the scores as the weights do."""
        return json.dumps(self._image_processor.to_dict(), sort_keys=True, default=str)

    @property
    def _image_processor(self) -> Any:
        return getattr(self._processor, "image_processor", self._processor)

    @torch.no_grad()
    def forward(
        self, pictures: UInt8[Tensor, "n 3 h w"], size: tuple[int, int]
    ) -> Float[Tensor, "n k hs ws"]:
        """Return logits at ``size`` (height, width) of RGB pictures.

        They are the scores that the processor's ``post_process_semantic_segmentation`` takes the
        largest of; of a universal model, their logarithms.
        """
        device = next(self.model.parameters()).device
        images = list(pictures.permute(0, 2, 3, 1).cpu().numpy())
        tasks = {key: value * len(images) for key, value in self._inputs.items()}
        # Whole: a processor that cuts out the centre would label that alone, and stretch it.
        whole = {"do_center_crop": False} if hasattr(self._image_processor, "crop_size") else {}
        with torch.autocast(pictures.device.type, enabled=False):
            prepared = self._processor(
                images=images, return_tensors="pt", input_data_format="channels_last",
                **tasks, **whole,
            )  # fmt: skip
            inputs = {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in prepared.items()
            }
            found = self._processor.post_process_semantic_segmentation(
                self.model(**inputs),
                target_sizes=[size] * len(images),
                return_segmentation_scores=True,
            )
        scores = torch.stack([each["segmentation_scores"] for each in found]).to(pictures.device)
        return scores.clamp(min=_SMALLEST).log() if self.kind in BY_QUERIES else scores


def _kind(folder: Path) -> str:
    """Return the model_type of a folder, if models of this type label pixels."""
    transformers_package()
    names = importlib.import_module("transformers.models.auto.modeling_auto")
    file = folder / CONFIG_FILE
    fields = json.loads(file.read_bytes())
    kind = str(fields["model_type"])
    known = {*names.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, *BY_QUERIES}
    if kind not in known:
        raise SctnetError(
            f"{file}: a {kind[:80]} labels no pixels; those that do are {', '.join(sorted(known))}"
        )
    return kind


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Raise one sentence for whatever transformers raises for a folder."""
    try:
        yield
    except SctnetError:
        raise
    except Exception as error:  # every kind of model and processor has its own
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise SctnetError(
            f"{file.parent}: cannot be loaded by transformers ({reason}); give a whole model with "
            "its weights as safetensors"
        ) from error
