"""Bulk prediction without a cluster: what workers do, what is recorded, what is to be labelled."""

import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import street
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shared import THREE_CLASSES, saved
from test_cli import Program

import sctnet
from sctnet.data.images import FirstFrame
from sctnet.data.rle import Runs, decode_runs
from sctnet.errors import SctnetError
from sctnet.inference.files import find_pictures, predict_files
from sctnet.serving.bulk import prediction as bulk
from sctnet.serving.bulk import storage
from sctnet.serving.bulk import worker as worker_module
from sctnet.serving.bulk.manifest import Manifest, Row
from sctnet.serving.bulk.model_files import read_model_files
from sctnet.serving.bulk.output_paths import safe_place
from sctnet.serving.bulk.prediction import BulkOptions, predict_bulk
from sctnet.serving.bulk.work import Recorded, Unit, find_work
from sctnet.serving.bulk.worker import Worker, WorkerOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return str(saved(folder, classes=THREE_CLASSES))


@pytest.fixture
def pictures(tmp_path):
    """Names that collide, odd sizes, a folder in a folder, one that is none."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for number, (name, size) in enumerate(
        {"a.png": (24, 31), "a.bmp": (24, 31), "deep/a.png": (9, 40), "b.jpg": (1, 1)}.items()
    ):
        Image.fromarray(street(*size, number)).save(folder / name)
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """The engine with its workers in this process, instead of Ray's."""

    def run(units, model, settings, workers, options):
        worker = Worker(model, settings)
        run.count += 1
        for number, unit in enumerate(units):
            for rows in worker.label(Unit.from_text(unit.to_text()), f"{run.count}-{number:06}"):
                statistics = bulk._statistics(rows)
                yield {key: values[0] for key, values in statistics.items()}
                if run.stop_after is not None:
                    run.stop_after -= 1
                    if run.stop_after < 0:
                        raise KeyboardInterrupt

    run.count, run.stop_after = 0, None

    @bulk.contextmanager
    def cluster(options):
        yield 2

    monkeypatch.setattr(bulk, "_run", run)
    monkeypatch.setattr(bulk, "_cluster", cluster)
    return run


def manifest_rows(out):
    return pq.read_table(f"{out}/manifest.parquet").to_pylist()


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


def as_local(model, inputs, out):
    """What the local engine writes."""
    found, failures = find_pictures([str(each) for each in inputs], out)
    segmenter = sctnet.Segmenter(model, "cpu", batch_size=1)
    summary = predict_files(segmenter, found, out, ["labels"])
    return contents(out / "labels"), [*failures, *summary.failures]


# Equal to the local engine


def test_bulk_writes_what_the_local_engine_writes(model, pictures, tmp_path, in_process):
    out = tmp_path / "bulk"
    summary = predict_bulk(model, [str(pictures)], str(out), BulkOptions())
    expected, failures = as_local(model, [pictures], tmp_path / "local")
    assert contents(out / "labels") == expected
    assert len(expected) == 4
    assert (summary.labelled, summary.failures) == (4, failures)
    rows = manifest_rows(out)
    assert [row["source"] for row in rows] == sorted(
        str(file) for file in pictures.rglob("*") if file.is_file()
    )
    for row in rows:
        if row["name"] == "c":
            assert row["output"] is None
            assert row["areas"] is None
            assert "c.jpg: not an image" in row["error"]
            continue
        labels = np.asarray(Image.open(out / row["output"]))
        assert labels.shape == (row["height"], row["width"])
        counts = np.bincount(labels.ravel(), minlength=3)
        assert list(row["areas"].values()) == counts.tolist()
        assert row["error"] is None
    assert {row["model"] for row in rows} == {read_model_files(model).sha256}
    assert sorted(path.name for path in out.iterdir()) == ["labels", "manifest.parquet"]


def test_further_frames_are_told(model, pictures, tmp_path, in_process):
    frames = [Image.fromarray(street(24, 31, number)) for number in range(3)]
    frames[0].save(pictures / "film.gif", save_all=True, append_images=frames[1:])
    summary = predict_bulk(model, [str(pictures)], str(tmp_path / "out"), BulkOptions())
    assert summary.animated == [str(pictures / "film.gif")]
    counts = {Path(row["source"]).name: row["frames"] for row in manifest_rows(tmp_path / "out")}
    assert counts == {"a.png": 1, "a.bmp": 1, "b.jpg": 1, "film.gif": 3, "c.jpg": None}


def test_run_lengths_are_the_label_maps(model, pictures, tmp_path, in_process):
    predict_bulk(model, [str(pictures)], str(tmp_path / "maps"), BulkOptions())
    predict_bulk(model, [str(pictures)], str(tmp_path / "codes"), BulkOptions(kind="rle"))
    codes = pq.read_table(tmp_path / "codes/rle").to_pylist()
    for row in manifest_rows(tmp_path / "maps"):
        if row["error"] is None:
            labels = np.asarray(Image.open(tmp_path / "maps" / row["output"]))
            mine = [code for code in codes if code["source"] == row["source"]]
            assert {code["class"] for code in mine} == {THREE_CLASSES[i] for i in np.unique(labels)}
            for code in mine:
                runs = Runs(size=code["size"], counts=code["counts"])
                expected = labels == THREE_CLASSES.index(code["class"])
                np.testing.assert_array_equal(decode_runs(runs), expected)


# Going on


def test_a_stopped_run_goes_on(model, pictures, tmp_path, in_process):
    for kind in ("labels", "rle"):
        out, whole = tmp_path / kind, tmp_path / f"{kind}-whole"
        options = BulkOptions(kind=kind)
        predict_bulk(model, [str(pictures)], str(whole), options)
        in_process.stop_after = 1
        with pytest.raises(KeyboardInterrupt):
            predict_bulk(model, [str(pictures)], str(out), options)
        in_process.stop_after = None
        (out / kind).mkdir(exist_ok=True)
        # Written, but never recorded: as if the worker had died in between.
        orphan = out / kind / ("b.png" if kind == "labels" else "dead-000000-0000.parquet")
        orphan.write_bytes(b"half")
        summary = predict_bulk(model, [str(pictures)], str(out), options)
        assert summary.skipped == 2
        assert summary.labelled == 2
        rows, expected = manifest_rows(out), manifest_rows(whole)
        assert len(rows) == len({row["source"] for row in rows}) == 5
        if kind == "labels":
            assert rows == expected
            assert contents(out / kind) == contents(whole / kind)
        else:
            found = [pq.read_table(each / kind).sort_by("source") for each in (out, whole)]
            assert found[0].equals(found[1])


def test_only_what_failed_is_tried_again(model, pictures, tmp_path, in_process, monkeypatch):
    out = str(tmp_path / "out")
    predict_bulk(model, [str(pictures)], out, BulkOptions())
    before = contents(tmp_path / "out/labels")
    Image.fromarray(street(12, 13)).save(pictures / "c.jpg")
    read = []
    monkeypatch.setattr(
        worker_module,
        "decode",
        lambda item: read.append(item.name) or FirstFrame(street(12, 13), 1),
    )
    summary = predict_bulk(model, [str(pictures)], out, BulkOptions())
    assert read == ["c"]
    assert (summary.labelled, summary.skipped, summary.failures) == (1, 4, [])
    after = contents(tmp_path / "out/labels")
    assert {name: after[name] for name in before} == before
    assert sorted(after) == sorted([*before, "c.png"])
    assert [row["error"] for row in manifest_rows(out)] == [None] * 5


def test_names_stay_when_pictures_come(model, pictures, tmp_path, in_process):
    """A picture that would have taken another's name, had it been there, does not now."""
    out = str(tmp_path / "out")
    predict_bulk(model, [str(pictures)], out, BulkOptions())
    names = {row["source"]: row["name"] for row in manifest_rows(out)}
    Image.fromarray(street(12, 13)).save(pictures / "a.Tif")  # sorts before the others
    predict_bulk(model, [str(pictures)], out, BulkOptions())
    later = {row["source"]: row["name"] for row in manifest_rows(out)}
    assert {source: later[source] for source in names} == names
    assert later[str(pictures / "a.Tif")] == "a_Tif"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "its precision is (fp32|bf16), not fp16"),
        ({"tile": 64}, "its tile is None, not 64"),
        ({"kind": "rle"}, "its save is labels, not rle"),
    ],
)
def test_other_options_are_refused(model, pictures, tmp_path, in_process, change, message):
    out = str(tmp_path / "out")
    predict_bulk(model, [str(pictures)], out, BulkOptions())
    before = contents(tmp_path / "out")
    with pytest.raises(SctnetError, match=message):
        predict_bulk(model, [str(pictures)], out, BulkOptions(**change))
    assert contents(tmp_path / "out") == before


def test_another_models_manifest_is_refused(model, pictures, tmp_path, in_process):
    out = str(tmp_path / "out")
    predict_bulk(model, [str(pictures)], out, BulkOptions())
    other = sctnet.create_model("sctnet-tiny", num_classes=3)
    folder = sctnet.save_model(other, tmp_path / "other", THREE_CLASSES)
    with pytest.raises(SctnetError, match=r"manifest.parquet: its model is .* give another --out"):
        predict_bulk(str(folder), [str(pictures)], out, BulkOptions())
    (tmp_path / "out/manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(SctnetError, match="not a manifest of bulk prediction"):
        predict_bulk(model, [str(pictures)], out, BulkOptions())


# Workers that die


def settings(out, model, **options):
    return WorkerOptions(str(out), "labels", {"model": read_model_files(model).sha256}, **options)


def test_a_part_that_is_there_is_not_done_again(model, pictures, tmp_path, monkeypatch):
    work = find_work([str(pictures)], str(tmp_path / "out"), {})
    (unit,) = work.units
    options = settings(tmp_path / "out", model, device="cpu", per_part=2)
    first = list(Worker(read_model_files(model), options).label(unit, "run"))
    assert [len(rows) for rows in first] == [2, 2, 1]
    (tmp_path / "out/manifest.parts/run-0001.parquet").unlink()
    (tmp_path / "out/manifest.parts/run-0001.begun").unlink()
    read, decoded = [], worker_module.decode
    monkeypatch.setattr(
        worker_module, "decode", lambda item: read.append(item.source) or decoded(item)
    )
    again = list(Worker(read_model_files(model), options).label(unit, "run"))
    assert again == first
    assert sorted(read) == sorted(row.source for row in first[1])


class Death(BaseException):
    """What no worker survives."""


def test_a_picture_that_kills_workers_is_found_and_left_out(model, pictures, tmp_path, monkeypatch):
    deadly, decoded, deaths = str(pictures / "a.png"), worker_module.decode, 0

    def dying(item):
        if item.source == deadly:
            raise Death
        return decoded(item)

    monkeypatch.setattr(worker_module, "decode", dying)
    (unit,) = find_work([str(pictures)], str(tmp_path / "out"), {}).units
    options = settings(tmp_path / "out", model, device="cpu")
    while True:
        try:
            (rows,) = Worker(read_model_files(model), options).label(unit, "run")
            break
        except Death:
            deaths += 1
            assert deaths < 5
    assert deaths == 3, "once among others, twice alone"
    errors = {row.source: row.error for row in rows}
    assert "2 workers died while they labelled it" in errors[deadly]
    assert sum(error is None for error in errors.values()) == 3
    assert len(rows) == 5


# The manifest


@given(
    parts=st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=4), max_size=5),
    compacted=st.sets(st.integers(0, 4)),
)
def test_a_manifest_has_each_picture_once(parts, compacted):
    folder = fsspec.filesystem("memory")
    if folder.exists("/manifest-test"):
        folder.rm("/manifest-test", recursive=True)
    manifest = Manifest("memory://manifest-test", {"model": "m"}, THREE_CLASSES)
    manifest.begin()
    expected = {}
    for number, part in enumerate(parts):
        rows = []
        for source, good in part:
            error = None if good else f"bad {number}"
            if good or expected.get(str(source)) != (None,):
                expected[str(source)] = (error,)
            rows.append(Row(str(source), f"n{source}", None, 1, 2, None, error))
        manifest.write_part(f"{number:04}", rows)
        if number in compacted:
            manifest.compact()
    recorded = manifest.recorded()
    assert {key: each.done for key, each in recorded.items()} == {
        key: error is None for key, (error,) in expected.items()
    }
    manifest.compact()
    rows = pq.read_table(io.BytesIO(storage.read_bytes(manifest.file))).to_pylist()
    assert {row["source"]: (row["error"],) for row in rows} == expected
    assert len(rows) == len(expected)
    assert storage.files_below("memory://manifest-test") == [manifest.file]


# What is to be labelled


def encoded(seed=0, size=(10, 12), kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(street(*size, seed)).save(content, kind)
    return content.getvalue()


def labelled(model, source, out, **options):
    summary = predict_bulk(model, [str(source)], str(out), BulkOptions(**options))
    return summary, contents(Path(out) / "labels"), manifest_rows(out)


def expected_map(model, data):
    return sctnet.Segmenter(model, "cpu")(data).labels


def test_tables_of_bytes(model, tmp_path, in_process):
    data = [encoded(seed) for seed in range(6)]
    ids = ["x/one.png", "../../up", "same", "same", "", "v1.5"]
    table = pa.table({"n": range(6), "key": ids, "jpg": [*data[:4], None, data[5]]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    summary, files, rows = labelled(model, tmp_path / "t.parquet", tmp_path / "out")
    assert sorted(files) == ["same.png", "same_2.png", "up.png", "v1.5.png", "x/one.png"]
    for name, number in {"x/one": 0, "up": 1, "same": 2, "same_2": 3, "v1.5": 5}.items():
        labels = np.asarray(Image.open(tmp_path / f"out/labels/{name}.png"))
        np.testing.assert_array_equal(labels, expected_map(model, data[number]))
    (failure,) = summary.failures
    assert failure == f"{tmp_path}/t.parquet::t/000004: the row holds no picture"
    assert len({row["source"] for row in rows}) == 6
    again, _, _ = labelled(model, tmp_path / "t.parquet", tmp_path / "out")
    assert (again.labelled, again.skipped, len(again.failures)) == (0, 5, 1)


def test_tables_as_hugging_face_writes_them(model, tmp_path, in_process):
    cells = [{"bytes": encoded(seed), "path": f"photo{seed}.png"} for seed in range(3)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": cells, "label": [1, 2, 3]}), tmp_path / "data/a.parquet")
    _, files, _ = labelled(model, tmp_path / "data", tmp_path / "out")
    assert sorted(files) == ["photo0.png", "photo1.png", "photo2.png"]


def test_tables_of_paths(model, pictures, tmp_path, in_process):
    """Relative ones are meant from the table; places are kept below what all have in common."""
    paths = [str(pictures / "a.png"), "pictures/deep/a.png", str(pictures / "gone.png"), None]
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "path": paths}), tmp_path / "t.parquet")
    summary, files, _ = labelled(model, tmp_path / "t.parquet", tmp_path / "out")
    assert sorted(files) == ["a.png", "deep/a.png"]
    assert summary.failures == [f"{pictures}/gone.png: no such file: check the path"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, {}, "which column holds the pictures.*--column: a, b"),
        ({"a": [b"x"], "b": [b"y"]}, {}, "which column"),
        ({"a": [1]}, {}, "which column"),
        ({"a": ["x"]}, {"column": "b"}, "no column 'b' of paths or bytes: there are a"),
        ({"a": [1]}, {"column": "a"}, "no column 'a' of paths or bytes"),
    ],
)
def test_columns_that_are_unclear(model, tmp_path, in_process, columns, options, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(SctnetError, match=message):
        labelled(model, tmp_path / "t.parquet", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none(model, tmp_path, in_process):
    (tmp_path / "t.parquet").write_bytes(b"nothing")
    with pytest.raises(SctnetError, match=r"t.parquet: not a Parquet table"):
        labelled(model, tmp_path / "t.parquet", tmp_path / "out")


def written_shards(folder, count=2, size=3):
    webdataset = pytest.importorskip("webdataset")
    data = {}
    for shard in range(count):
        with webdataset.TarWriter(str(folder / f"part-{shard:03}.tar")) as writer:
            for number in range(size):
                key = f"sub/{shard}{number}"
                data[f"part-{shard:03}/{key}"] = encoded(10 * shard + number)
                mask = {"seg.png": encoded(99)} if number else {}
                sample = {"jpg": data[f"part-{shard:03}/{key}"], "cls": b"3", **mask}
                writer.write({"__key__": key, **sample})
    return data


@pytest.mark.parametrize(
    "source",
    ["part-{000..001}.tar", *(pytest.param(s, marks=pytest.mark.slow) for s in ("", "part-*.tar"))],
)
def test_shards(model, tmp_path, in_process, source):
    folder = tmp_path / "shards"
    folder.mkdir()
    data = written_shards(folder)
    given = f"{folder}/{source}".rstrip("/")
    _, files, rows = labelled(model, given, tmp_path / "out")
    assert sorted(files) == sorted(f"{name}.png" for name in data)
    for name, content in data.items():
        labels = np.asarray(Image.open(tmp_path / f"out/labels/{name}.png"))
        np.testing.assert_array_equal(labels, expected_map(model, content))
    assert rows[0]["source"] == f"{folder}/part-000.tar::sub/00.jpg"
    again, _, _ = labelled(model, given, tmp_path / "out")
    assert (again.labelled, again.skipped) == (0, 6)


def test_a_shard_cut_short_gives_what_it_has(model, tmp_path, in_process):
    written_shards(tmp_path, 1, 5)
    shard = tmp_path / "part-000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    summary, files, _ = labelled(model, shard, tmp_path / "out")
    assert 1 <= len(files) < 5
    (failure,) = summary.failures
    assert "part-000.tar: the shard is damaged or cut short" in failure
    shard.write_bytes(whole)
    summary, files, _ = labelled(model, shard, tmp_path / "out")
    assert len(files) == 5
    assert summary.failures == []


def test_members_cannot_leave_the_destination(model, tmp_path, in_process):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name in ("../../evil.png", "/abs.png", "a/../../b.png", "d\\win.png"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded())
            archive.addfile(member, io.BytesIO(encoded()))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    _, files, _ = labelled(model, tmp_path / "evil.tar", tmp_path / "x/y/out")
    assert len(files) == 4
    assert len(list((tmp_path / "x").rglob("*.png"))) == 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["evil.tar", "x"]


@given(st.text(max_size=400))
def test_places_stay_below(text):
    place = safe_place(text)
    assert not place.is_absolute()
    assert ".." not in place.parts
    assert place.parts
    assert all(1 <= len(part.encode()) <= 200 and "\0" not in part for part in place.parts)


def test_addresses_in_and_out(model, tmp_path, in_process):
    memory = fsspec.filesystem("memory")
    for name in ("in/a/1.png", "in/b/1.png", "in/b/note.txt"):
        memory.pipe(f"/bulk-{name}", encoded(len(name)))
    for source, names in {
        "memory://bulk-in": {"a/1.png", "b/1.png"},
        "memory://bulk-in/*/*.png": {"1.png", "1_png.png"},
        "memory://bulk-in/a/1.png": {"1.png"},
    }.items():
        out = f"memory://bulk-out-{len(names)}{len(source)}"
        summary = predict_bulk(model, [source], out, BulkOptions())
        assert summary.failures == []
        found = {name.partition("/labels/")[2] for name in storage.files_below(f"{out}/labels")}
        assert found == names
        assert predict_bulk(model, [source], out, BulkOptions()).skipped == len(names)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: there is no such file or folder; give pictures"),
        ("*.jpg", "no pictures, tables or shards there"),
        ("memory://nowhere", "there is no such file or folder"),
        ("nosuch://bucket/a.jpg", "nothing here opens nosuch:// addresses"),
    ],
)
def test_nothing_to_label(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SctnetError, match=message.replace("*", r"\*")):
        find_work([source], str(tmp_path / "out"), {})


def test_units_hold_every_picture_once(tmp_path):
    for number in range(23):
        (tmp_path / f"{number}.png").touch()
    recorded = {str(tmp_path / f"{number}.png"): Recorded(f"{number}", True) for number in range(4)}
    work = find_work([str(tmp_path)], str(tmp_path / "out"), recorded, None, lambda _: 5)
    names = [name for unit in work.units for _, name in unit.pictures]
    assert sorted(names, key=int) == [str(number) for number in range(4, 23)]
    assert [len(unit.pictures) for unit in work.units] == [5, 5, 5, 4]
    assert (work.pictures, work.skipped) == (19, 4)


def test_earlier_results_are_not_labelled(model, pictures, tmp_path, in_process):
    out = pictures / "results"
    for _ in range(2):
        predict_bulk(model, [str(pictures)], str(out), BulkOptions())
    assert len(contents(out / "labels")) == 4


# Broken places


def test_a_destination_that_cannot_be_written(model, pictures, tmp_path, in_process):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SctnetError, match="out"):
        predict_bulk(model, [str(pictures)], str(tmp_path / "out"), BulkOptions())


def test_notes_are_json(model, tmp_path):
    manifest = Manifest(str(tmp_path), {"model": "m"}, THREE_CLASSES)
    assert manifest.begun("part") is None
    manifest.note("part", json.dumps({"deaths": {}}))
    assert json.loads(manifest.begun("part")) == {"deaths": {}}


# The command line


@pytest.fixture
def run(monkeypatch, capsys):
    Program.monkeypatch, Program.capsys = monkeypatch, capsys
    return Program


def assert_refused(program, message):
    assert program.status == 2, program.err
    assert message in program.err
    assert program.err.count("\n") == 1
    assert "Traceback" not in program.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "spark"], "--engine spark: choose local or ray"),
        (["--workers", "2"], "--workers: only with --engine ray; leave out"),
        (["--address", "x", "--column", "y"], "--address, --column: only with --engine ray"),
        (["--engine", "ray", "--realtime"], "--realtime: only with --engine local"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: give a number from 1"),
        (["--engine", "ray", "--workers", "3:2"], "--workers 3:2: give a number from 1"),
        (["--engine", "ray", "--save", "overlay"], "overlay to save: with Ray, choose labels or"),
        (["--engine", "ray", "--input", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(run, model, pictures, tmp_path, in_process, arguments, message):
    given = [] if "nowhere" in arguments else [pictures]
    program = run("predict", model, *given, "--out", tmp_path / "out", *arguments)
    assert_refused(program, message)
    assert not (tmp_path / "out").exists()


def test_nothing_given_is_one_sentence(run, model, tmp_path):
    assert_refused(run("predict", model, "--out", tmp_path / "out"), "nothing to label")
    program = run("predict", model, "a.jpg", "--out", "s3://bucket/x")
    assert_refused(program, "--out s3://bucket/x: an address is written to by --engine ray")


def test_the_program_tells_of_failures(run, model, pictures, tmp_path, in_process):
    arguments = ["--engine", "ray", "--input", pictures, "--out", tmp_path / "out"]
    program = run("predict", model, *arguments)
    assert program.status == 1
    assert "4 pictures labelled, 1 failed; written to" in program.out
    assert "c.jpg: not an image" in program.err
    (pictures / "c.jpg").unlink()
    program = run("predict", model, *arguments)
    assert program.status == 0
    assert "0 pictures labelled, 4 were there already, 0 failed" in program.out


def test_ray_missing_is_one_sentence(run, model, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    program = run("predict", model, pictures, "--out", tmp_path / "out", "--engine", "ray")
    assert_refused(program, 'pip install "sctnet[ray]"')
