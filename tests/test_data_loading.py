"""Order and pixels depend on the seed and the sample's number, not on who loads them when."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn import written
from hypothesis import given, settings
from hypothesis import strategies as st

from sctnet.data.augmentation import AugmentationConfig, Sample
from sctnet.data.dataset import FileDataset
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.streams import read_pairs
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError

CONFIG = AugmentationConfig(crop=(32, 40))
STREETS = SyntheticStreets(0, 7, (48, 64))


def batches(seed: int = 5, workers: int = 0, **sampling: int) -> list[Sample]:
    sampler = StepSampler(**{"batch_size": 4, "steps": 5, **sampling})
    loader = training_loader(TrainingStream(STREETS, CONFIG, seed), sampler, workers)
    assert len(loader) == len(sampler)
    return list(loader)


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_are_bytes_of_the_crop_size() -> None:
    for batch in batches():
        assert isinstance(batch, Sample)
        assert (batch.image.shape, batch.image.dtype) == ((4, 3, 32, 40), torch.uint8)
        assert (batch.labels.shape, batch.labels.dtype) == ((4, 32, 40), torch.uint8)
        assert (batch.size.shape, batch.size.dtype) == ((4, 2), torch.int64)


def test_workers_change_nothing() -> None:
    for one, other in zip(batches(workers=0), batches(workers=2), strict=True):
        assert same(one, other)


def test_resuming_changes_nothing() -> None:
    for one, other in zip(batches()[3:], batches(start=3), strict=True):
        assert same(one, other)
    assert batches(start=9) == []


def test_processes_share_each_batch() -> None:
    shares = [batches(rank=rank, world_size=2) for rank in range(2)]
    for whole, first, second in zip(batches(), *shares, strict=True):
        joined = Sample(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
        assert same(whole, joined)


def test_seed_changes_pixels_and_order() -> None:
    assert not same(batches(seed=5)[0], batches(seed=6)[0])
    orders = [
        [TrainingStream(STREETS, CONFIG, seed).picture_number(k) for k in range(7)]
        for seed in (5, 6)
    ]
    assert orders[0] != orders[1]


def test_every_epoch_shows_every_picture_once_in_its_own_order() -> None:
    stream = TrainingStream(STREETS, CONFIG, 1)
    epochs = [tuple(stream.picture_number(7 * e + k) for k in range(7)) for e in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 3
    assert stream.picture_number(3) == epochs[0][3], "going back finds the same picture"


@settings(max_examples=50, deadline=None)
@given(
    share=st.integers(1, 5), world_size=st.integers(1, 4), steps=st.integers(0, 9), data=st.data()
)
def test_ranks_partition_the_samples(share, world_size, steps, data) -> None:
    start = data.draw(st.integers(0, steps))
    batch = share * world_size
    ranks = [list(StepSampler(batch, steps, start, r, world_size)) for r in range(world_size)]
    order = [number for step in zip(*ranks, strict=True) for part in step for number in part]
    assert order == list(range(start * batch, steps * batch))


def test_batch_must_divide_among_processes() -> None:
    with pytest.raises(SctnetError, match="batch of 6 cannot be shared by 4 processes"):
        StepSampler(6, 1, rank=0, world_size=4)


@pytest.fixture
def files(tmp_path: Path) -> FileDataset:
    return written(STREETS, 4, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mistake", ["vanished", "truncated", "size"])
def test_mistake_midway_is_one_sentence(files: FileDataset, workers: int, mistake: str) -> None:
    path = files.files[2].image
    if mistake == "vanished":
        path.unlink()
    elif mistake == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        cv2.imwrite(str(path), np.zeros((9, 9, 3), np.uint8))
    loader = training_loader(TrainingStream(files, CONFIG, 0), StepSampler(2, 2), workers)
    with pytest.raises(SctnetError) as caught:
        list(loader)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_read_ahead_keeps_the_order(workers: int) -> None:
    indices = [5, 0, 6, 2, 3, 1, 4, 0]
    seen = list(read_pairs(STREETS, indices, workers))
    assert [index for index, _, _ in seen] == indices
    for index, image, labels in seen:
        assert (image == STREETS.image(index)).all()
        assert (labels == STREETS.labels(index)).all()


def test_read_ahead_is_bounded_and_stops_with_its_reader() -> None:
    taken = []

    def numbers():
        for k in range(7):
            taken.append(k)
            yield k

    reader = read_pairs(STREETS, numbers(), 2)
    next(reader)
    reader.close()
    assert len(taken) <= 5


def test_read_ahead_raises_in_its_place(files: FileDataset) -> None:
    files.files[2].mask.unlink()
    reader = read_pairs(files, range(4), 2)
    assert [next(reader)[0], next(reader)[0]] == [0, 1]
    with pytest.raises(SctnetError, match="2_mask"):
        next(reader)
