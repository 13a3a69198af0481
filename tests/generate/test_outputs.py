"""Outputs of a generation never replace its inputs."""

from pathlib import Path

import pytest

from regen.generate.run import VideoRequest, _check_inputs


@pytest.mark.parametrize("field", ["continue_from", "image"])
def test_an_input_is_not_overwritten(tmp_path: Path, field: str) -> None:
    given, other = tmp_path / "a.png", tmp_path / "b.png"
    given.touch()
    (tmp_path / "link.png").symlink_to(given)
    request = VideoRequest(**{field: given})
    _check_inputs(request, [other])
    for output in (given, tmp_path / "link.png", tmp_path / "." / "a.png"):
        with pytest.raises(ValueError, match="is an input"):
            _check_inputs(request, [other, output])
