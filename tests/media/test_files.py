"""Still images as videos of one frame, and finding media."""

from pathlib import Path

import numpy as np
import pytest
import torch
from movies import distance, smooth
from PIL import Image

from regen.data.video_sets import find_media
from regen.media.files import VideoError, read_image
from regen.media.reader import VideoReader


def test_transparent_image_lies_over_black(tmp_path: Path) -> None:
    pixels = np.full((5, 7, 4), 200, np.uint8)
    pixels[..., 3] = np.arange(7) * 40
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = torch.from_numpy(np.round(200.0 * pixels[..., 3:].repeat(3, -1) / 255).astype(np.uint8))
    assert torch.equal(read_image(tmp_path / "a.png")[0], expected)


def test_deep_and_palette_images(tmp_path: Path) -> None:
    deep = (np.arange(48 * 64).reshape(48, 64) * 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[0][..., 0].numpy(), deep >> 8)
    palette = Image.fromarray(smooth()).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=0)
    found = read_image(tmp_path / "palette.png")[0].numpy()
    assert (found[np.asarray(palette) == 0] == 0).all()


def test_orientation_of_a_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with VideoReader(tmp_path / "a.jpg") as reader:
        assert (reader.info.width, reader.info.height, reader.info.is_image) == (48, 64, True)
        found = reader.read_at([0.0, 5.0])
        assert reader.frame_times().tolist() == [0.0]
    assert found.shape == (2, 64, 48, 3)
    assert distance(found[0], np.rot90(smooth(), -1)).mean() < 3


def test_find_media(tmp_path: Path) -> None:
    for name in ["b.mp4", "a/c.PNG", "a/d.txt", "a/.hidden.mp4", ".git/e.mp4", "odd.xyz"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "circle").symlink_to(tmp_path, target_is_directory=True)
    found = find_media([tmp_path, tmp_path / "a", tmp_path / "odd.xyz"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/c.PNG", "b.mp4", "odd.xyz"]
    with pytest.raises(VideoError, match="no file or folder"):
        find_media([tmp_path / "missing"])
