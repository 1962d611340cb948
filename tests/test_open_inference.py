"""The Open Inference Protocol, by Triton's own client and by hand."""

import base64
import json
import queue
import struct
import threading
import time
import warnings

import httpx
import numpy as np
import pytest
from drawn import street
from hypothesis import given, settings
from hypothesis import strategies as st
from served import CLASSES, encoded, running, saved

import sctnet
from sctnet.serving.http.limits import Limits, Refusal
from sctnet.serving.http.micro_batcher import Closed, MicroBatcher
from sctnet.serving.http.open_inference_protocol import parse_request, response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import tritonclient.http as triton

INFER = "/v2/models/street/infer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("served") / "street")


@pytest.fixture(scope="module")
def server(folder):
    with running(str(folder)) as served:
        yield served


@pytest.fixture(scope="module")
def client(server):
    made = triton.InferenceServerClient(server.address)
    yield made
    made.close()


@pytest.fixture(scope="module")
def segmenter(folder):
    return sctnet.Segmenter(folder, "cpu")


# By the stock client


def test_tritonclient_finds_server_and_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("street")
    assert client.is_model_ready("street", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("street", "7")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("street")
    assert [each["name"] for each in told["inputs"]] == ["images", "encoded_images"]
    assert told["outputs"][0]["datatype"] == "UINT8"
    assert told["parameters"]["classes"] == list(CLASSES)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_labels_pictures(client, segmenter, binary_in, binary_out, compression):
    pictures = np.stack([street(21, 34, seed) for seed in range(3)])
    given_in = triton.InferInput("images", pictures.shape, "UINT8")
    given_in.set_data_from_numpy(pictures, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("labels", binary_data=binary_out)
    result = client.infer(
        "street", [given_in], outputs=[wanted], request_id="number 7",
        request_compression_algorithm=compression, response_compression_algorithm=compression,
    )  # fmt: skip
    labels = result.as_numpy("labels")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, segmenter.predict_labels(list(pictures)))
    assert result.get_response()["id"] == "number 7"


def test_tritonclient_sends_encoded_pictures(client, segmenter):
    files = [encoded(street(30, 40, seed), ".jpg") for seed in range(2)]
    tensor = triton.InferInput("encoded_images", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    labels = client.infer("street", [tensor]).as_numpy("labels")  # no outputs: binary, all
    np.testing.assert_array_equal(labels, [segmenter(file).labels for file in files])


def test_tritonclient_reads_our_errors(client):
    tensor = triton.InferInput("images", [1, 2, 2, 4], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 2, 2, 4), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="N x H x W x 3"):
        client.infer("street", [tensor])
    with pytest.raises(triton.InferenceServerException, match="no such model"):
        client.infer("other", [tensor])


def test_many_requests_at_once_get_their_own_answers(server, segmenter):
    pictures = [street(20 + 3 * (seed % 3), 30, seed)[None] for seed in range(24)]
    expected = segmenter.predict_labels([picture[0] for picture in pictures])
    client = triton.InferenceServerClient(server.address, concurrency=8)
    asked = []
    for picture in pictures:
        tensor = triton.InferInput("images", picture.shape, "UINT8")
        tensor.set_data_from_numpy(picture)
        asked.append(client.async_infer("street", [tensor]))
    for request, labels in zip(asked, expected, strict=True):
        found = request.get_result().as_numpy("labels")[0]
        assert (found == labels).mean() > 0.99  # a batch may round otherwise
    client.close()


# By hand


def refusal_of(body, length):
    """Return why a request is refused, or None."""
    try:
        parse_request(body, length, Limits())
    except Refusal as refusal:
        return refusal
    return None


def tensor(**changes):
    plain = {"name": "images", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": list(range(6))}
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def test_numbers_may_be_nested_or_not_and_images_in_base64(server):
    nested = [[[[0, 1, 2], [3, 4, 5]]]]
    flat, deep = (
        httpx.post(server.url + INFER, json={"inputs": [tensor(data=data)]}).json()
        for data in (list(range(6)), nested)
    )
    assert flat == deep
    assert flat["outputs"][0]["shape"] == [1, 1, 2]
    assert (flat["model_name"], flat["model_version"]) == ("street", "1")
    text = base64.b64encode(encoded(np.array(nested, np.uint8)[0])).decode()
    image = tensor(name="encoded_images", shape=[1], datatype="BYTES", data=[text])
    assert httpx.post(server.url + INFER, json={"inputs": [image]}).json() == flat
    versioned = INFER.replace("/infer", "/versions/1/infer")
    assert httpx.post(server.url + versioned, json={"inputs": [tensor()]}).json() == flat


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "JSON"),
        (b"[]", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor(), tensor()]}, "inputs"),
        ({"inputs": [tensor(name="other")]}, "encoded_images"),
        ({"inputs": [tensor(datatype="FP32")]}, "UINT8"),
        ({"inputs": [tensor(shape=[1, 1, 2])]}, "N x H x W x 3"),
        ({"inputs": [tensor(shape=[1, 0, 2, 3])]}, "N x H x W x 3"),
        ({"inputs": [tensor(shape=[1, -1, -2, 3])]}, "shape"),
        ({"inputs": [tensor(shape=[1, 1, 10**30, 3])]}, "shape"),
        ({"inputs": [tensor(shape=[2, 1, 2, 3])]}, "6 values"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, 256])]}, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, -1])]}, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, 6.0])]}, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, "6"])]}, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, None])]}, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 4, 5, 10**400])]}, "0 to 255"),
        ({"inputs": [tensor(data=[[1, 2, 3], [4, 5, 6]])]}, "nested"),
        ({"inputs": [tensor(data=[[[[1, 2], [4, 5, 6]]]])]}, "nested"),
        ({"inputs": [tensor(data="abcdef")]}, "data"),
        ({"inputs": [tensor(data=None)]}, "no data"),
        ({"inputs": [tensor(parameters={"binary_data_size": 6})]}, "only one"),
        ({"inputs": [tensor(data=None, parameters={"binary_data_size": 6})]}, "0 bytes follow"),
        ({"inputs": [tensor(data=None, parameters={"binary_data_size": -1})]}, "announces"),
        ({"inputs": [tensor(data=None, parameters={"binary_data_size": True})]}, "announces"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "a"})]}, "shared_memory"),
        ({"inputs": [tensor()], "outputs": [{"name": "other"}]}, "labels"),
        (
            {
                "inputs": [tensor()],
                "outputs": [{"name": "labels", "parameters": {"classification": 3}}],
            },
            "classification",
        ),
        ({"inputs": [tensor(datatype="BYTES", shape=[1], data=["?"])]}, "base64"),
        ({"inputs": [tensor(datatype="BYTES", shape=[1], data=[3])]}, "base64"),
        ({"inputs": [tensor(datatype="BYTES", shape=[2], data=["YQ=="])]}, "1 encoded"),
        ({"inputs": [tensor(datatype="BYTES", shape=[1], data=["YQ=="])]}, "not an image"),
        ({"inputs": [tensor(datatype="BYTES", shape=[0], data=[])]}, "one or more"),
        ({"inputs": [tensor()], "id": "x" * 300}, "id"),
    ],
)
def test_what_is_no_request_is_told_in_a_sentence(server, body, named):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(server.url + INFER, content=content)
    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_too_many_or_too_large_pictures_are_refused_before_they_are_made(server):
    for shape, named in (([300, 1, 1, 3], "256"), ([1, 2**30, 2**30, 3], "pixels")):
        answer = httpx.post(server.url + INFER, json={"inputs": [tensor(shape=shape)]})
        assert answer.status_code == 413
        assert named in answer.json()["error"]
    files = [encoded(street(10, 10)), encoded(street(10, 11))]
    data = [base64.b64encode(file).decode() for file in files]
    several = tensor(name="encoded_images", shape=[2], datatype="BYTES", data=data)
    answer = httpx.post(server.url + INFER, json={"inputs": [several]})
    assert (answer.status_code, "several sizes" in answer.text) == (400, True)


@pytest.mark.parametrize("length", ["0", "-1", "abc", "99999", "٣", "1" * 30, ""])
def test_a_wrong_header_length_is_refused(length):
    with pytest.raises(Refusal, match="Content-Length"):
        parse_request(json.dumps({"inputs": [tensor()]}).encode(), length, Limits())


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**32)
)
@settings(deadline=None)
def test_binary_and_json_say_the_same(count, height, width, wide, seed):
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (count, height, width, 3), np.uint8)
    shape = list(pictures.shape)
    text = json.dumps({"inputs": [tensor(shape=shape, data=pictures.ravel().tolist())]}).encode()
    parameters = {"binary_data_size": pictures.size}
    announced = {
        "inputs": [tensor(shape=shape, data=None, parameters=parameters)],
        "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(announced).encode()
    by_text = parse_request(text, None, Limits())
    by_bytes = parse_request(head + pictures.tobytes(), str(len(head)), Limits())
    np.testing.assert_array_equal(by_text.pictures, pictures)
    np.testing.assert_array_equal(by_bytes.pictures, pictures)
    assert (by_text.binary, by_bytes.binary) == (False, True)
    labels = random.integers(0, 60_000 if wide else 256, (count, height, width))
    labels = labels.astype(np.uint16 if wide else np.uint8)
    plain, none = response("m", by_text, list(labels))
    packed, headers = response("m", by_bytes, list(labels))
    assert none == {}
    size = int(headers["Inference-Header-Content-Length"])
    told, said = (json.loads(each)["outputs"][0] for each in (plain, packed[:size]))
    assert told["datatype"] == said["datatype"] == ("UINT16" if wide else "UINT8")
    assert told["data"] == labels.ravel().tolist()
    np.testing.assert_array_equal(
        np.frombuffer(packed[size:], labels.dtype.newbyteorder("<")), labels.ravel()
    )


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=4)))
@settings(deadline=None)
def test_any_bytes_are_a_request_or_a_refusal(body, length):
    refusal = refusal_of(body, length)
    assert refusal is None or refusal.status in {400, 413}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["images", "encoded_images"]) | JSON,
                    "shape": st.lists(st.integers(-1, 4), max_size=5) | JSON,
                    "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | JSON,
                },
                optional={
                    "data": st.lists(st.integers(-1, 256) | st.text(max_size=4)) | JSON,
                    "parameters": st.fixed_dictionaries({"binary_data_size": JSON}) | JSON,
                },
            ),
            max_size=2,
        )
    },
    optional={"id": JSON, "outputs": JSON, "parameters": JSON},
)


@given(NEARLY | JSON, st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_nearly_right_requests_are_requests_or_refusals(value, rest):
    head = json.dumps(value).encode()
    for body, length in ((head, None), (head + rest, str(len(head)))):
        refusal = refusal_of(body, length)
        assert refusal is None or refusal.status in {400, 413}
        assert "\n" not in str(refusal)


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 8))
@settings(deadline=None)
def test_elements_of_bytes_come_apart_as_they_were(images, cut):
    packed = b"".join(struct.pack("<I", len(image)) + image for image in images)
    packed = packed[: len(packed) - cut] if cut else packed
    head = {"name": "encoded_images", "shape": [len(images)], "datatype": "BYTES"}
    head["parameters"] = {"binary_data_size": len(packed)}
    text = json.dumps({"inputs": [head]}).encode()
    try:
        found = parse_request(text + packed, str(len(text)), Limits()).encoded
    except Refusal:
        assert cut or not images
    else:
        assert found == images


# The micro-batcher


def test_batches_are_shared_by_idle_workers_and_hold_one_kind():
    started, release, batches = queue.Queue(), threading.Event(), []

    def work(items):
        batches.append(items)
        started.put(1)
        release.wait(5)
        return [-item for item in items]

    batcher = MicroBatcher(work, lambda item: item % 2, most=4, delay=0.2, workers=2)
    futures = batcher.submit([2, 4, 6, 8])
    for _ in range(2):
        started.get(timeout=5)
    assert sorted(map(len, batches)) == [2, 2]
    futures += batcher.submit([1, 3, 10, 5])
    release.set()
    assert [future.result(5).result for future in futures] == [-2, -4, -6, -8, -1, -3, -10, -5]
    assert all(len({item % 2 for item in batch}) == 1 for batch in batches)
    batcher.close()
    with pytest.raises(Closed):
        batcher.submit([1])


def test_a_full_batch_does_not_wait_and_a_lone_item_waits_for_the_delay():
    batcher = MicroBatcher(list, lambda _: 0, most=3, delay=0.3)
    began = time.monotonic()
    full = [future.result(5) for future in batcher.submit([1, 2, 3])]
    assert time.monotonic() - began < 0.25
    assert [each.together for each in full] == [3, 3, 3]
    lone = batcher.submit([4])[0].result(5)
    assert lone.waited >= 0.29
    batcher.close()


def test_one_bad_item_does_not_spoil_the_others():
    def work(items):
        return [1 // item for item in items]

    batcher = MicroBatcher(work, lambda _: 0, most=3, delay=0.1)
    futures = batcher.submit([1, 0, -1])
    assert [futures[0].result(5).result, futures[2].result(5).result] == [1, -1]
    assert isinstance(futures[1].exception(5), ZeroDivisionError)
    assert batcher.submit([1])[0].result(5).result == 1
    batcher.close()


def test_closing_finishes_what_was_handed_in_and_cancelled_items_are_left_out():
    done, hold = [], threading.Event()

    def work(items):
        hold.wait(5)
        done.extend(items)
        return items

    batcher = MicroBatcher(work, lambda _: 0, most=1, delay=0)
    futures = batcher.submit(list(range(6)))
    assert futures[4].cancel()
    threading.Timer(0.1, hold.set).start()
    batcher.close()
    assert done == [0, 1, 2, 3, 5]
    assert batcher.waiting == 0
