"""The page of the models has every stored model, in words of its card, with a small picture."""

import pytest
from PIL import Image

from model_page import PAGE, entries, page
from regen.names import BUNDLED, CHECKPOINTS, CONFIG

PICTURES = PAGE.parent / "pictures" / "models"
STORED = sorted(path.parent.name for place in (BUNDLED, CHECKPOINTS) for path in place.glob(f"*/{CONFIG}"))


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tools/model_page.py"


def test_every_stored_model_is_on_it():
    assert sorted(entry.info.name for entry in entries()) == STORED


@pytest.mark.parametrize("name", STORED)
def test_it_has_a_small_picture(name):
    path = PICTURES / f"{name}.jpg"
    assert path.is_file(), f"run: python tools/model_pictures.py {name}"
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and picture.width > picture.height
    assert path.stat().st_size < 150_000


def test_no_picture_is_left_over():
    assert sorted(path.stem for path in PICTURES.iterdir()) == STORED
