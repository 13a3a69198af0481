"""Whole videos in chunks: length and size come back, and a chunk depends on nothing but itself."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.codec.chunks import ChunkLatents, decode_chunk, decode_chunks, encode_frames, split_into_chunks
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen


@pytest.fixture(scope="module")
def model() -> AutoencoderRegen:
    torch.manual_seed(1)
    tiny = AutoencoderRegen(
        latent_channels=4,
        encoder_widths=(12, 12, 12, 12),
        encoder_blocks=1,
        width=32,
        depth=1,
        heads=2,
        siren_width=16,
    )
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tiny.eval()


def video(frames: int, height: int, width: int) -> list[Tensor]:
    return list(torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8))


def round_trip(model: AutoencoderRegen, frames: list[Tensor], seed: int = 0) -> Tensor:
    height, width = frames[0].shape[:2]
    chunks = encode_frames(model, frames)
    return torch.stack(list(decode_chunks(model, chunks, height=height, width=width, seed=seed)))


@given(st.integers(1, 12), st.integers(1, 18), st.integers(1, 18))
def test_any_length_and_size_comes_back(
    model: AutoencoderRegen, frames: int, height: int, width: int
) -> None:
    assert round_trip(model, video(frames, height, width)).shape == (frames, height, width, 3)


def test_single_frame_is_an_image_and_a_lone_last_frame_is_not(model: AutoencoderRegen) -> None:
    (image,) = encode_frames(model, video(1, 8, 8))
    assert image.latents.shape == (4, 1, 1, 1)
    first, last = encode_frames(model, video(6, 8, 8))
    assert (first.frames, last.frames) == (5, 1)
    assert last.latents.shape == (4, 2, 1, 1)


def test_padding_repeats_the_last_frame_and_the_border(model: AutoencoderRegen) -> None:
    (frame,) = video(1, 8, 11)
    wide = torch.cat([frame, frame[:, -1:].expand(8, 5, 3)], dim=1)
    (short,) = encode_frames(model, [frame, frame])
    (whole,) = encode_frames(model, [wide] * 5)
    assert torch.equal(short.latents, whole.latents)


def test_a_chunk_depends_on_its_own_frames_seed_and_number_only(model: AutoencoderRegen) -> None:
    first, other, second = video(5, 8, 8), video(5, 8, 8), video(3, 8, 8)
    assert torch.equal(round_trip(model, first + second)[5:], round_trip(model, other + second)[5:])
    chunks = list(encode_frames(model, first + first))
    assert torch.equal(chunks[0].latents, chunks[1].latents)
    assert not torch.equal(round_trip(model, first + first)[5:], round_trip(model, first + first)[:5])
    assert not torch.equal(round_trip(model, first), round_trip(model, first, seed=1))
    torch.manual_seed(5)
    assert torch.equal(round_trip(model, first), round_trip(model, first))


def test_steps_reach_the_decoder(model: AutoencoderRegen) -> None:
    (chunk,) = encode_frames(model, video(5, 8, 8))
    one, four = (decode_chunk(model, chunk, height=8, width=8, steps=steps, seed=0) for steps in (1, 4))
    assert not torch.equal(one, four)
    with pytest.raises(ValueError, match="step"):
        decode_chunk(model, chunk, height=8, width=8, steps=0, seed=0)


def test_frames_are_read_one_chunk_ahead_at_most(model: AutoencoderRegen) -> None:
    taken = 0

    def frames() -> Iterator[Tensor]:
        nonlocal taken
        for frame in video(20, 8, 8):
            taken += 1
            yield frame

    chunks = decode_chunks(model, encode_frames(model, frames()), height=8, width=8)
    next(chunks)
    assert taken == 5


def test_values_survive_eight_bits() -> None:
    model = AutoencoderLinear(temporal_compression_ratio=1, latent_channels=192)
    model.chunk.basis.data = torch.eye(384)  # nothing is lost, so only the rounding can change a value
    frames = list(torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).view(2, 16, 16, 3))
    back = torch.stack(list(decode_chunks(model, encode_frames(model, frames), height=16, width=16)))
    assert torch.equal(back, torch.stack(frames))


def test_values_out_of_range_are_clamped() -> None:
    model = AutoencoderLinear(temporal_compression_ratio=1, latent_channels=192)
    for value, byte in ((-3.0, 0), (3.0, 255)):
        chunk = ChunkLatents(0, torch.full((192, 1, 1, 1), value), 1)
        assert decode_chunk(model, chunk, height=8, width=8, steps=1, seed=0).unique().tolist() == [byte]


def test_latents_have_the_precision_of_the_model() -> None:
    model = AutoencoderLinear(temporal_compression_ratio=4).bfloat16()
    (chunk,) = encode_frames(model, video(5, 8, 8))
    assert chunk.latents.dtype == torch.bfloat16
    assert decode_chunk(model, chunk, height=8, width=8, steps=1, seed=0).shape == (5, 8, 8, 3)


def test_change_of_size_within_a_video_is_an_error() -> None:
    with pytest.raises(ValueError, match="changes from 8x16 to 24x8 pixels"):
        list(split_into_chunks(iter([*video(2, 16, 8), *video(1, 8, 24)]), 2))


def test_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch, model: AutoencoderRegen) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoencoderRegen, "encode", fail)
    with pytest.raises(MemoryError, match="16x8 pixels; choose a smaller --size"):
        list(encode_frames(model, video(1, 8, 16)))
