"""The shard format: standard tar files, an index that is enough, and every sample by one read."""

import io
import pickle
import tarfile
from pathlib import Path

import fsspec
import pytest
from movies import make_movie, numbered, smooth, truncate
from PIL import Image
from tiny_shards import info_of, make_shards

from regen.data.shards import INDEX, ShardSet, ShardWriter, is_shard_set
from regen.media.files import MissingFileError, VideoError


@pytest.fixture
def files(tmp_path) -> list[Path]:
    Image.fromarray(smooth(30, 40)).save(tmp_path / "c.png")
    return [
        make_movie(tmp_path / "a.mp4", numbered(12)),
        make_movie(tmp_path / "b.mkv", numbered(6), times=[0, 0.04, 0.08, 0.3, 0.4, 0.5]),
        tmp_path / "c.png",
    ]


@pytest.fixture
def shards(files, tmp_path) -> Path:
    return make_shards(tmp_path / "shards", files)


def test_samples_and_their_info_are_read_back(files, shards):
    found = ShardSet(str(shards))
    assert len(found) == 3
    assert found.shards == ["00000.tar", "00001.tar"]
    for number, path in enumerate(files):
        assert found.read(number).content == path.read_bytes()
        assert found.read(number).suffix == path.suffix
        facts = found.info(number)
        assert facts == info_of(path, caption=f"about {path.stem}", label=2 * (number // 2))
        assert facts.key == path.stem
    assert [found.info(number).is_regular for number in range(3)] == [True, False, True]
    assert [list(found.samples_in(name)) for name in found.shards] == [[0, 1], [2]]


def test_shards_are_tar_files_that_can_be_streamed(shards):
    """Readers of WebDataset take the members one after the other from a pipe."""
    stream = io.BytesIO((shards / "00000.tar").read_bytes())
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert [*members] == ["a.mp4", "a.txt", "a.cls", "b.mkv", "b.txt", "b.cls"]
    assert members["a.txt"] == b"about a"


def test_the_same_samples_make_the_same_bytes(files, shards, tmp_path):
    again = make_shards(tmp_path / "again", files)
    for name in ("00000.tar", "00001.tar", INDEX):
        assert (again / name).read_bytes() == (shards / name).read_bytes()


def test_a_shard_is_whole_or_absent(files, tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "x.tar") as writer:  # noqa: PT012
        writer.add(info_of(files[0]), files[0].read_bytes())
        raise RuntimeError
    assert not list(tmp_path.glob("x.*"))


def test_long_and_foreign_names(files, tmp_path):
    name = f"filme/{'ü' * 40}/{'a' * 60}.mp4"
    with ShardWriter(tmp_path / "x.tar") as writer:
        writer.add(info_of(files[0], name), b"content")
    row = writer.rows[0]
    with (tmp_path / "x.tar").open("rb") as file:
        file.seek(row["offset"])
        assert file.read(row["size"]) == b"content"
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [name]


def test_shards_at_an_fsspec_address(shards):
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/bucket/", recursive=True)
    address = "memory://bucket"
    assert is_shard_set(address)
    found = pickle.loads(pickle.dumps(ShardSet(address)))
    assert found.read(2).content == ShardSet(str(shards)).read(2).content
    memory.rm("/bucket/00001.tar")
    with pytest.raises(MissingFileError, match="memory://bucket/00001.tar/c.png can't be read"):
        found.read(2)


def test_missing_shards_are_errors(shards, tmp_path):
    found = ShardSet(str(shards))
    truncate(shards / "00001.tar", 0.05)
    with pytest.raises(VideoError, match="is cut off; copy the shard again"):
        found.read(2)
    (shards / "00001.tar").unlink()
    with pytest.raises(MissingFileError, match="check the shard"):
        found.read(2)
    assert not is_shard_set(str(tmp_path))
    with pytest.raises(ValueError, match="has no readable index.safetensors"):
        ShardSet(str(tmp_path))
    with pytest.raises(ValueError, match="needs another package|no readable|not known"):
        ShardSet("unknown://bucket")


def test_a_damaged_index_is_an_error(shards):
    whole = (shards / INDEX).read_bytes()
    cut_off = [whole[: int(part * len(whole))] for part in (0.0, 0.1, 0.5, 0.9)]
    for content in (b"nonsense", b"\x08\0\0\0\0\0\0\0{}      ", *cut_off):
        (shards / INDEX).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged; make it again"):
            ShardSet(str(shards))
