"""The index of shards that another program wrote."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from curation_clips import LOOSE, make_mixture, moving, results, run, samples, texture, write
from movies import truncate
from PIL import Image

from regen.curate.indexing import make_index
from regen.curate.options import PoolOptions
from regen.data.shards import ShardSet
from regen.media.reader import VideoReader


def pack(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    return write(tmp_path_factory.mktemp("video") / "a.mp4", moving(0)).read_bytes()


@pytest.mark.parametrize(
    ("kind", "workers"), [(tarfile.PAX_FORMAT, 1), (tarfile.GNU_FORMAT, 2), (tarfile.USTAR_FORMAT, 2)]
)
def test_every_sample_has_its_place_and_facts(tmp_path, video, kind, workers):
    Image.fromarray(texture(20)).save(tmp_path / "picture.jpg")
    picture = (tmp_path / "picture.jpg").read_bytes()
    first = {
        "./folder/one.txt": "a caption, über alles".encode(),
        "./folder/one.mp4": video,
        "./folder/one.cls": b"5",
        "two.mp4": video,
        "two.json": json.dumps({"caption": "from JSON", "class": 2}).encode(),
        "README": b"nothing of interest",
    }
    second = {"three.JPG": picture, "four.thumbnail.jpg": picture, "four.mp4": video, "z.txt": b"alone"}
    pack(tmp_path / "b.tar", first, kind)
    pack(tmp_path / "c.tar", second, kind)
    indexed = make_index(str(tmp_path), PoolOptions(workers))
    assert (indexed.shards, indexed.samples, indexed.skipped) == (2, 4, ())
    shards = ShardSet(str(tmp_path))
    facts = {shards.name(number): shards.info(number) for number in range(4)}
    assert list(facts) == ["./folder/one.mp4", "two.mp4", "three.JPG", "four.mp4"]
    assert shards.shards == ["b.tar", "c.tar"] and list(shards.samples_in("c.tar")) == [2, 3]
    contents = [shards.read(number).content for number in range(4)]
    assert contents == [video, video, picture, video]
    one, two, three, four = facts.values()
    assert (one.caption, one.label, two.caption, two.label) == ("a caption, über alles", 5, "from JSON", 2)
    assert (three.is_image, three.caption, three.label, four.is_image) == (True, "", -1, False)
    assert (one.frames, one.frame_rate, one.width, one.height) == (20, 20.0, 160, 128)


def test_the_index_of_shards_built_here_is_the_same(tmp_path):
    run(make_mixture(tmp_path / "clips"), tmp_path / "out", LOOSE)
    before = results(tmp_path / "out")
    (tmp_path / "out" / "index.safetensors").unlink()
    make_index(str(tmp_path / "out"), PoolOptions(2))
    assert results(tmp_path / "out") == before


def test_invalid_samples_are_listed(tmp_path, video):
    members = {
        "good.mp4": video,
        "text.mp4": b"This is no video.",
        "empty.png": b"",
        "half.mp4": video[: len(video) // 2],
        "class.mp4": video,
        "class.cls": b"cat",
        "json.mp4": video,
        "json.json": b"{",
    }
    pack(tmp_path / "a.tar", members)
    truncate(pack(tmp_path / "cut.tar", {"first.mp4": video, "second.mp4": video}), 0.5)
    (tmp_path / "no.tar").write_bytes(b"This is no tar file." * 100)
    indexed = make_index(str(tmp_path), PoolOptions(2))
    left_out = {name.removeprefix(f"{tmp_path}/"): reason for name, reason in indexed.skipped}
    bad = ("class.mp4", "empty.png", "half.mp4", "json.mp4", "text.mp4")
    assert set(left_out) == {*(f"a.tar/{name}" for name in bad), "cut.tar", "no.tar"}
    assert "is not a tar file" in left_out["no.tar"] and "'cat'" in left_out["a.tar/class.mp4"]
    shards = ShardSet(str(tmp_path))
    assert [shards.name(number) for number in range(len(shards))] == ["good.mp4", "first.mp4"]
    for number in range(len(shards)):
        with VideoReader(shards.read(number)) as reader:
            assert len(list(reader)) == 20


def test_names_that_are_no_text_are_read(tmp_path, video):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        info = tarfile.TarInfo("größe" + "x" * 120 + ".mp4")
        info.size = len(video)
        tar.addfile(info, io.BytesIO(video))
    make_index(str(tmp_path), PoolOptions(1))
    assert ShardSet(str(tmp_path)).read(0).content == video


def test_an_address_of_fsspec(tmp_path, video):
    pack(tmp_path / "a.tar", {"one.mp4": video})
    address = f"file://{tmp_path}"
    assert make_index(address, PoolOptions(1)).samples == 1
    assert ShardSet(address).read(0).content == video
    assert samples(tmp_path).keys() == {""}


def test_without_shards_or_samples(tmp_path):
    with pytest.raises(ValueError, match="There is no .tar file in"):
        make_index(str(tmp_path), PoolOptions(1))
    pack(tmp_path / "a.tar", {"a.txt": b"alone"})
    with pytest.raises(ValueError, match="hold no video and no image"):
        make_index(str(tmp_path), PoolOptions(1))
    assert not (tmp_path / "index.safetensors").exists()


def test_an_index_apart_from_shards_that_cannot_be_written_to(tmp_path, video, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "shards").mkdir()
    pack(tmp_path / "shards" / "a.tar", {"one.mp4": video})
    with monkeypatch.context() as context:
        context.setattr("regen.curate.indexing.write_bytes", refuse)
        with pytest.raises(ValueError, match=r"\(Permission denied\); choose a folder for it by --index-dir"):
            make_index(str(tmp_path / "shards"), PoolOptions(1))
    make_index(str(tmp_path / "shards"), PoolOptions(1), index_dir=tmp_path / "index")
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["a.tar"]
    assert ShardSet(str(tmp_path / "index")).read(0).content == video
