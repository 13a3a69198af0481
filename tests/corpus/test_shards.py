"""What is written into shards of latents comes back: any sample, any chunks, in any process."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from regen.corpus.dataset import LatentDataset
from regen.corpus.shards import MANIFEST, InputShard, LatentInfo, LatentManifest, LatentShardWriter, ShardRows
from regen.latents import Latents

KEYS = ("a", "größer/b", 'with "quotes"', "d", "e")
CHUNKS = (3, 1, 7, 2, 4)


def manifest(shards: list[InputShard]) -> LatentManifest:
    statistics = [[0.1, 0.2, 0.3], [1 / 3, 0.5, 0.6]]
    return LatentManifest(
        model="tiny",
        model_class="AutoencoderRegen",
        weights="0123456789abcdef",
        latent_channels=3,
        temporal_compression_ratio=4,
        spatial_compression_ratio=8,
        chunk_frames=5,
        latents_mean=statistics,
        latents_std=statistics,
        settings={"size": None},
        arguments=["--model", "tiny", "--data", "my clips"],
        classes={"cat": 1},
        shards=shards,
    )


def info_of(key: str, latents: Tensor, caption: str = "", label: int = -1) -> LatentInfo:
    chunks, _, frames, height, width = latents.shape
    is_image = (chunks, frames) == (1, 1)
    return LatentInfo(
        key=key,
        frames=1 if is_image else 5 * chunks - 2,
        frame_rate=1.0 if is_image else 23.976,
        height=8 * height,
        width=8 * width,
        source_height=99,
        source_width=101,
        chunks=chunks,
        latent_frames=frames,
        last_frames=1 if is_image else 3,
        caption=caption,
        label=label,
    )


def latents_of(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    frames = 1 if CHUNKS[number] == 1 else 2
    return torch.randn(CHUNKS[number], 3, frames, 2 + number, 3, generator=generator).bfloat16()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five samples in two shards, a third shard without any; one sample was skipped."""
    out = tmp_path / "latents"
    out.mkdir()
    for name, numbers in (("00000", (0, 1, 2)), ("00001", (3, 4)), ("00002", ())):
        with LatentShardWriter(tmp_path, name, [*(KEYS[number] for number in numbers), "bad"]) as writer:
            for number in numbers:
                latents = latents_of(number)
                caption = f"ein schöner Text {number}" if number % 2 else ""
                writer.add(info_of(KEYS[number], latents, caption, number - 1), Latents.of(latents))
            writer.skip("bad", "It is damaged.")
        writer.publish(out)
    shards = [InputShard(f"0000{number}", "größer", 3, "00") for number in range(3)]
    (out / MANIFEST).write_text(manifest(shards).text())
    return out


def test_samples_and_manifest_are_read_back(folder):
    dataset = LatentDataset(folder)
    assert len(dataset) == 5
    for number in (4, 0, 2, 1, 3):
        item = dataset[number]
        assert torch.equal(item["latents"], latents_of(number)) and item["latents"].dtype == torch.bfloat16
        caption = f"ein schöner Text {number}" if number % 2 else ""
        assert (item["key"], item["caption"], item["label"]) == (KEYS[number], caption, number - 1)
        assert dataset.info(number) == info_of(KEYS[number], latents_of(number), caption, number - 1)
    assert dataset.column("chunks").tolist() == [*CHUNKS]
    assert dataset.column("latent_frames").tolist() == [2, 1, 2, 2, 2]
    assert len(list(dataset)) == 5  # it ends
    assert dataset.manifest == manifest([InputShard(f"0000{i}", "größer", 3, "00") for i in range(3)])


def test_safetensors_reads_the_files(folder):
    tensors = load_file(folder / "00000.safetensors")
    assert {*tensors} == {*KEYS[:3]}
    assert all(torch.equal(tensors[KEYS[number]], latents_of(number)) for number in range(3))
    assert load_file(folder / "00002.safetensors") == {}


def test_in_any_process_and_order(folder):
    dataset, order = LatentDataset(folder), [3, 0, 4, 2, 1]
    dataset.latents(0)  # it can be sent to other processes after it was read
    copy = pickle.loads(pickle.dumps(dataset))
    for number, item in zip(order, DataLoader(copy, None, sampler=order, num_workers=2), strict=True):
        assert item["key"] == KEYS[number] and torch.equal(item["latents"], latents_of(number))


def hybrid_of(number: int, regions: int = 2) -> Latents:
    """As many chunks as `latents_of`, with 0 to 4 1D latents in each region; the last sample has none."""
    structural, generator = latents_of(number), torch.Generator().manual_seed(number)
    shape = len(structural), regions
    lengths = torch.randint(0, 5, shape, generator=generator) if number < 4 else torch.zeros(shape).long()
    longest = int(lengths.sum(1).max())
    sequence = torch.randn(len(structural), 3, longest, generator=generator).bfloat16()
    there = torch.arange(longest) < lengths.sum(1)[:, None]
    return Latents(structural, sequence * there[:, None], lengths)


@pytest.fixture(scope="module")
def hybrids(tmp_path_factory) -> Path:
    """Five samples of three tensors each, after one that was skipped."""
    folder = tmp_path_factory.mktemp("hybrids")
    with LatentShardWriter(folder, "0", [*KEYS, "bad"], has_sequence=True) as writer:
        writer.skip("bad", "It is damaged.")
        for number, key in enumerate(KEYS):
            latents = hybrid_of(number)
            writer.add(replace(info_of(key, latents.grid), sequence_length=latents.length), latents)
    (folder / MANIFEST).write_text(manifest([InputShard("0", "clips", 6, "00")]).text())
    return folder


@pytest.fixture
def changeable(hybrids, tmp_path) -> Path:
    return shutil.copytree(hybrids, tmp_path / "copy")


def test_hybrid_latents_are_three_tensors_without_padding(hybrids):
    tensors = load_file(hybrids / "0.safetensors")
    assert {*tensors} == {key + part for key in KEYS for part in ("", "#sequence", "#lengths")}
    for number, key in enumerate(KEYS):
        latents = hybrid_of(number)
        assert torch.equal(tensors[key], latents.grid)
        assert torch.equal(tensors[key + "#lengths"], latents.lengths)
        kept = [latents[chunk].sequence.T for chunk in range(len(latents))]
        assert torch.equal(tensors[key + "#sequence"], torch.cat(kept))
    dataset = LatentDataset(hybrids)
    assert dataset.column("sequence_length").tolist() == [hybrid_of(number).length for number in range(5)]
    assert isinstance(dataset[3]["latents"], Latents) and dataset[4]["sequence_length"] == 0


@given(number=st.integers(0, 4), first=st.integers(-8, 8), count=st.integers(0, 8))
def test_chunks_are_those_of_the_whole(hybrids, number, first, count):
    first = max(-CHUNKS[number], min(first, CHUNKS[number]))
    chunks = slice(first, min(first + count, CHUNKS[number]) if first >= 0 else first + count or None)
    whole, found = hybrid_of(number), LatentDataset(hybrids).latents(number, chunks)
    assert torch.equal(found.grid, whole.grid[chunks])
    assert torch.equal(found.lengths, whole.lengths[chunks])
    longest = max(found.lengths.sum(1).tolist(), default=0)
    assert torch.equal(found.sequence, whole.sequence[chunks, :, :longest])


def test_only_the_1d_latents_that_are_needed_are_read(changeable):
    path = changeable / "0.safetensors"
    content = bytearray(path.read_bytes())
    whole, size = hybrid_of(2), int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + size])[KEYS[2] + "#sequence"]["data_offsets"]
    cut = 3 * 2 * int(whole.lengths[:2].sum())  # bytes of two chunks, of 3 channels in bf16
    for place in (*range(begin, begin + cut), *range(begin + 3 * 2 * int(whole.lengths[:4].sum()), end)):
        content[8 + size + place] = 255
    path.write_bytes(content)
    found = LatentDataset(changeable).latents(2, slice(2, 4))
    assert all(torch.equal(found[i].sequence, whole[2 + i].sequence) for i in (0, 1))


def test_lost_1d_latents_are_damage(changeable):
    path = changeable / "0.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"d#sequence"', b'"d#sequenze"'))
    with pytest.raises(ValueError, match="0.safetensors: .*; delete 0.json there"):
        LatentDataset(changeable).latents(3)


def test_another_model_is_refused(folder):
    LatentDataset(folder).require_model("0123456789abcdef")
    with pytest.raises(ValueError, match=r"of tiny \(hash 01.*ef\), got .* hash ffff;"):
        LatentDataset(folder).require_model("ffff")


def test_an_incomplete_export_is_refused_with_the_command(folder):
    (folder / "00001.json").unlink()
    command = f"regen latents export --model tiny --data 'my clips' --out {folder}"
    with pytest.raises(ValueError, match="1 of 3 shards .* the first is 00001; .*: " + command):
        LatentDataset(folder)


def test_damage_raises(folder, tmp_path):
    path = folder / "00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="00001.safetensors is truncated.; delete 00001.json there"):
        LatentDataset(folder)
    path.unlink()
    with pytest.raises(ValueError, match="00001.safetensors is missing.; delete 00001.json there"):
        LatentDataset(folder)
    path.write_bytes(whole)
    dataset = LatentDataset(folder)
    path.write_bytes(b"x" * len(whole))  # later, and of the same length
    with pytest.raises(ValueError, match="00001.safetensors: .*; delete 00001.json there"):
        dataset.latents(3)
    content = json.loads((folder / MANIFEST).read_text())
    (folder / "00000.json").write_text("{")
    with pytest.raises(ValueError, match="00000.json can't be read"):
        LatentDataset(folder)
    for broken in ("{", "[]", '{"format": 1, "shards": []}'):
        (folder / MANIFEST).write_text(broken)
        with pytest.raises(ValueError, match="manifest.json is damaged"):
            LatentDataset(folder)
    (folder / MANIFEST).write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(ValueError, match="must be 1, got 2"):
        LatentDataset(folder)
    with pytest.raises(ValueError, match="holds no latents .*No such file.* regen latents export"):
        LatentDataset(tmp_path)


def test_an_interrupted_shard_is_not_complete(tmp_path):
    latents = latents_of(0)
    with pytest.raises(KeyboardInterrupt), LatentShardWriter(tmp_path, "0", ["a"]) as writer:  # noqa: PT012
        writer.add(info_of("a", latents), Latents.of(latents))
        raise KeyboardInterrupt
    assert not (tmp_path / "0.json").exists()


def test_sample_info_takes_little_memory(tmp_path):
    """It is in columns: 44 bytes for each sample, and the texts."""
    info = info_of("a", latents_of(0), "a caption")
    rows = [replace(info, key=f"video-{number:06}", label=number) for number in range(5_000)]
    with LatentShardWriter(tmp_path, "0", []) as writer:
        writer._samples = rows
    for suffix in ("json", "safetensors"):
        (tmp_path / f"1.{suffix}").hardlink_to(tmp_path / f"0.{suffix}")
    shards = [InputShard(name, "clips", 5_000, "00") for name in "01"]
    (tmp_path / MANIFEST).write_text(manifest(shards).text())
    dataset = LatentDataset(tmp_path)
    assert len(dataset) == 10_000 and dataset.info(9_999) == rows[-1]
    assert len(pickle.dumps(dataset)) < 10_000 * 90
    assert ShardRows.read(tmp_path, "1").samples == rows
