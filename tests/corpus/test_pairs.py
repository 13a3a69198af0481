"""Exported latents come with exactly the frames that they were made of."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import reduce
from tiny_diffusers_models import wan
from tiny_latents import CPU, export, make_shards
from tiny_media import make_image, make_video
from torch import Tensor

from regen.corpus.dataset import LatentDataset
from regen.corpus.pairs import PairedClips, longest_clip
from regen.data.batches import TrainingBatches, hold_out
from regen.data.clips import ClipSpec
from regen.data.tasks import Stage, TaskConfig
from regen.embedders.clips import PointPosterior
from regen.embedders.diffusers_models import WanAdapter
from regen.media.pixels import Size, uint8_to_signed
from regen.media.reader import VideoReader
from regen.tiling import Tile
from regen.train.dataloader import BatchLoader

RATE = Fraction(30000, 1001)


def patch_means(video: Tensor) -> Tensor:
    """The mean of each 8 x 8 patch in each of the 4 frames of a group, as channels."""
    frames = torch.cat([video[:, :, :1].expand(-1, -1, 4, -1, -1), video[:, :, 1:]], dim=2)
    means = reduce(frames, "b c t (y p) (x q) -> b c t y x", "mean", p=8, q=8)
    return means.unflatten(2, (-1, 4)).movedim(3, 2).flatten(1, 2)


class PatchMeans(WanAdapter):
    """An autoencoder whose latents tell which pixels they are of; in chunks of 1 + 2 x 4 frames."""

    latent_channels = 12  # type: ignore[assignment]

    def moments(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(12, 1, 1, 1), torch.ones(12, 1, 1, 1)

    def encode(self, video: Tensor, *, tile: Tile | None = None) -> AutoencoderKLOutput:
        return AutoencoderKLOutput(latent_dist=PointPosterior(patch_means(video)))


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regen.corpus.export.load_embedder", lambda *_: PatchMeans(wan(), 9))
    monkeypatch.setattr("regen.corpus.export.weights_hash", lambda _: "0123456789abcdef")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 23, 14 and 3 frames and an image, of several sizes, one of them odd."""
    folder = tmp_path_factory.mktemp("clips")
    make_video(folder / "a.mp4", 23, 40, 48)
    make_video(folder / "b.mkv", 14, 27, 45, rate=Fraction(24))
    make_video(folder / "c.mp4", 3, 24, 24)
    make_image(folder / "d.png", 33, 41)
    return folder


def pairs(corpus: Path, tmp_path: Path, cache: bool = False, **settings: Any) -> PairedClips:
    out = export("tiny", corpus, tmp_path / "latents", **settings)
    return PairedClips(LatentDataset(out), [corpus], tmp_path / "cache" if cache else None)


def assert_paired(clips: PairedClips, frames: int, draws: int = 8) -> set[tuple[int, int]]:
    """The latents of each draw are those of its frames; returns samples with places."""
    found = set()
    for index in range(draws):
        sample = clips.sample(index, ClipSpec(frames, (16, 16)), seed=1)
        assert sample.latents is not None and sample.latents.shape == (12, 1 + frames // 4, 2, 2)
        video = uint8_to_signed(sample.video)[None]
        means = patch_means(video)[0]
        known = slice(min(1, sample.begin), None)  # of a first latent frame only the last frame is there
        torch.testing.assert_close(sample.latents[:, known], means[:, known])
        torch.testing.assert_close(sample.latents[3::4, 0], means[3::4, 0])
        found.add((sample.number, sample.begin))
    return found


@pytest.mark.parametrize(
    ("settings", "cache"),
    [
        ({}, False),
        ({}, True),
        ({"size": Size(16, 24), "frames": 14}, False),
        ({"fps": RATE / 2}, True),
        ({"fps": Fraction(20), "size": Size(24, 16)}, False),
        ({"fps": Fraction(50), "size": Size(24, 16)}, True),
    ],
    ids=str,
)
def test_latents_are_those_of_the_frames_beside_them(corpus, tmp_path, settings, cache):
    clips = pairs(corpus, tmp_path, cache, **settings)
    if cache:
        clips.fill_cache()
    assert_paired(clips, 5)
    assert_paired(clips, 1, 4)


def test_every_place_is_drawn_and_none_with_frames_that_repeat(corpus, tmp_path):
    clips = pairs(corpus, tmp_path)
    assert assert_paired(clips, 5, 30) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert {number for number, _ in assert_paired(clips, 1, 20)} == {0, 1, 2, 3}
    assert (longest_clip(clips.latents), len(clips)) == (9, 4)
    with pytest.raises(ValueError, match="13 frames in a chunk"):
        clips.require_length(13)


def test_shards_are_paired_as_the_folder_is(corpus, tmp_path):
    shards = make_shards(corpus, tmp_path / "shards", 3)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = pairs(corpus, tmp_path / "here"), pairs(shards, tmp_path / "there")
    assert_paired(there, 5, 4)
    for index in range(4):
        samples = [clips.sample(index, ClipSpec(5, (16, 16)), 0) for clips in (here, there)]
        assert torch.equal(samples[0].video, samples[1].video)


def test_files_whose_packets_tell_other_frames_are_read_in_order(corpus, tmp_path, monkeypatch):
    clips = pairs(corpus, tmp_path, size=Size(24, 16))
    whole = VideoReader.frame_times
    monkeypatch.setattr(VideoReader, "frame_times", lambda reader: whole(reader)[:-1])
    assert_paired(clips, 5, 4)
    assert_paired(clips, 9, 2)


def test_workers_read_the_same(corpus, tmp_path):
    clips = pairs(corpus, tmp_path, latent_dtype="bf16")
    stage = Stage(16, 16, video_batch_size=2, image_batch_size=2)
    batches = TrainingBatches(clips, 4, TaskConfig(0.3, 1.0), (stage,), None, 4, 0, group=4)
    keys = [(step, 0, 1) for step in range(4)]
    with BatchLoader(batches, keys, 0, CPU) as alone, BatchLoader(batches, keys, 2, CPU) as shared:
        pairs_of_batches = list(zip(alone, shared, strict=True))
    for own, others in pairs_of_batches:
        assert own.keys() == others.keys() >= {"latents", "begin", "target"} and "clip" not in own
        assert own["latents"].dtype == torch.bfloat16
        assert all(torch.equal(own[name], others[name]) for name in own)


def test_held_out_samples_are_not_drawn_in_training(corpus, tmp_path):
    clips = pairs(corpus, tmp_path)
    training, validation = hold_out(clips, 1, 9, warns=False)
    assert (len(training), len(validation)) == (3, 1)
    drawn = [
        {part.sample(i, ClipSpec(5, (16, 16)), 0).number for i in range(20)}
        for part in (training, validation)
    ]
    assert not drawn[0] & drawn[1] and all(drawn)
    assert len({part.fingerprint() for part in (clips, training, validation)}) == 3
    with pytest.raises(ValueError, match="3 samples can't be held out of 4, 2 of which have 9 frames"):
        clips.split(3, 9)


def test_crops_that_do_not_fit_are_refused(corpus, tmp_path):
    clips = pairs(corpus, tmp_path)
    with pytest.raises(ValueError, match="multiples of 8, those of a latent, got 16 x 20"):
        clips.sample(0, ClipSpec(5, (16, 20)), 0)
    with pytest.raises(ValueError, match="5 frames in a chunk with 48 x 48 pixels"):
        clips.sample(0, ClipSpec(5, (48, 48)), 0)
    with pytest.raises(ValueError, match="drop --data.frame-rate"):
        clips.require_length(5, 24.0)
    wide = ClipSpec(1, (16, 16), aspect_ratios=(1.0, 1.7), bucket=1)
    assert {clips.sample(index, wide, 0).number for index in range(8)} == {1}


def test_other_data_are_refused(corpus, tmp_path):
    copies = [tmp_path / "less", tmp_path / "changed"]
    for copy in copies:
        copy.mkdir()
        for path in corpus.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    latents = pairs(corpus, tmp_path).latents
    (copies[0] / "c.mp4").unlink()
    with pytest.raises(ValueError, match=r"have a sample c-\w+, which .*less lacks"):
        PairedClips(latents, [copies[0]])
    make_video(copies[1] / "c.mp4", 5, 24, 24)
    with pytest.raises(ValueError, match="has changed since the latents .* export the latents again"):
        PairedClips(latents, [copies[1]])


def test_several_folders_are_given_in_the_order_of_the_export(tmp_path):
    """Files of one name in two folders have one key, but not one shard."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        make_video(folder / "a.mp4", 5 + 4 * number, 24, 24)
    latents = LatentDataset(export("tiny", folders, tmp_path / "latents"))
    assert {number for number, _ in assert_paired(PairedClips(latents, folders), 5)} == {0, 1}
    for data, words in ((folders[::-1], "has changed"), (folders[:1], "have a sample a-")):
        with pytest.raises(ValueError, match=words):
            PairedClips(latents, data)


def test_damaged_latents_are_named_and_others_drawn(corpus, tmp_path, capsys):
    clips = pairs(corpus, tmp_path, files_per_shard=1)
    clips.sample(0, ClipSpec(5, (16, 16)), 0)
    (clips.latents.folder / "00000.safetensors").write_bytes(b"nothing")
    assert {clips.sample(index, ClipSpec(5, (16, 16)), 0).number for index in range(8)} == {1}
    assert "00000" in capsys.readouterr().err
    assert np.sum([clips.sample(index, ClipSpec(5, (16, 16)), 0).replaced for index in range(8)]) > 0
