"""What a job reads and writes, without predicting anything."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from handler.errors import PredictError
from handler.predict.pictures import picture_paths
from handler.predict.sources import is_film, list_sources
from handler.predict.store import Store
from handler.predict.writers import write_coco, write_counts, write_parquet
from tests.handler.predict.archives import write_photos

INSTANCE = {
    "id": 0,
    "class_id": 1,
    "class_name": "kite",
    "score": 0.9,
    "box": [1.0, 2.0, 11.5, 12.0],
    "area": 99,
    "mask": {"size": [30, 40], "counts": "abc"},
}
SIZE = {"width": 40, "height": 30}
ANSWER = {
    "model": {"version": "a"},
    "image": SIZE,
    "instances": [INSTANCE],
    "mask_fraction": 0.1,
}
EMPTY = ANSWER | {"instances": [], "mask_fraction": 0.0}
REFUSED = {"error": {"code": "undecodable_image", "message": "Torn.", "field": "image"}}


def test_sources(tmp_path: Path) -> None:
    paths = [str(path) for path in write_photos(tmp_path / "photos/inner", 3)]
    (tmp_path / "photos/notes.md").write_text("no photo")
    listing = tmp_path / "photos/list.txt"
    listing.write_text(f"inner/002.jpg\n\n{paths[0]}\ninner/002.jpg\ns3://bucket/x.jpg\n")
    (bracketed,) = write_photos(tmp_path / "holiday [1]", 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in ("b c/2.jpg", "1.PNG", "film.MP4", "notes.md", "__MACOSX/1.png"):
            file.writestr(name, b"1")
    zipped = [f"zip://{name}::{tmp_path}/all.zip" for name in ("1.PNG", "b c/2.jpg", "film.MP4")]
    for sources, expected in (
        ([tmp_path / "photos"], paths),
        ([f"file://{tmp_path}/photos"], paths),
        ([f"{tmp_path}/photos/*/00[12].jpg"], paths[1:]),
        ([paths[2], tmp_path / "photos"], [paths[2], *paths[:2]]),  # each once, in the order of the arguments
        ([listing], [paths[2], paths[0], "s3://bucket/x.jpg"]),  # in the list's order
        ([tmp_path / "holiday [1]"], [str(bracketed)]),  # a folder, not a pattern
        ([tmp_path / "all.zip"], zipped),
    ):
        assert list_sources(*map(str, sources)) == expected
    assert [is_film(source) for source in zipped] == [False, False, True]
    (tmp_path / "text.zip").write_text("text")
    for nothing in (tmp_path / "text.zip", tmp_path / "none", f"{tmp_path}/*.gif", "nostore://bucket"):
        with pytest.raises(PredictError, match="SOURCE"):
            list_sources(paths[0], str(nothing))


def test_an_object_store_as_source_and_output() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/b.jpg", b"b")
    fs.pipe_file("/bucket/a.png", b"a")
    assert list_sources("memory://bucket") == ["memory:///bucket/a.png", "memory:///bucket/b.jpg"]
    store = Store("memory://results", {"version": "a"}, 10)
    store.add("memory:///bucket/b.jpg", ANSWER)
    with store.exclusive():
        store.flush()
    assert Store("memory://results", {"version": "a"}, 10).done() == {"memory:///bucket/b.jpg"}
    write_coco(store, "memory://results/coco.json", ["balloon", "kite"])
    assert json.loads(fs.cat_file("/results/coco.json"))["annotations"][0]["score"] == 0.9


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
    write_coco(store, str(tmp_path / "out.json"), ["balloon", "kite"])
    document = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "c.jpg"]
    common = {"id": 1, "image_id": 2, "category_id": 2, "area": 99, "iscrowd": 0, "score": 0.9}
    assert document["annotations"] == [
        {**common, "bbox": [1.0, 2.0, 10.5, 10.0], "segmentation": INSTANCE["mask"]}
    ]
    assert document["errors"] == [{"file_name": "b.jpg", "code": "undecodable_image", "message": "Torn."}]
    assert [category["name"] for category in document["categories"]] == ["balloon", "kite"]


def test_parquet_file(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: make install-batch")
    write_parquet(store, str(tmp_path / "out.parquet"), [])
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    found = {name: value for name, value in INSTANCE.items() if name != "id"} | {"instance": 0, "mask": "abc"}
    assert [{name: value for name, value in row.items() if value is not None} for row in rows] == [
        {"photo": "c.jpg", **SIZE, "mask_fraction": 0.1, **found},
        {"photo": "a.jpg", **SIZE, "mask_fraction": 0.0},
        {"photo": "b.jpg", "error_code": "undecodable_image", "error_message": "Torn."},
    ]


def test_counts_file(store: Store, tmp_path: Path) -> None:
    write_counts(store, str(tmp_path / "out.csv"), ["balloon", "kite"])
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "photo,error,instances,mask_fraction,balloon count,balloon area,kite count,kite area",
        "a.jpg,,0,0.0,0,0,0,0",
        "b.jpg,undecodable_image,0,,0,0,0,0",
        "c.jpg,,1,0.1,0,0,1,99",
    ]


def test_pictures_of_photos_with_one_name_are_told_apart(tmp_path: Path) -> None:
    photos = ["a/x.jpg", "b/x.png", "c/y.jpg", "zip://d/z.jpg::all.zip"]
    paths = picture_paths(tmp_path, photos)
    assert len(set(paths.values())) == 4
    assert paths["c/y.jpg"].name == "y.png"
    assert paths["zip://d/z.jpg::all.zip"].name == "z.png"
    assert paths == picture_paths(tmp_path, photos), "a resumed job finds them again"
