"""Maps of a model's classes: what they compute, where they are taken, what they refuse."""

import pytest
import torch
from test_alignment import CLASSES, small_network

import sctnet
from sctnet.checkpoints.class_map import ClassMap, read_rules
from sctnet.checkpoints.model_folder import save_model
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.models import Widths
from sctnet.training.alignment import build_alignment
from sctnet.training.recipe import AlignmentRecipe
from sctnet.training.teachers import MappedTeacher, load_teacher

KNOWN = ("road", "lane marking", "car", "truck", "sky")
MERGED = {"way": ["road", "lane marking"], "vehicle": ["car", "truck"], "sky": "sky"}


def class_map(rules, known=KNOWN):
    return ClassMap(read_rules(rules), known, "map.yaml")


def test_a_merged_class_has_the_sum_of_the_probabilities():
    logits = torch.randn(2, 5, 3, 4)
    mapped = class_map(MERGED)
    p, q = logits.softmax(1), mapped.scores(logits).softmax(1)
    torch.testing.assert_close(q, torch.stack([p[:, 0] + p[:, 1], p[:, 2] + p[:, 3], p[:, 4]], 1))
    assert torch.equal(mapped.scores(logits)[:, 2], logits[:, 4])
    assert mapped.classes == ("way", "vehicle", "sky")
    assert mapped.rest(logits) is None
    assert mapped.first_of_each("abcde") == ("a", "c", "e")


def test_the_rest_is_dropped_or_a_class():
    logits = torch.randn(1, 5, 2, 2)
    dropping = class_map({"way": "road", "sky": "sky"})
    assert dropping.dropped
    torch.testing.assert_close(dropping.rest(logits)[:, 0], logits[:, 1:4].logsumexp(1))
    taking = class_map({"way": "road", "other": "everything else"})
    assert not taking.dropped
    torch.testing.assert_close(taking.scores(logits)[:, 1], logits[:, 1:].logsumexp(1))


def test_the_data_decide_the_order():
    logits = torch.randn(1, 5, 2, 2)
    one = class_map(MERGED)
    other = one.ordered(("sky", "way", "vehicle"))
    assert torch.equal(other.scores(logits), one.scores(logits)[:, [2, 0, 1]])
    with pytest.raises(SctnetError, match="makes no 'tree'"):
        one.ordered(("sky", "way", "vehicle", "tree"))
    with pytest.raises(SctnetError, match="makes 'vehicle'"):
        one.ordered(("sky", "way"))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"a": "roads", "b": "sky"}, "did you mean road"),
        ({"a": "road", "b": ["sky", "road"]}, "makes both 'a' and 'b'"),
        ({"a": "road"}, "two are the fewest"),
        ({"a": [], "b": "sky"}, "write the name"),
        ({"a": 1, "b": "sky"}, "write the name"),
        ({"a": "everything else", "b": "everything else"}, "both take everything else"),
        ({"a": ["road", "everything else"], "b": "sky"}, "stands alone"),
        ({**{name: name for name in KNOWN}, "a": "everything else"}, "no class of the model"),
        ({}, "a line for each class"),
    ],
)
def test_a_wrong_map_is_one_sentence(rules, words):
    with pytest.raises(SctnetError, match=words) as caught:
        class_map(rules)
    assert "\n" not in str(caught.value)


def test_a_map_is_a_yaml_file(tmp_path):
    file = tmp_path / "classes.yaml"
    file.write_text("way: [road, lane marking]\nvehicle:\n- car\n- truck\nsky: sky\n")
    assert read_rules(file) == read_rules(MERGED)
    with pytest.raises(SctnetError, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")
    recipe = AlignmentRecipe(teacher="x", map=str(file))
    assert recipe.map == read_rules(MERGED)
    assert AlignmentRecipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(small_network(), tmp_path_factory.mktemp("model"), CLASSES)


def test_a_segmenter_of_renamed_classes_has_the_same_labels(folder):
    picture = open_dataset("synthetic", ["val"]).image(0)
    order = list(reversed(CLASSES))
    renamed = {f"a {name}": name for name in order}
    plain = sctnet.Segmenter(folder, precision="fp32")(picture)
    segmenter = sctnet.Segmenter(folder, precision="fp32", class_map=renamed)
    mapped = segmenter(picture)
    assert mapped.classes == tuple(renamed)
    # Between two equal logits the lower class wins, which is the other one now.
    same = mapped.labels == len(CLASSES) - 1 - plain.labels
    assert same.mean() > 0.999
    assert mapped.colours[0] == plain.colours[-1] or len(set(plain.colours)) > 1


def test_a_mapped_teacher_teaches_through_its_head_too(folder):
    """Terms with a map are those of a teacher whose classifier makes the mapped classes."""
    rules = {"first": list(CLASSES[:3]), "rest": "everything else"}
    recipe = AlignmentRecipe(teacher=str(folder), map=rules)
    student = sctnet.create_model("sctnet-tiny", 2).train()
    alignment = build_alignment(recipe, student.widths, ("rest", "first"))
    assert isinstance(alignment.teacher, MappedTeacher)
    images = torch.randn(2, 3, 64, 64)
    features = student.features(images)
    answer = alignment.ask(images, student.logits_size(images))
    assert answer.logits.shape[1] == 2
    teacher = load_teacher(folder)
    own = teacher.answer(teacher.encode(images, (8, 8)), (8, 8)).logits
    expected = torch.stack([own[:, 3:].logsumexp(1), own[:, :3].logsumexp(1)], dim=1)
    torch.testing.assert_close(answer.logits, expected)
    terms = alignment(images, features, answer)
    assert set(terms) == {"logits", "decoder", "stage4", "stage3"}
    # The folded head and the plain one are two ways to the same.
    fused = alignment.teacher.fusion().classifier(answer.decoder_feature)
    torch.testing.assert_close(fused, answer.logits)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in alignment.teacher.parameters())


def test_a_teacher_of_other_classes_needs_a_map(folder):
    with pytest.raises(SctnetError, match=r"give a map \(alignment.map\)"):
        build_alignment(AlignmentRecipe(teacher=str(folder)), Widths(8, 8, 8, 8), ("a", "b"))
