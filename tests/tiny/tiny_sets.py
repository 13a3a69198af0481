"""Published sets of videos, small: their folders, names and lists are as in the real ones."""

from pathlib import Path

from movies import make_movie, numbered
from PIL import Image


def make_frames(folder: Path, count: int = 3, suffix: str = ".jpg", start: int = 0) -> Path:
    """A folder of `numbered` frames as DAVIS names them."""
    folder.mkdir(parents=True)
    for index, image in enumerate(numbered(count), start):
        Image.fromarray(image).save(folder / f"{index:05}{suffix}", quality=95)
    return folder


def make_davis(folder: Path, *sizes: str) -> Path:
    """Clips of 2, 3 and 4 frames at each of `sizes`, masks, and a list of two of them."""
    for size in sizes:
        for number, name in enumerate(("bear", "blackswan", "camel")):
            make_frames(folder / "JPEGImages" / size / name, 2 + number)
            make_frames(folder / "Annotations_unsupervised" / size / name, 2, ".png")
    lists = folder / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("camel\nblackswan\n")
    return folder


def make_ucf101(folder: Path, frames: int = 4) -> Path:
    """Three clips of each of two classes, and the lists beside them."""
    for name in ("ApplyEyeMakeup", "HandstandPushups"):
        (folder / "UCF-101" / name).mkdir(parents=True)
        file = name.replace("stand", "Stand")  # so it is in the set
        for clip in range(1, 4):
            path = folder / "UCF-101" / name / f"v_{file}_g01_c{clip:02}.avi"
            make_movie(path, numbered(frames), codec="mpeg4")
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "testlist01.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi\n")
    trained = (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1",
        "HandstandPushups/v_HandStandPushups_g01_c03.avi 2",
    )
    (lists / "trainlist01.txt").write_text("\r\n".join(trained))
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 HandstandPushups\n")
    return folder
