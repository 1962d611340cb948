"""Models of transformers as they are: their scores, their use as models, their teaching."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from foreign import NAMES, SEMANTIC, UNIVERSAL, foreign_folder
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.transformers_model import TransformersModel
from sctnet.errors import SctnetError
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.teachers import LogitsTeacher, NetworkTeacher, load_teacher

SIZE = 90, 120
PICTURE = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(30, 0)
PICTURE = np.ascontiguousarray(PICTURE.repeat(30, 1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = foreign_folder(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def loaded(folder, kind):
    """Return the model and its processor, by transformers' own way."""
    auto = "AutoModelForUniversalSegmentation" if kind in UNIVERSAL else (
        "AutoModelForSemanticSegmentation"
    )  # fmt: skip
    opener = "AutoProcessor" if kind == "oneformer" else "AutoImageProcessor"
    model = getattr(transformers, auto).from_pretrained(folder).eval()
    return model, getattr(transformers, opener).from_pretrained(folder)


def expected(folder, kind, size):
    """Return the scores that the published formulas give, and transformers' own label map."""
    model, processor = loaded(folder, kind)
    task = {"task_inputs": ["semantic"]} if kind == "oneformer" else {}
    whole = {"do_center_crop": False} if "mobile" in kind else {}
    inputs = processor(images=[PICTURE], return_tensors="pt", **task, **whole)
    offsets = {k: inputs.pop(k) for k in ["patch_offsets"] if k in inputs}
    with torch.no_grad():
        outputs = model(**inputs, **offsets)
    labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    if kind in SEMANTIC:
        return F.interpolate(outputs.logits, size, mode="bilinear")[0], labels
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]
    masks = outputs.masks_queries_logits
    if kind == "mask2former" or kind.startswith("eomt"):
        inner = (384, 384) if kind == "mask2former" else (64, 64)
        masks = F.interpolate(masks, inner, mode="bilinear")
    scores = torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())
    if kind.startswith("eomt"):  # a mean of windows, laid over each other
        height, width = 64, round(64 * PICTURE.shape[1] / PICTURE.shape[0])
        summed, count = torch.zeros(1, len(NAMES), height, width), torch.zeros(1, 1, height, width)
        for patch, (_, begin, end) in zip(scores, offsets["patch_offsets"], strict=True):
            summed[0, :, :, begin:end] += patch[:, :, : width - begin]
            count[..., begin:end] += 1
        scores = summed / count
    return F.interpolate(scores, size, mode="bilinear")[0], labels


@pytest.mark.parametrize("kind", [*SEMANTIC, *UNIVERSAL])
def test_scores_and_labels_are_those_of_transformers(folders, kind):
    folder = folders(kind)
    scores, labels = expected(folder, kind, SIZE)
    pixels = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    found = TransformersModel(folder)(pixels, SIZE)[0]
    if kind in UNIVERSAL:
        found = found.exp()
    torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-5)
    segmenter = sctnet.Segmenter(folder)
    assert segmenter.classes == NAMES
    result = segmenter(PICTURE)
    # Between two equal scores rounding decides.
    first, second = scores.topk(2, dim=0).values
    decided = (first - second > 1e-5).numpy()
    assert decided.mean() > 0.9
    assert (result.labels == labels.numpy())[decided].all()
    assert scores.std((1, 2)).max() > 1e-3


@pytest.mark.parametrize("kind", ["beit", "mask2former"])
def test_a_batch_of_crops_is_answered_one_by_one(folders, kind):
    preparation = PreprocessingConfig(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    teacher = load_teacher(folders(kind), preparation)
    assert isinstance(teacher, LogitsTeacher)
    crops = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (preparation.mean, preparation.std))
    encoded = teacher.encode((crops - mean) / std, (8, 12))
    answer = teacher.answer(encoded, (8, 12))
    assert answer.stage3 is None
    model = TransformersModel(folders(kind))
    for crop, logits in zip(crops, answer.logits, strict=True):
        torch.testing.assert_close(logits, model(crop[None], (16, 24))[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(SctnetError, match="shares no decoder"):
        teacher.decode(crops)


def test_a_model_that_shows_its_stages_teaches_with_them(folders):
    assert isinstance(load_teacher(folders("segformer")), NetworkTeacher)


def test_a_model_with_another_normalisation_teaches_by_its_logits(folders, tmp_path):
    folder = foreign_folder("segformer", tmp_path)
    file = folder / "preprocessor_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert isinstance(load_teacher(folder), LogitsTeacher)


def without_names(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["id2label"] = {str(number): f"LABEL_{number}" for number in range(len(NAMES))}
    (folder / "config.json").write_text(json.dumps(fields))


def another_kind(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": "bert"}))


def without_a_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(key for key in tensors if "classifier" in key and "bias" in key))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_names, "the classes have numbers alone"),
        (another_kind, "a bert labels no pixels"),
        (without_a_processor, "holds no preprocessor_config.json"),
        (cut_short, "cannot be loaded by transformers"),
        (without_a_tensor, "its weights lack"),
        (pickled, "pytorch_model.bin may hold code"),
    ],
)
def test_a_folder_that_is_no_such_model_is_one_sentence(tmp_path, spoil, words):
    folder = foreign_folder("beit", tmp_path)
    spoil(folder)
    with pytest.raises(SctnetError, match=words) as caught:
        sctnet.Segmenter(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_what_such_a_model_cannot_do_is_said(folders):
    with pytest.raises(SctnetError, match="fp32"):
        sctnet.Segmenter(folders("beit"), precision="bf16")
    with pytest.raises(SctnetError, match="own size"):
        sctnet.Segmenter(folders("beit"), scales=(1.0, 2.0))(PICTURE)
