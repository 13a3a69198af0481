"""Latents of a whole video as one sequence: streaming, times, files of other programs."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.embedders.test_regen_decoder import decoder_of, encoder_of
from tiny_diffusers_models import cogvideox, wan
from tiny_media import tiny_regen
from torch import Tensor

from regen.codec import latent_file
from regen.codec.chunks import to_image
from regen.codec.foreign_latents import is_foreign, read_foreign
from regen.codec.sequence import SequenceDecodeSession
from regen.codec.sessions import DecodeOptions
from regen.codec.timeline import Timeline
from regen.codec.transcode import decode_video
from regen.embedders.frozen_encoder import LatentSpace
from regen.embedders.regen_decoder import RegenDecoder
from regen.media.reader import VideoReader
from regen.metrics.memory import peak_bytes
from regen.tiling import Tile

RATE = Fraction(16)
HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope="module")
def model() -> RegenDecoder:
    return decoder_of(encoder_of(wan))


def latents(frames: int, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(1, channels, frames, HEIGHT // 8, WIDTH // 8, generator=generator)


def frames_of(path: Path) -> list[Tensor]:
    with VideoReader(path) as reader:
        return [frame.image for frame in reader]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("tile", [None, Tile(16, 24, 8)])
def test_streaming_gives_the_frames_of_the_whole(model: RegenDecoder, steps: int, tile: Tile | None):
    options, sequence = DecodeOptions(steps=steps, tile=tile), latents(4)
    session = SequenceDecodeSession(model, height=HEIGHT, width=WIDTH, options=options)
    pieces = [session.feed(latent) for latent in sequence[0].unbind(1)]
    assert [len(piece) for piece in pieces] == [1, 4, 4, 4]
    again = torch.cat([*session.decode((latent, None) for latent in sequence[0].unbind(1))])
    assert torch.equal(again, torch.cat(pieces))
    if steps == 1:
        whole = model.decode(sequence, tile=tile).sample[0]
        expected = torch.stack([to_image(frame) for frame in whole.unbind(1)])
        assert torch.equal(torch.cat(pieces), expected)


def test_frames_between_are_decoded_apart_from_the_encoded_ones(model: RegenDecoder):
    session = SequenceDecodeSession(model, height=HEIGHT, width=WIDTH)
    sequence = latents(2)[0].unbind(1)
    session.feed(sequence[0])
    plain = session.feed(sequence[1])
    session.reset()
    assert len(session.feed(sequence[0], [])) == 0
    mixed = session.feed(sequence[1], [0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    assert torch.equal(mixed[[1, 3, 4, 5]], plain)


def test_latents_of_another_size_are_refused(model: RegenDecoder):
    session = SequenceDecodeSession(model, height=HEIGHT, width=WIDTH + 8)
    with pytest.raises(ValueError, match="need latents of 2 x 3 x 6"):
        session.feed(latents(1)[0, :, 0])


def test_files_of_other_programs_give_the_same_video(model: RegenDecoder, tmp_path: Path):
    normalised = latents(3)
    rows = model.config.encoder_mean, model.config.encoder_std
    mean, std = (torch.tensor(row).view(-1, 1, 1, 1) for row in rows)
    save_file({"latents": normalised}, tmp_path / "a.safetensors")
    torch.save(normalised, tmp_path / "b.pt")
    raw = normalised * std + mean
    marked = {"latent_tensor": raw, "latent_format_version_0": torch.zeros(0)}
    save_file(marked, tmp_path / "c.latent")
    save_file({"latent_tensor": raw * 0.18215}, tmp_path / "d.latent")
    save_file({"other": normalised[0]}, tmp_path / "e.safetensors")
    for name in ("a.safetensors", "b.pt", "c.latent", "d.latent", "e.safetensors"):
        assert is_foreign(tmp_path / name)
        video = read_foreign(tmp_path / name, model.space, "decoder", "hash", RATE)
        torch.testing.assert_close(video.latents.grid, normalised)
        assert (video.height, video.width, len(video.times)) == (HEIGHT, WIDTH, 9)
    decode_video(model, video, tmp_path / "out.mkv")
    assert len(frames_of(tmp_path / "out.mkv")) == 9
    decode_video(model, video, tmp_path / "twice.mkv", timeline=Timeline(interpolate=2))
    assert len(frames_of(tmp_path / "twice.mkv")) == 18
    latent_file.write(tmp_path / "own.safetensors", video)
    assert not is_foreign(tmp_path / "own.safetensors")
    assert latent_file.read(tmp_path / "own.safetensors").is_sequence


def test_the_order_of_dimensions_of_cogvideox(tmp_path: Path):
    model = decoder_of(encoder_of(cogvideox))
    torch.save(latents(2).transpose(1, 2).contiguous(), tmp_path / "a.pt")  # 2 channels and 2 frames
    video = read_foreign(tmp_path / "a.pt", model.space, "decoder", "hash", RATE)
    assert torch.equal(video.latents.grid, latents(2))


@pytest.mark.parametrize(
    ("encoder_class", "of_pipeline"),
    [
        ("AutoencoderKLLTX2Video", [1.0, 1.0]),
        ("AutoencoderKLCosmos", [0.0, 0.5]),
        ("AutoencoderKLWan", [0.0, 1.0]),
    ],
)
def test_latents_of_pipelines_that_are_scaled(tmp_path: Path, encoder_class: str, of_pipeline: list[float]):
    """By LTX-2 raw, by Cosmos multiplied with 0.5, by the others normalised: here those of 0 and 1."""
    space = LatentSpace(
        encoder_class=encoder_class, latent_channels=2, encoder_mean=(1.0, 1.0), encoder_std=(1.0, 2.0)
    )
    torch.save(torch.tensor(of_pipeline).view(1, 2, 1, 1, 1), tmp_path / "a.pt")
    video = read_foreign(tmp_path / "a.pt", space, "decoder", "hash", RATE)
    expected = [0.0, 0.0] if encoder_class == "AutoencoderKLLTX2Video" else [0.0, 1.0]
    assert video.latents.grid.flatten().tolist() == expected


@pytest.mark.parametrize(
    ("encoder_class", "stored"),
    [
        ("AutoencoderKLWan", [1.0, 3.0]),
        ("AutoencoderKLLTXVideo", [0.0, 1.0]),
        ("AutoencoderKLLTX2Video", [0.0, 1.0]),
        ("AutoencoderKLCosmos", [0.0, 0.5]),
    ],
)
def test_latents_of_comfyui_are_raw_or_normalised_by_its_autoencoder(
    tmp_path: Path, encoder_class: str, stored: list[float]
):
    space = LatentSpace(
        encoder_class=encoder_class, latent_channels=2, encoder_mean=(1.0, 1.0), encoder_std=(1.0, 2.0)
    )
    tensors = {"latent_tensor": torch.tensor(stored).view(1, 2, 1, 1, 1)}
    save_file(tensors | {"latent_format_version_0": torch.zeros(0)}, tmp_path / "a.latent")
    video = read_foreign(tmp_path / "a.latent", space, "decoder", "hash", RATE)
    assert video.latents.grid.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"latents": torch.randn(1, 5, 3, 2, 2)}, "with 2 channels"),
        ({"latents": torch.randn(2, 2, 3, 2, 2)}, "holds 2 videos"),
        ({"latents": torch.randn(1, 12, 2)}, "packed tokens"),
        ({"latents": torch.full((1, 2, 3, 2, 2), float("nan"))}, "not finite"),
        ({"latents": torch.zeros(1, 2, 3, 2, 2, dtype=torch.int64)}, "b c n y x"),
        ({"a": torch.randn(1, 2, 3, 2, 2), "b": torch.randn(1, 2, 3, 2, 2)}, "one tensor of latents"),
        ({"a": torch.randn(3)}, "one tensor of latents"),
    ],
)
def test_other_tensors_are_refused_in_a_sentence(
    model: RegenDecoder, tmp_path: Path, tensors: dict[str, Tensor], message: str
):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        read_foreign(tmp_path / "a.safetensors", model.space, "decoder", "hash", RATE)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.latent"])
def test_damaged_files_are_refused(model: RegenDecoder, tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\x80\x04damaged")
    with pytest.raises(ValueError, match="is damaged or holds no latents"):
        read_foreign(tmp_path / name, model.space, "decoder", "hash", RATE)


def test_a_pickle_that_runs_code_is_refused(model: RegenDecoder, tmp_path: Path):
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save(Attack(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is damaged or holds no latents"):
        read_foreign(tmp_path / "a.pt", model.space, "decoder", "hash", RATE)


def test_extrapolation_and_models_of_chunks_are_refused(model: RegenDecoder, tmp_path: Path):
    save_file({"latents": latents(3)}, tmp_path / "a.safetensors")
    video = read_foreign(tmp_path / "a.safetensors", model.space, "decoder", "hash", RATE)
    with pytest.raises(ValueError, match="does not extrapolate"):
        decode_video(model, video, tmp_path / "a.mkv", timeline=Timeline(extrapolate_after=1))
    with pytest.raises(ValueError, match="regen train decoder-small"):
        decode_video(tiny_regen(), video, tmp_path / "a.mkv")


def test_memory_does_not_depend_on_the_length(model: RegenDecoder):
    def peak(frames: int) -> int:
        session = SequenceDecodeSession(model, height=HEIGHT, width=WIDTH)
        stream = ((latent, None) for latent in latents(frames)[0].unbind(1))
        return peak_bytes(lambda: [len(piece) for piece in session.decode(stream)])

    assert peak(60) == peak(5)
