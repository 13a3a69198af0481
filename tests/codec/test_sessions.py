"""Sessions: length and size come back, and only frames and options decide what comes out, never the calls."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regen.codec.chunks import ChunkLatents
from regen.codec.sessions import (
    SOLVERS,
    DecodeOptions,
    DecodeSession,
    EncodeSession,
    Seams,
    SolverName,
    decode_chunks,
    encode_frames,
)
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen
from regen.runtime import generator_for
from regen.tiling import Tile

SEAMS: list[Seams] = ["extend", "match", "none"]
DEFAULTS = DecodeOptions()
PER_SEAMS = pytest.mark.parametrize("seams", SEAMS)
NUMBERS = st.one_of(st.integers(-3, 8).map(float), st.floats(-3, 8))  # of a frame within its chunk


@pytest.fixture(scope="module")
def model() -> AutoencoderRegen:
    torch.manual_seed(1)
    tiny = AutoencoderRegen(
        latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
        width=24, depth=1, heads=2, siren_width=16,
    )  # fmt: skip
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return tiny.eval()


def video(frames: int, height: int, width: int) -> list[Tensor]:
    return list(torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8))


def chunks_of(frames: int, places: tuple[int, int] = (1, 2)) -> list[ChunkLatents]:
    """Random latents of a video."""
    lengths = [min(5, frames - start) for start in range(0, frames, 5)]
    shape = (4, 1 if frames == 1 else 2, *places)
    return [ChunkLatents(i, torch.randn(shape), length) for i, length in enumerate(lengths)]


def decoded(
    model: AutoencoderRegen, chunks: Iterable[ChunkLatents], options: DecodeOptions = DEFAULTS
) -> Tensor:
    """All frames of 16 x 8 pixels that come of some chunks in a session of their own."""
    session = DecodeSession(model, height=8, width=16, options=options)
    return torch.cat([*(session.feed(chunk) for chunk in chunks), session.flush()])


def round_trip(model: AutoencoderRegen, frames: list[Tensor], options: DecodeOptions) -> Tensor:
    height, width = frames[0].shape[:2]
    chunks = encode_frames(model, frames)
    return torch.stack(list(decode_chunks(model, chunks, height=height, width=width, options=options)))


def pieces(frames: Sequence[Tensor], lengths: Iterable[int]) -> Iterator[Sequence[Tensor]]:
    """The frames in pieces of these lengths, and then what is left."""
    for length in lengths:
        yield frames[:length]
        frames = frames[length:]
    yield frames


@given(st.integers(1, 12), st.integers(1, 18), st.integers(1, 18), st.sampled_from(SEAMS), st.integers(1, 2))
def test_any_length_and_size_comes_back(
    model: AutoencoderRegen, frames: int, height: int, width: int, seams: Seams, steps: int
) -> None:
    out = round_trip(model, video(frames, height, width), DecodeOptions(steps=steps, seams=seams))
    assert out.shape == (frames, height, width, 3)
    assert out.dtype == torch.uint8


@given(st.integers(1, 17), st.lists(st.integers(0, 7), max_size=6), st.sampled_from(SEAMS))
def test_any_way_to_split_a_video_into_calls_gives_the_same_bits(
    model: AutoencoderRegen, length: int, lengths: list[int], seams: Seams
) -> None:
    frames, options = video(length, 8, 16), DecodeOptions(steps=2, seams=seams)
    encoder, decoder = EncodeSession(model), DecodeSession(model, height=8, width=16, options=options)
    parts = []
    for piece in pieces(frames, lengths):
        parts += [decoder.feed(chunk) for chunk in encoder.feed(piece)]
    parts += [decoder.feed(chunk) for chunk in encoder.flush()]
    found = torch.cat([*parts, decoder.flush()])
    assert torch.equal(found, round_trip(model, frames, options))
    assert len(found.unique()) > 10


@given(st.integers(1, 12), st.integers(1, 12), st.lists(st.booleans(), max_size=24), st.sampled_from(SEAMS))
def test_two_sessions_on_one_model_do_not_touch_each_other(
    model: AutoencoderRegen, first: int, second: int, turns: list[bool], seams: Seams
) -> None:
    videos = [video(first, 8, 16), video(second, 16, 8)]
    options = [DecodeOptions(steps=2, seams=seams), DecodeOptions(steps=3, seed=5, batch=2, seams="extend")]
    encoders = [EncodeSession(model) for _ in videos]
    decoders = [
        DecodeSession(model, height=frames[0].shape[0], width=frames[0].shape[1], options=each)
        for frames, each in zip(videos, options, strict=True)
    ]
    waiting, parts = [iter(frames) for frames in videos], ([], [])
    for turn in chain(turns, [False] * 12, [True] * 12):
        for frame in [next(waiting[turn], None)]:
            if frame is not None:
                parts[turn].extend(decoders[turn].feed(chunk) for chunk in encoders[turn].feed([frame]))
    for turn in (False, True):
        parts[turn].extend(decoders[turn].feed(chunk) for chunk in encoders[turn].flush())
        parts[turn].append(decoders[turn].flush())
        alone = round_trip(model, videos[turn], options[turn])
        assert torch.equal(torch.cat(parts[turn]), alone)


@given(st.integers(2, 20), st.integers(1, 4), st.integers(1, 3))
def test_without_seams_a_chunk_is_what_it_is_alone(
    model: AutoencoderRegen, length: int, batch: int, steps: int
) -> None:
    options = DecodeOptions(steps=steps, seams="none")
    chunks = chunks_of(length)
    whole = decoded(model, chunks, options)
    assert torch.equal(whole, torch.cat([decoded(model, [chunk], options) for chunk in chunks]))
    assert torch.equal(whole, torch.cat([decoded(model, [c], options) for c in reversed(chunks)][::-1]))


@given(st.integers(1, 34), st.integers(2, 4))
def test_batches_give_the_same_frames_in_their_order(
    model: AutoencoderRegen, length: int, batch: int
) -> None:
    chunks = chunks_of(length)
    session = DecodeSession(model, height=8, width=16, options=DecodeOptions(batch=batch))
    parts = [session.feed(chunk) for chunk in chunks]
    for number, part in enumerate(parts, start=1):
        ready = sum(chunk.frames for chunk in chunks[number - batch : number]) if number % batch == 0 else 0
        assert len(part) == ready, "frames come out a batch at a time"
    whole = torch.cat([*parts, session.flush()])
    assert torch.equal(whole, decoded(model, chunks, DecodeOptions(batch=batch)))
    alone = decoded(model, chunks)
    assert whole.shape == alone.shape == (length, 8, 16, 3)
    assert (whole.int() - alone.int()).abs().max() <= 1, "rounding to 8 bits may tip over"
    assert (whole != alone).float().mean() < 0.01


def test_chunks_that_cannot_share_a_batch_do_not(
    model: AutoencoderRegen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images among chunks and chunks asked for other frames go alone; those alike go through together."""
    decode, sizes = AutoencoderRegen.decode, []

    def counted(self: AutoencoderRegen, latents: Tensor, times: Tensor, **options: object) -> object:
        sizes.append((len(latents), len(times)))
        return decode(self, latents, times, **options)

    monkeypatch.setattr(AutoencoderRegen, "decode", counted)
    plain, image = chunks_of(35), ChunkLatents(9, torch.randn(4, 1, 1, 2), 1)
    session = DecodeSession(model, height=8, width=16, options=DecodeOptions(batch=3))
    out = [session.feed(chunk) for chunk in [*plain[:3], plain[3], image, image]]
    out += [session.feed(plain[4], at=[0.5]), session.feed(plain[5], at=[2.0, 0.5]), session.feed(plain[6])]
    out.append(session.flush())
    assert sizes == [(3, 5), (1, 5), (2, 1), (2, 6), (1, 5)]
    assert [len(part) for part in out] == [0, 0, 15, 0, 5, 0, 2, 0, 3, 5]


def test_a_batch_waits_for_nothing_where_chunks_are_joined(model: AutoencoderRegen) -> None:
    chunks = chunks_of(15)
    for seams in ("extend", "match"):
        joined = DecodeOptions(steps=2, seams=seams, batch=3)
        session = DecodeSession(model, height=8, width=16, options=joined)
        assert [len(session.feed(chunk)) for chunk in chunks] == [5, 5, 5]
        alone = DecodeOptions(steps=2, seams=seams)
        assert torch.equal(decoded(model, chunks, joined), decoded(model, chunks, alone))


@PER_SEAMS
def test_reset_and_flush_make_a_session_new(model: AutoencoderRegen, seams: Seams) -> None:
    chunks, options = chunks_of(12), DecodeOptions(steps=2, seams=seams, batch=2)
    expected = decoded(model, chunks, options)
    session = DecodeSession(model, height=8, width=16, options=options)
    for chunk in chunks:
        session.feed(chunk)
    session.reset()
    assert len(session.flush()) == 0
    assert torch.equal(torch.cat([*(session.feed(chunk) for chunk in chunks), session.flush()]), expected)
    assert torch.equal(torch.cat([*(session.feed(chunk) for chunk in chunks), session.flush()]), expected)

    frames = video(7, 8, 16)
    encoder = EncodeSession(model)
    encoder.feed(video(3, 24, 8))
    encoder.reset()
    for _ in range(2):
        found = [*encoder.feed(frames), *encoder.flush()]
        for a, b in zip(found, encode_frames(model, frames), strict=True):
            assert (a.index, a.frames) == (b.index, b.frames)
            assert torch.equal(a.latents, b.latents)
    assert encoder.flush() == []


@settings(max_examples=25)
@given(
    st.lists(NUMBERS, min_size=1, max_size=7),
    st.integers(0, 9),
    st.integers(1, 3),
    st.sampled_from(list(SOLVERS)),
)
def test_frames_at_any_times_are_those_of_the_model(
    model: AutoencoderRegen, at: list[float], index: int, steps: int, solver: SolverName
) -> None:
    """The model decodes the chunk's own frames and those that are wanted, each once, in the order of time."""
    chunk = ChunkLatents(index, torch.randn(4, 2, 1, 2), 3)
    options = DecodeOptions(steps=steps, seed=4, solver=solver)
    session = DecodeSession(model, height=8, width=16, options=options)
    found = session.feed(chunk, at)
    order = sorted({0.0, 1.0, 2.0, 3.0, 4.0, *at})
    with torch.no_grad():
        clip = model.decode(
            chunk.latents[None],
            torch.tensor(order) / 4,
            steps,
            generator_for(4, index),
            solver=SOLVERS[solver],
        ).sample[0]
    bytes_ = ((clip.clamp(-1, 1) + 1) * 127.5).round().byte()
    expected = torch.stack([bytes_[:, order.index(value)].permute(1, 2, 0) for value in at])
    assert torch.equal(found, expected)


def test_asking_for_nothing_or_for_own_frames_only(model: AutoencoderRegen) -> None:
    (chunk,) = chunks_of(5)
    own = decoded(model, [chunk])
    session = DecodeSession(model, height=8, width=16)
    assert session.feed(chunk, []).shape == (0, 8, 16, 3)
    assert torch.equal(session.feed(chunk, [0.0, 1.0, 2.0, 3.0, 4.0]), own)
    assert torch.equal(session.feed(chunk, [4.0, 0.0, 0.0, 2.0]), own[[4, 0, 0, 2]])
    short = ChunkLatents(0, chunk.latents, 2)
    assert torch.equal(session.feed(short), own[:2])
    assert torch.equal(session.feed(short, [4.0]), own[4:]), "what was padded can be asked for"


def test_single_frame_is_an_image_and_a_lone_last_frame_is_not(model: AutoencoderRegen) -> None:
    (image,) = encode_frames(model, video(1, 8, 8))
    assert image.latents.shape == (4, 1, 1, 1)
    first, last = encode_frames(model, video(6, 8, 8))
    assert (first.frames, last.frames) == (5, 1)
    assert last.latents.shape == (4, 2, 1, 1)


@PER_SEAMS
def test_an_image_has_one_frame_that_can_be_repeated(model: AutoencoderRegen, seams: Seams) -> None:
    (image,) = chunks_of(1)
    options = DecodeOptions(steps=2, seams=seams)
    (frame,) = decoded(model, [image], options)
    session = DecodeSession(model, height=8, width=16, options=options)
    assert torch.equal(session.feed(image, at=[0.0, 0.0]), torch.stack([frame, frame]))
    with pytest.raises(ValueError, match="only time 0"):
        session.feed(image, at=[0.5])


def test_padding_repeats_the_last_frame_and_the_border(model: AutoencoderRegen) -> None:
    (frame,) = video(1, 8, 11)
    wide = torch.cat([frame, frame[:, -1:].expand(8, 5, 3)], dim=1)
    (short,) = encode_frames(model, [frame, frame])
    (whole,) = encode_frames(model, [wide] * 5)
    assert torch.equal(short.latents, whole.latents)


def test_frames_depend_on_seed_and_number_of_the_chunk(model: AutoencoderRegen) -> None:
    (chunk,) = chunks_of(5)
    frames = decoded(model, [chunk])
    assert not torch.equal(decoded(model, [ChunkLatents(1, chunk.latents, 5)]), frames)
    assert not torch.equal(decoded(model, [chunk], DecodeOptions(seed=1)), frames)
    torch.manual_seed(5)
    assert torch.equal(decoded(model, [chunk]), frames), "the global random state does not matter"


def test_steps_solver_and_tile_reach_the_decoder(model: AutoencoderRegen) -> None:
    (chunk,) = chunks_of(5)
    options = [
        DecodeOptions(),
        DecodeOptions(steps=3),
        DecodeOptions(steps=3, solver="heun"),
        DecodeOptions(steps=3, tile=Tile(8, 8, 0)),
    ]
    frames = [decoded(model, [chunk], each) for each in options]
    assert not any(torch.equal(a, b) for i, a in enumerate(frames) for b in frames[:i])


def test_a_tile_reaches_the_encoder(model: AutoencoderRegen) -> None:
    frames, tile = video(5, 16, 32), Tile(16, 16, 8)
    whole, tiled = (next(encode_frames(model, frames, each)).latents for each in (None, tile))
    assert not torch.equal(whole, tiled)
    (chunk,) = EncodeSession(model, tile).feed(frames)
    assert torch.equal(chunk.latents, tiled)


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


def test_feed_keeps_a_chunk_of_frames_at_most(model: AutoencoderRegen) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def frames() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(23):
            frame = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    session = EncodeSession(model)
    assert len(session.feed(frames())) == 4
    assert most <= 6, "a chunk, and the frame that comes next"
    assert len(alive) == 3
    session.flush()
    assert len(alive) == 0


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
        (frame,) = decode_chunks(model, [chunk], height=8, width=8)
        assert frame.unique().tolist() == [byte]


def test_latents_have_the_precision_of_the_model() -> None:
    model = AutoencoderLinear(temporal_compression_ratio=4).bfloat16()
    (chunk,) = encode_frames(model, video(5, 8, 8))
    assert chunk.latents.dtype == torch.bfloat16
    assert len(list(decode_chunks(model, [chunk], height=8, width=8))) == 5


def test_change_of_size_within_a_video_is_an_error(model: AutoencoderRegen) -> None:
    with pytest.raises(ValueError, match="changes from 8x16 to 24x8 pixels within the video"):
        EncodeSession(model).feed([*video(2, 16, 8), *video(1, 8, 24)])
    session = EncodeSession(model)
    session.feed(video(7, 16, 8))
    with pytest.raises(ValueError, match="give one size with --size HxW"):
        session.feed(video(1, 8, 24))
    session.flush()
    session.feed(video(1, 8, 24))


@pytest.mark.parametrize(("height", "width"), [(8, 24), (16, 16), (8, 8)])
def test_latents_of_another_size_are_told_in_a_sentence(
    model: AutoencoderRegen, height: int, width: int
) -> None:
    first, second = chunks_of(10)
    session = DecodeSession(model, height=height, width=width)
    with pytest.raises(ValueError, match=f"Frames of {width}x{height} pixels have .* not 2x1; give the size"):
        session.feed(first)
    fitting = DecodeSession(model, height=7, width=9)
    fitting.feed(first)
    with pytest.raises(ValueError, match="have 2x1 latents, not 3x1"):
        fitting.feed(ChunkLatents(1, torch.randn(4, 2, 1, 3), 5))
    assert fitting.feed(second).shape == (5, 7, 9, 3), "the session goes on"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "at least 1 step, not 0"),
        ({"batch": 0}, "at least 1 chunk, not 0"),
        ({"solver": "midpoint"}, "solvers euler, heun .* not 'midpoint'"),
        ({"seams": "blend"}, "seams extend, match, none, not .* and 'blend'"),
    ],
)
def test_options_out_of_range_are_told_in_a_sentence(options: dict[str, object], sentence: str) -> None:
    wrong = DecodeOptions()
    for name, value in options.items():
        object.__setattr__(wrong, name, value)  # past the checks of types, which only tests have
    with pytest.raises(ValueError, match=sentence):
        wrong.__post_init__()
