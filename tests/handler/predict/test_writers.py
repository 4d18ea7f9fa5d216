"""What a job reads and writes, without predicting anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler.errors import PredictError
from handler.predict.local import overlay_paths
from handler.predict.sources import list_photos
from handler.predict.writers import Store, rows_of, write_coco, write_parquet
from tests.handler.predict.archives import write_photos

INSTANCE = {
    "id": 0,
    "class_id": 1,
    "class_name": "kite",
    "score": 0.9,
    "box": [1.0, 2.0, 11.5, 12.0],
    "area": 99,
}
MASK = {"size": [30, 40], "counts": "abc"}
ANSWER = {
    "image": {"width": 40, "height": 30},
    "instances": [INSTANCE | {"mask": MASK}],
    "mask_fraction": 0.1,
}
EMPTY = ANSWER | {"instances": [], "mask_fraction": 0.0}
REFUSED = {"error": {"code": "undecodable_image", "message": "Torn.", "field": "image"}}
SIZE = {"width": 40, "height": 30}


def test_sources(tmp_path: Path) -> None:
    paths = [str(path) for path in write_photos(tmp_path / "photos/inner", 3)]
    (tmp_path / "photos/notes.md").write_text("no photo")
    listing = tmp_path / "photos/list.txt"
    listing.write_text(f"inner/002.jpg\n\n{paths[0]}\ninner/002.jpg\ns3://bucket/x.jpg\n")
    (bracketed,) = write_photos(tmp_path / "holiday [1]", 1)
    for sources, expected in (
        ([tmp_path / "photos"], paths),
        ([f"file://{tmp_path}/photos"], paths),
        ([f"{tmp_path}/photos/*/00[12].jpg"], paths[1:]),
        ([paths[2], tmp_path / "photos"], [paths[2], *paths[:2]]),  # each once, in the order of the arguments
        ([listing], [paths[2], paths[0], "s3://bucket/x.jpg"]),  # in the list's order
        ([tmp_path / "holiday [1]"], [str(bracketed)]),  # a folder, not a pattern
    ):
        assert list_photos(*map(str, sources)) == expected
    for nothing in (tmp_path / "none", f"{tmp_path}/*.gif", "nostore://bucket"):
        with pytest.raises(PredictError, match="SOURCE"):
            list_photos(paths[0], str(nothing))


def test_an_object_store_as_source_and_output() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/b.jpg", b"b")
    fs.pipe_file("/bucket/a.png", b"a")
    assert list_photos("memory://bucket") == ["memory:///bucket/a.png", "memory:///bucket/b.jpg"]
    store = Store("memory://results", {"version": "a"}, 10)
    store.add("memory:///bucket/b.jpg", ANSWER)
    with store.exclusive():
        store.flush()
    assert Store("memory://results", {"version": "a"}, 10).done() == {"memory:///bucket/b.jpg"}
    write_coco(store, "memory://results/coco.json", ["balloon", "kite"], "rle")
    assert json.loads(fs.cat_file("/results/coco.json"))["annotations"][0]["score"] == 0.9


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        (EMPTY, {**SIZE, "mask_fraction": 0.0}),
        (REFUSED, {"error_code": "undecodable_image", "error_message": "Torn."}),
        (ANSWER, {**SIZE, "instance": 0, "class_name": "kite", "box": [1.0, 2.0, 11.5, 12.0], "mask": "abc"}),
        (ANSWER | {"instances": [INSTANCE | {"mask": {"polygons": [[1, 2]]}}]}, {"mask": "[[1,2]]"}),
        (ANSWER | {"instances": [INSTANCE]}, {"area": 99, "score": 0.9}),
    ],
    ids=["nothing found", "error", "rle", "polygon", "no mask"],
)
def test_rows(answer: dict, row: dict) -> None:
    (found,) = rows_of("a.jpg", answer)
    assert found | row | {"photo": "a.jpg"} == found
    assert ("mask" in found) == ("mask" in row)


def test_only_what_is_written_is_done(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {"version": "a"}, 2)
    for name in ("a", "b", "c"):
        store.add(name, EMPTY)
    assert store.done() == {"a", "b"}, "c waits for its file to fill"
    (tmp_path / "out/answers/.torn.jsonl.tmp").write_bytes(b'{"photo":"c"')
    assert Store(str(tmp_path / "out"), {"version": "a"}, 2).done() == {"a", "b"}


def test_another_jobs_folder_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {"version": "a", "options": {}}, 2)
    with pytest.raises(PredictError, match="other version"):
        Store(str(tmp_path / "out"), {"version": "b", "options": {}}, 2)
    with store.exclusive(), pytest.raises(PredictError, match="another job is writing"), store.exclusive():
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(PredictError, match="something else"):
        Store(str(tmp_path / "full"), {}, 2)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "out"), {}, 2)
    for name, answer in (("c.jpg", ANSWER), ("a.jpg", EMPTY), ("b.jpg", REFUSED)):
        store.add(name, answer)
    store.flush()
    return store


def test_coco_file(store: Store, tmp_path: Path) -> None:
    write_coco(store, str(tmp_path / "out.json"), ["balloon", "kite"], "rle")
    document = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "c.jpg"]
    common = {"id": 1, "image_id": 2, "category_id": 2, "area": 99, "iscrowd": 0, "score": 0.9}
    assert document["annotations"] == [{**common, "bbox": [1.0, 2.0, 10.5, 10.0], "segmentation": MASK}]
    assert document["errors"] == [{"file_name": "b.jpg", "code": "undecodable_image", "message": "Torn."}]
    assert [category["name"] for category in document["categories"]] == ["balloon", "kite"]


def test_parquet_file(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: make install-batch")
    write_parquet(store, str(tmp_path / "out.parquet"))
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    given = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert given == list(store.rows())


def test_overlays_of_photos_with_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = overlay_paths(tmp_path, ["a/x.jpg", "b/x.png", "c/y.jpg"])
    assert len(set(paths.values())) == 3
    assert Path(paths["c/y.jpg"]).name == "y.png"
    assert paths == overlay_paths(tmp_path, ["a/x.jpg", "b/x.png", "c/y.jpg"]), (
        "a resumed job finds them again"
    )
