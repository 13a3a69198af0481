"""Budgets of memory: how they are read, which tile fits, and what happens when none was enough."""

from itertools import pairwise
from mmap import mmap

import pytest
import torch
from tiny_media import EMBEDDERS, random_chunks, same_latents

from regen.codec import memory
from regen.codec.memory import (
    OVERLAP,
    OomRetry,
    free_memory,
    halve_tile,
    largest_tile,
    parse_memory,
    used_memory,
)
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession, Seams, encode_frames
from regen.embedders.linear import AutoencoderLinear
from regen.pretrained.models import Autoencoder
from regen.tiling import MIN_TILE_SIDE, Tile

CPU_RAN_OUT = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(CPU_RAN_OUT),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)."),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8_000_000_000),
        ("1.5g", 1_500_000_000),
        (" 64 KiB ", 64_000),
        ("2e9", 2_000_000_000),
        ("1TB", 10**12),
        ("4096", 4096),
    ],
)
def test_amounts_of_memory_are_read(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GB", "-8GB", "8 XB", "0", "0.5", "1.2.3GB", "8GB!", "lots", "1e400", "nan"]
)
def test_texts_that_are_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number such as 8GB or 500MB, got"):
        parse_memory(text)


@pytest.fixture
def needy(monkeypatch: pytest.MonkeyPatch) -> Autoencoder:
    """A model that needs 100 bytes for a pixel of a frame, in a process that uses nothing else."""
    monkeypatch.setattr(memory, "used_memory", lambda device: 0)
    model = AutoencoderLinear()
    monkeypatch.setattr(model, "activation_bytes", activation_bytes, raising=False)
    return model


def activation_bytes(frames: int, height: int, width: int) -> int:
    return 100 * frames * height * width


def held(frames: int, height: int, width: int) -> int:
    """What the whole clip takes beside the network, whatever the tiles."""
    return 3 * frames * height * width * memory.WHOLE_FRAME_BYTES


def test_no_tiles_where_the_whole_frame_fits(needy: Autoencoder) -> None:
    needed = activation_bytes(5, 720, 1280) + held(5, 720, 1280)
    assert largest_tile(needy, 5, 720, 1280, needed) is None
    tile = largest_tile(needy, 5, 720, 1280, needed - 1)
    assert tile == Tile(720, 640, OVERLAP), "the longer side is halved first"


def test_smaller_budgets_have_smaller_tiles_that_fit(needy: Autoencoder) -> None:
    frames, height, width = 5, 700, 1300
    tiles = []
    for room in [2 * 10**9 // 2**i for i in range(16)]:
        tile = largest_tile(needy, frames, height, width, room + held(frames, height, width))
        area = height * width if tile is None else tile.height * tile.width
        tiles.append(area)
        assert area == 64 * 64 or activation_bytes(frames, 1, area) <= room
    assert tiles[0] == height * width
    assert tiles[-1] == 64 * 64, "the smallest is tried even where it should not fit"
    assert all(after <= before for before, after in pairwise(tiles))
    assert len(set(tiles)) > 6
    assert largest_tile(needy, frames, 33, 64, 1) is None, "a tiny picture is never cut"


def test_the_budget_counts_memory_in_use_and_by_default_most_of_what_is_free(
    needy: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = activation_bytes(5, 512, 512) + held(5, 512, 512)
    for used, free, budget, fits in (
        (10**9, 0, needed + 10**9, True),
        (10**9, 0, needed + 10**9 - 1, False),
        (0, 2 * needed, None, True),
        (0, needed, None, False),
    ):
        monkeypatch.setattr(memory, "used_memory", lambda device, used=used: used)
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert (largest_tile(needy, 5, 512, 512, budget) is None) is fits


def test_memory_of_this_process_and_of_this_machine() -> None:
    """Pages from the system: an allocator may hand out memory that the process has already."""
    before = used_memory(torch.device("cpu"))
    with mmap(-1, 64 * 2**20) as block:
        block.write(bytes(64 * 2**20))
        assert used_memory(torch.device("cpu")) - before > 48 * 2**20
    assert 10**6 < before < 10**12
    assert free_memory(torch.device("cpu")) > 2**20


def test_a_tile_beyond_the_picture_is_cropped_before_it_is_halved() -> None:
    """Otherwise the same work would be tried, and fail, several times over."""
    assert halve_tile(Tile(2048, 2048), 200, 512) == Tile(200, 256, 64)
    assert halve_tile(Tile(2048, 96, 16), 512, 512) == Tile(256, 96, 16)
    assert halve_tile(Tile(2048, 2048), 60, 60) is None


class Work:
    """Work that fails as long as the tile has more than `limit` pixels; remembers what was tried."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit, self.error = limit, error
        self.tried: list[Tile | None] = []

    def __call__(self, tile: Tile | None) -> Tile | None:
        self.tried.append(tile)
        if tile is None or tile.height * tile.width > self.limit:
            raise self.error
        return tile


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "mps"])
def test_the_tile_halves_until_the_work_is_done_and_stays(error: Exception) -> None:
    room, work = OomRetry(None), Work(128 * 128, error)
    smallest = Tile(128, 128, OVERLAP)
    assert room.run(work, 512, 256) == smallest
    assert work.tried == [None, Tile(256, 256, OVERLAP), Tile(256, 128, OVERLAP), smallest]
    work.tried.clear()
    assert room.run(work, 512, 256) == room.tile == smallest
    assert work.tried == [smallest], "it does not try the whole again"


def test_running_out_with_the_smallest_tile_is_an_error() -> None:
    work = Work(0, ERRORS[0])
    with pytest.raises(MemoryError, match="256x512 pixels .* smaller --size"):
        OomRetry(None).run(work, 512, 256)
    assert work.tried[-1] is not None
    assert (work.tried[-1].height, work.tried[-1].width) == (MIN_TILE_SIDE, MIN_TILE_SIDE)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError(), KeyboardInterrupt()])
def test_other_errors_are_raised_at_once(error: BaseException) -> None:
    room = OomRetry(None)
    with pytest.raises(type(error)) as caught:
        room.run(Work(10**9, error), 512, 256)
    assert caught.value is error
    assert room.tile is None


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(1)
    return EMBEDDERS[request.param]()


def video(frames: int, height: int, width: int) -> list[torch.Tensor]:
    return list(torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8))


@pytest.mark.parametrize("model", ["regen"], indirect=True)
def test_encoding_goes_on_with_smaller_tiles(monkeypatch: pytest.MonkeyPatch, model: Autoencoder) -> None:
    length, encode, tried = model.chunk_frames, type(model).encode, []
    frames = video(2 * length + 2, 70, 150)

    def fails(self: Autoencoder, clip: torch.Tensor, tile: Tile | None) -> object:
        tried.append(tile)
        if tile is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, clip, tile=tile)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encode", fails)
        session = EncodeSession(model)
        found = [*session.feed(frames), *session.flush()]
    smaller = session.oom_retry.tile
    assert smaller is not None
    assert tried == [None, *[smaller] * 3], "the whole is tried once"
    assert [chunk.frames for chunk in found] == [length, length, 2]
    for a, b in zip(found, encode_frames(model, frames, smaller), strict=True):
        assert same_latents(a.latents, b.latents)


@pytest.mark.parametrize(
    ("model", "seams"),
    [("regen", "extend"), ("regen", "match"), ("onedva", "none")],
    indirect=["model"],
)
def test_decoding_goes_on_in_the_middle_of_a_chunk(
    monkeypatch: pytest.MonkeyPatch, model: Autoencoder, seams: Seams
) -> None:
    """The decoder runs out of memory in the last evaluation of the second chunk; what it has of the chunk is
    thrown away, and the frames are those of a session that had small tiles from this chunk on."""
    side = model.spatial_compression_ratio
    chunks = random_chunks(model, 15, (64 // side, 128 // side))
    smaller = Tile(64, 64, OVERLAP)

    def frames(options: DecodeOptions, switch: bool) -> torch.Tensor:
        session = DecodeSession(model, height=64, width=128, options=options)
        parts = []
        for chunk in chunks:
            if switch and chunk.index == 1:
                session.oom_retry.tile = smaller
            parts.append(session.feed(chunk))
        assert session.oom_retry.tile == smaller
        return torch.cat(parts)

    options = DecodeOptions(steps=3, seams=seams)
    expected, forward, calls = frames(options, switch=True), model.decoder.forward, []

    def fails(noisy: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        calls.append(len(noisy) * noisy.shape[-2] * noisy.shape[-1])  # pixels worked on together
        if len(calls) == 6:
            raise RuntimeError(CPU_RAN_OUT)
        return forward(noisy, *rest)

    monkeypatch.setattr(model.decoder, "forward", fails)
    assert torch.equal(frames(options, switch=False), expected)
    assert calls[:6] == [64 * 128] * 6
    assert set(calls[6:]) == {64 * 64}
    assert expected.float().std() > 1
    assert expected.shape == (15, 64, 128, 3)
