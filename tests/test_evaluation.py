"""The scores, against torchmetrics and against a slow count; the evaluator, against a stub."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.evaluation.confusion import ConfusionMatrix
from sctnet.evaluation.evaluator import evaluate

CLASSES = ("road", "car", "tree", "pole", "sky")


def scores_of(truth, prediction, classes=CLASSES):
    matrix = ConfusionMatrix(len(classes))
    matrix.update(truth, prediction)
    return matrix.scores(classes)


def label_maps(truth_values, prediction_values, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.choice(np.array(truth_values, np.uint8), (2, 13, 17))
    return truth, generator.choice(np.array(prediction_values, np.uint8), (2, 13, 17))


@pytest.mark.parametrize(
    ("truth_values", "prediction_values"),
    [
        pytest.param([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], id="all classes in both"),
        pytest.param([0, 1, 2, 255], [0, 1, 2, 3, 4], id="ignored pixels, classes only predicted"),
        pytest.param([0, 1, 4, 255], [0, 1], id="a class only in the truth, two in neither"),
        pytest.param([3], [3], id="one class, all right"),
        pytest.param([0], [1], id="nothing right"),
    ],
)
def test_scores_equal_torchmetrics(truth_values, prediction_values):
    truth, prediction = label_maps(truth_values, prediction_values)
    scores = scores_of(truth, prediction)
    inputs = torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()

    def metric(kind, average):
        return kind(len(CLASSES), average=average, ignore_index=IGNORE)(*inputs).numpy()

    assert scores.miou == pytest.approx(metric(MulticlassJaccardIndex, "macro"), abs=1e-6)
    assert scores.pixel_accuracy == pytest.approx(metric(MulticlassAccuracy, "micro"), abs=1e-6)
    occurring = np.isin(np.arange(len(CLASSES)), truth)
    accuracies = metric(MulticlassAccuracy, "none")[occurring]
    assert scores.mean_accuracy == pytest.approx(accuracies.mean(), abs=1e-6)
    by_class = metric(MulticlassJaccardIndex, "none")
    for index, name in enumerate(CLASSES):
        absent = index not in truth and index not in prediction[truth != IGNORE]
        assert (scores.iou[name] is None) == absent
        assert (scores.iou[name] or 0) == pytest.approx(by_class[index], abs=1e-6)


pixels = st.tuples(st.sampled_from([0, 1, 2, IGNORE]), st.integers(0, 2))


@given(st.lists(pixels, min_size=1, max_size=30).filter(lambda p: any(t != IGNORE for t, _ in p)))
@settings(deadline=None, max_examples=100)
def test_scores_equal_a_count_by_sets(pairs):
    truth, prediction = (np.array(side, np.uint8) for side in zip(*pairs, strict=True))
    scores = scores_of(truth, prediction, ("a", "b", "c"))
    counted = {place for place, (t, _) in enumerate(pairs) if t != IGNORE}
    ious, accuracies = [], []
    for index, name in enumerate("abc"):
        true = {place for place in counted if truth[place] == index}
        predicted = {place for place in counted if prediction[place] == index}
        if true | predicted:
            ious.append(len(true & predicted) / len(true | predicted))
            assert scores.iou[name] == pytest.approx(ious[-1])
        else:
            assert scores.iou[name] is None
        both = len(true & predicted)
        assert scores.recall[name] == (both / len(true) if true else None)
        assert scores.precision[name] == (both / len(predicted) if predicted else None)
        if true:
            accuracies.append(both / len(true))
    assert scores.miou == pytest.approx(sum(ious) / len(ious))
    assert scores.mean_accuracy == pytest.approx(sum(accuracies) / len(accuracies))
    right = sum(truth[place] == prediction[place] for place in counted)
    assert scores.pixel_accuracy == pytest.approx(right / len(counted))


def test_parts_add_up_to_the_whole_and_tensors_count_as_arrays_do():
    truth, prediction = label_maps([0, 1, 2, 3, 4, 255], [0, 1, 2, 3, 4])
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, prediction)
    parts.update(torch.from_numpy(truth[1]), torch.from_numpy(prediction[1]))
    parts.update(truth[0], prediction[0])
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert whole.counts.sum() == (truth != IGNORE).sum()


def test_rows_are_the_truth():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 2]), np.array([1, 1, 2]))
    np.testing.assert_array_equal(matrix.counts, [[0, 2, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        pytest.param([0, 1], [0], "truth of shape", id="unequal shapes"),
        pytest.param([0, 1], [0, 3], "prediction holds the value 3", id="prediction too large"),
        pytest.param([0, 1], [0, -1], "prediction holds the value -1", id="prediction negative"),
        pytest.param([0, 7], [0, 1], "truth holds the value 7", id="truth too large"),
        pytest.param([0, 1], [0, 255], "prediction holds the value 255", id="prediction ignored"),
    ],
)
def test_what_does_not_fit_is_refused_and_counts_nothing(truth, prediction, message):
    matrix = ConfusionMatrix(3)
    with pytest.raises(SctnetError, match=message):
        matrix.update(np.array(truth), np.array(prediction))
    assert matrix.counts.sum() == 0


def test_a_data_set_without_labels_is_refused():
    truth = np.full((4, 4), IGNORE, np.uint8)
    with pytest.raises(SctnetError, match="no pixel of this data set is labelled"):
        scores_of(truth, np.zeros((4, 4), np.uint8))


def test_scores_go_through_json():
    scores = scores_of(np.array([0, 0, 1]), np.array([0, 1, 1]))
    read = json.loads(json.dumps(scores.to_json()))
    assert read["iou"] == {"road": 0.5, "car": 0.5, "tree": None, "pole": None, "sky": None}
    assert read["precision"] == {"road": 1, "car": 0.5, "tree": None, "pole": None, "sky": None}
    assert read["recall"] == {"road": 0.5, "car": 1, "tree": None, "pole": None, "sky": None}
    assert read["miou"] == 0.5
    assert read["counts"][0] == [1, 1, 0, 0, 0]


class Shades(SegmentationDataset):
    """Pictures of several sizes whose red channel is their label map."""

    name = "shades"
    classes = CLASSES
    colours = None
    sizes = ((4, 6), (4, 6), (4, 6), (5, 3), (4, 6))

    def __len__(self):
        return len(self.sizes)

    def item_name(self, index):
        return f"street/{index}"

    def labels(self, index):
        return np.random.default_rng(index).integers(0, 5, self.sizes[index], dtype=np.uint8)

    def image(self, index):
        return np.stack([self.labels(index)] * 3, axis=-1)


def test_evaluation_batches_equal_sizes_in_order():
    batches, seen, progress = [], [], []

    def predict(images):
        batches.append([image.shape[:2] for image in images])
        return [image[..., 0] for image in images]

    evaluation = evaluate(
        predict,
        Shades(),
        batch_size=2,
        on_image=lambda index, labels: seen.append((index, labels)),
        progress=progress.append,
    )
    warm_up, *counted = batches
    assert warm_up == counted[0], "the first batch is predicted before the clock runs"
    assert counted == [[(4, 6)] * 2, [(4, 6)], [(5, 3)], [(4, 6)]]
    assert progress == [2, 3, 4, 5]
    assert [index for index, _ in seen] == [0, 1, 2, 3, 4]
    for index, labels in seen:
        np.testing.assert_array_equal(labels, Shades().labels(index))
    assert evaluation.images == 5
    assert evaluation.scores.miou == evaluation.scores.pixel_accuracy == 1
    assert 0 < evaluation.predict_seconds <= evaluation.total_seconds
    assert evaluation.images_per_second == 5 / evaluation.predict_seconds


def test_a_prediction_that_does_not_fit_names_its_picture():
    def predict(images):
        return [np.full((4, 6), 9, np.uint8) for _ in images]

    with pytest.raises(SctnetError, match=r"street/0: the prediction holds the value 9"):
        evaluate(predict, Shades())
