"""Parquet files are read row group by row group; columns are found by type and name, and garbage is named."""

from __future__ import annotations

import json
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.parquet import ParquetSource, find_layout
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(num_rows: int = 7, **columns: Any) -> pa.Table:
    images = [{"bytes": b"picture %d" % row, "path": f"{row}.png"} for row in range(num_rows)]
    texts = [f"caption {row}" for row in range(num_rows)]
    return pa.table({"image": pa.array(images, IMAGE), "text": pa.array(texts, pa.string()), **columns})


def write(folder: Path, rows: pa.Table, name: str = "train.parquet", group: int = 3) -> Path:
    path = folder / name
    pq.write_table(rows, path, row_group_size=group)
    return path


def read(source: ParquetSource) -> list[Raw | Refused]:
    return [item for unit in source.units() for item in source.read(unit)]


def test_what_hugging_face_writes_is_read_with_all_that_is_known(tmp_path: Path) -> None:
    rows = table(
        2,
        License=["CC0-1.0", None],
        url=["https://example.org/0", None],
        author=["A. Painter", ""],
        aesthetic=[5.5, None],
        nsfw=[False, True],
        day=pa.array([1, 2], pa.date32()),
        embedding=[[1.0, 2.0], None],
    )
    first, second = read(ParquetSource(write(tmp_path, rows)))
    assert first == Raw(
        name="train.parquet/0",
        image=b"picture 0",
        captions=("caption 0",),
        source="https://example.org/0",
        license="CC0-1.0",
        author="A. Painter",
        url="https://example.org/0",
        scores={"aesthetic": 5.5, "nsfw": 0.0},
    )
    assert isinstance(second, Raw)
    assert (second.license, second.source) == ("", "")  # the build has words for these
    assert second.scores == {"nsfw": 1.0}


def test_a_unit_is_a_row_group_and_all_make_the_whole(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path, table(7), "b.parquet")
    write(tmp_path / "more", table(2), "a@.parquet")
    source = ParquetSource(tmp_path)
    units = source.units()
    assert units == ["b.parquet@0", "b.parquet@1", "b.parquet@2", "more/a@.parquet@0"]
    found = [item for unit in units for item in pickle.loads(pickle.dumps(source)).read(unit)]
    assert [item.name for item in found] == [f"b.parquet/{row}" for row in range(7)] + [
        "more/a@.parquet/0",
        "more/a@.parquet/1",
    ]
    assert list(source.read(units[2])) == found[6:7]


def test_plain_bytes_and_several_captions_will_do(tmp_path: Path) -> None:
    rows = pa.table(
        {"JPG": pa.array([b"x"], pa.large_binary()), "caption": ["short"], "captions": [["long one", "short"]]}
    )
    (only,) = read(ParquetSource(write(tmp_path, rows)))
    assert isinstance(only, Raw)
    assert (only.image, only.captions) == (b"x", ("short", "long one"))


def test_columns_are_those_that_were_asked_for(tmp_path: Path) -> None:
    rows = table(1, thumbnail=[b"small"], summary=["in short"])
    path = write(tmp_path, rows)
    (only,) = read(ParquetSource(path, image_column="thumbnail", caption_columns=("summary", "text")))
    assert isinstance(only, Raw)
    assert (only.image, only.captions) == (b"small", ("in short", "caption 0"))


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {"text": ["a"]},
            {},
            "no columns of pictures, its columns are text: say which one with --set image_column=NAME",
        ),
        ({"a": [b"x"], "b": [b"y"], "text": ["a"]}, {}, "several columns of pictures"),
        (
            {"image": [b"x"], "label": ["a"]},
            {},
            "no column with a name that captions have, its columns are image, label",
        ),
        ({"image": [b"x"], "text": [1]}, {}, "no column with a name that captions have"),
        ({"image": [b"x"], "text": ["a"]}, {"image_column": "photo"}, "no column 'photo' of pictures"),
        ({"image": [b"x"], "text": ["a"]}, {"caption_columns": ("text", "name")}, "no column 'name' of text"),
    ],
)
def test_a_missing_column_is_named_at_once(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, pa.table(columns))
    with pytest.raises(DataError, match=words) as error:
        ParquetSource(path, **options).units()
    assert str(path) in str(error.value)


def test_two_columns_of_one_name_are_refused() -> None:
    schema = pa.schema([("image", pa.binary()), ("text", pa.string()), ("text", pa.string())])
    with pytest.raises(DataError, match="two columns of one name"):
        find_layout(schema, "twice.parquet")


def test_a_bad_row_costs_one_row(tmp_path: Path) -> None:
    bad_text = pa.Array.from_buffers(  # not UTF-8, which Arrow itself would not have made
        pa.string(), 1, [None, *pa.array([b"\xff\xfe"], pa.binary()).buffers()[1:]]
    )
    long_text = pa.array(["x" * (MAX_TEXT_BYTES + 1)])
    images = pa.array(
        [None, {"bytes": None, "path": "a.png"}, {"bytes": b"", "path": None}, *[{"bytes": b"x"}] * 3], IMAGE
    )
    texts = pa.chunked_array([pa.array(["a", "b", "c"]), bad_text, long_text, pa.array([None], pa.string())])
    items = read(ParquetSource(write(tmp_path, pa.table({"image": images, "text": texts}))))
    assert [item.reason for item in items[:5] if isinstance(item, Refused)] == [
        *[Reason.UNREADABLE] * 4,
        Reason.TOO_LARGE,
    ]
    assert isinstance(items[5], Raw)
    assert items[5].captions == ()


def test_a_path_that_is_not_utf8_costs_nothing(tmp_path: Path) -> None:
    path = pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"\xff.png"], pa.binary()).buffers()[1:]])
    image = pa.StructArray.from_arrays([pa.array([b"x"]), path], ["bytes", "path"])
    (only,) = read(ParquetSource(write(tmp_path, pa.table({"my.image": image, "text": ["a"]}))))
    assert isinstance(only, Raw)
    assert only.image == b"x"


def test_names_that_differ_in_case_alone_are_two(tmp_path: Path) -> None:
    path = write(tmp_path, table(1, Image=[b"other"], Text=["other"]))
    (only,) = read(ParquetSource(path, image_column="Image", caption_columns=["text"]))
    assert isinstance(only, Raw)
    assert (only.image, only.captions) == (b"other", ("caption 0",))


def test_a_picture_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"image": [bytes(MAX_IMAGE_BYTES + 1), b"x"], "text": ["a", "b"]}))
    first, second = read(ParquetSource(path))
    assert isinstance(first, Refused)
    assert first.reason == Reason.TOO_LARGE
    assert isinstance(second, Raw)


def test_garbage_is_one_unit_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, table(1), "good.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")
    source = ParquetSource(tmp_path)
    bad, good = source.units()
    with pytest.raises(DataError, match=r"bad\.parquet is no parquet file, or is damaged"):
        list(source.read(bad))
    assert len(list(source.read(good))) == 1


def test_truncated_and_flipped_files_end_in_a_sentence(tmp_path: Path) -> None:
    whole, rng = write(tmp_path, table(20), group=10).read_bytes(), random.Random(1)
    sentences: list[str] = []
    for trial in range(60):
        data = bytearray(whole)
        if trial % 3:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / "damaged.parquet"
        path.write_bytes(data)
        try:
            assert all(isinstance(item, Raw | Refused) for item in read(ParquetSource(path)))
        except DataError as error:
            sentences.append(str(error))
    assert len(sentences) >= 20
    assert all("damaged.parquet" in sentence for sentence in sentences)


def test_where_there_is_nothing_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no \.parquet in"):
        ParquetSource(tmp_path)
    path = write(tmp_path, table(0))
    with pytest.raises(DataError, match="have no rows"):
        ParquetSource(path).units()


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, table(7))
    source = ParquetSource(path)
    last = source.units()[-1]
    write(tmp_path, table(1))
    with pytest.raises(DataError, match="has no row group 2: it has changed"):
        list(source.read(last))
    with pytest.raises(DataError, match="is no row group of a parquet file"):
        list(source.read("train.parquet"))


def test_the_notes_that_hugging_face_leaves_in_a_schema_do_no_harm(tmp_path: Path) -> None:
    notes = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()}
    assert len(read(ParquetSource(write(tmp_path, table(3).replace_schema_metadata(notes))))) == 3


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'diffusion-at-home\[parquet\]'"):
        ParquetSource(tmp_path)
