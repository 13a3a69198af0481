from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regen.train.preview import save_preview


def test_originals_stand_above_their_reconstructions(tmp_path: Path) -> None:
    original = torch.zeros(3, 3, 5, 8, 16)
    original[1, :, 2] = 1
    reconstruction = torch.full_like(original, -4.0, dtype=torch.bfloat16)
    save_preview(tmp_path / "previews" / "a.png", original, reconstruction, max_clips=2)
    picture = np.asarray(Image.open(tmp_path / "previews" / "a.png"))
    assert picture.shape == (2 * 2 * 8, 5 * 16, 3)
    bands = picture.reshape(4, 8, 5, 16, 3)[:, 0, :, 0, 0]
    assert bands.tolist() == [[128] * 5, [0] * 5, [128, 128, 255, 128, 128], [0] * 5]
