"""Published sets by name, on small files laid out like the real ones; folders of frames; raw video."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import make_movie, number_of, numbered
from tiny_sets import make_davis, make_frames, make_ucf101

from regen.data.clips import ClipDataset, ClipSpec
from regen.data.video_sets import VideoSet, find_media, media_sha256
from regen.media.files import VideoError


def names(address: str) -> list[str]:
    videos = VideoSet.parse(Path(address))
    return [path.relative_to(videos.root).as_posix() for path in videos.find()]


def test_davis_at_its_best_resolution_and_by_list(tmp_path: Path) -> None:
    both = make_davis(tmp_path / "both", "480p", "Full-Resolution")
    assert VideoSet.parse(Path(f"davis:{both}")).root == both / "JPEGImages" / "Full-Resolution"
    assert names(f"DAVIS:{both}") == names(f"davis:{both}") == ["bear", "blackswan", "camel"]
    small = make_davis(tmp_path / "small", "480p")
    assert VideoSet.parse(Path(f"davis:{small}")).root == small / "JPEGImages" / "480p"
    assert names(f"davis/2017/val:{small}") == ["blackswan", "camel"]
    assert VideoSet.parse(Path(f"davis/2017/val:{small}")).name == "davis/2017/val"
    assert VideoSet.parse(Path(f"davis:{small}")).paper_sizes == ("256", "512")


def test_ucf101_and_its_lists(tmp_path: Path) -> None:
    folder = make_ucf101(tmp_path)
    assert len(names(f"ucf101:{folder}")) == 6
    for above in (folder, folder / "UCF-101"):  # the lists lie in it or beside it
        assert names(f"ucf101/testlist01:{above}") == ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi"]
        assert names(f"ucf101/trainlist01:{above}") == [
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
            "HandstandPushups/v_HandStandPushups_g01_c03.avi",
        ]


def test_mcl_jcv_takes_the_original_of_each_number(tmp_path: Path) -> None:
    for name in (
        *("videoSRC01_1920x1080_30.yuv", "videoSRC01.mp4", "videoSRC02.mp4", "videoSRC03_qp_20.mp4"),
        *(
            "videoSRC04_1920x1080_30_crf45.mp4",
            "h264/videoSRC02_720p.mp4",
            "videoSRC05_1920x1080_24-1f2e.yuv",
        ),
        *("more/videoSRC30_1920x1080_25.yuv", "other.mp4"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(f"mcl-jcv:{tmp_path}") == [
        "more/videoSRC30_1920x1080_25.yuv",
        "videoSRC01_1920x1080_30.yuv",
        "videoSRC02.mp4",
        "videoSRC05_1920x1080_24-1f2e.yuv",
    ]


def test_folders_of_frames_are_clips(tmp_path: Path) -> None:
    make_frames(tmp_path / "a" / "one")
    make_frames(tmp_path / "two", suffix=".png")
    make_frames(tmp_path / ".hidden")
    (tmp_path / "notes.txt").touch()
    assert names(f"frames:{tmp_path}") == ["a/one", "two"]
    assert names(f"frames:{tmp_path / 'two'}") == ["two"], "a folder of frames itself"
    assert len(find_media([tmp_path])) == 6, "a plain folder has images"
    assert find_media([Path(f"frames:{tmp_path}"), tmp_path / "a" / "one" / "00000.jpg"]) == [
        tmp_path / "a" / "one", tmp_path / "a" / "one" / "00000.jpg", tmp_path / "two",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("davis:{0}/nowhere", "no file or folder .*nowhere"),
        ("davis:{0}/empty", "empty has no clip of davis"),
        ("mcl-jcv:{0}/empty", "empty has no clip of mcl-jcv"),
        ("frames:{0}/empty", "empty has no clip of frames"),
        ("mcl-jcv/val:{0}", "Only davis and ucf101 have lists, got mcl-jcv/val"),
        ("davis/2019/val:{0}/davis", "davis/2019/val needs the list .*ImageSets/2019/val.txt"),
        ("davis/2017/none:{0}/davis", "none.txt lists no clip"),
        ("davis:{0}", "no clip of davis; give the folder that holds JPEGImages"),
        ("davis/2017/all:{0}/davis", "all.txt lists dog, which .*480p lacks"),
        ("dvis:{0}/davis", "no file or folder dvis:"),
    ],
)
def test_other_layouts_are_errors(tmp_path: Path, address: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    make_davis(tmp_path / "davis", "480p")
    (tmp_path / "davis" / "ImageSets" / "2017" / "all.txt").write_text("bear\ndog\n")
    (tmp_path / "davis" / "ImageSets" / "2017" / "none.txt").write_text("\n")
    with pytest.raises(VideoError, match=words) as caught:
        find_media([Path(address.format(tmp_path))])
    assert "\n" not in str(caught.value)


def test_a_path_that_exists_is_a_plain_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_movie(tmp_path / "frames:a.mp4", numbered(2))
    assert find_media([Path("frames:a.mp4")]) == [Path("frames:a.mp4")]


def test_the_sum_of_a_folder_is_that_of_its_frames(tmp_path: Path) -> None:
    one, other = make_frames(tmp_path / "one"), make_frames(tmp_path / "other")
    assert media_sha256(one) == media_sha256(other)
    assert media_sha256(one / "00000.jpg") == hashlib.sha256((one / "00000.jpg").read_bytes()).hexdigest()
    (other / "00002.jpg").rename(other / "00003.jpg")
    assert media_sha256(one) != media_sha256(other)


def test_training_takes_folders_of_frames(tmp_path: Path) -> None:
    make_frames(tmp_path / "frames" / "a", 8, ".png")
    clips = ClipDataset([f"frames:{tmp_path / 'frames'}"])
    assert (clips.columns.frames.tolist(), clips.columns.is_image.tolist()) == ([8], [False])
    cached = ClipDataset([f"frames:{tmp_path / 'frames'}"], cache=tmp_path / "cache")
    for index in range(5):
        spec = ClipSpec(4, (48, 64))
        video = clips.sample(index, spec, seed=0).video
        numbers = [number_of(frame) for frame in np.asarray(video.permute(1, 2, 3, 0))]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert torch.equal(video, cached.sample(index, spec, seed=0).video)
