"""Toy videos."""

from pathlib import Path

import torch
from shapes import moving_shapes, write_dataset

from regen.data.catalog import find_media
from regen.media.reader import VideoReader


def test_shapes_follow_the_seed_and_move() -> None:
    video = moving_shapes(5, 33, 47, seed=1)
    assert video.shape == (5, 33, 47, 3)
    assert torch.equal(video, moving_shapes(5, 33, 47, seed=1))
    assert not torch.equal(video, moving_shapes(5, 33, 47, seed=2))
    assert (video[1:].float() - video[:-1].float()).abs().mean() > 1
    assert video.float().std() > 20
    assert torch.equal(video[:3], moving_shapes(3, 33, 47, seed=1)), "more frames continue the same video"


def test_dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / "toy", videos=3, frames=4, height=32, width=48, seed=0)
    files = find_media([tmp_path / "toy"])
    assert [file.name for file in files] == ["shapes_0000.mp4", "shapes_0001.mp4", "shapes_0002.mp4"]
    first = []
    for file in files:
        with VideoReader(file) as reader:
            frames = list(reader)
        assert len(frames) == 4
        assert frames[0].image.shape == (32, 48, 3)
        first.append(frames[0].image)
    assert not torch.equal(first[0], first[1])
