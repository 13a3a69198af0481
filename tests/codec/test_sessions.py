"""Sessions: length and size come back, and only frames and options decide what comes out, never the calls."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_media import EMBEDDERS, random_chunks, same_latents
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
from regen.codec.timeline import Timeline, offsets_per_chunk, output_frames
from regen.diffusion import Noise
from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents, collate
from regen.pretrained.models import Autoencoder
from regen.runtime import generator_for

SEAMS: list[Seams] = ["extend", "match", "none"]
DEFAULTS = DecodeOptions()
PER_SEAMS = pytest.mark.parametrize("seams", SEAMS)
NUMBERS = st.one_of(st.integers(-3, 8).map(float), st.floats(-3, 8))  # of a frame within its chunk


PLACES = (1, 4)  # rows and columns of latents: two regions of One-DVA's
PER_EMBEDDER = pytest.mark.parametrize("model", EMBEDDERS, indirect=True)
DENOISING = pytest.mark.parametrize("model", ["regen", "onedva"], indirect=True)
EXTRAPOLATING = pytest.mark.parametrize("model", ["regen"], indirect=True)
NOT_EXTRAPOLATING = pytest.mark.parametrize("model", ["magvit2", "onedva"], indirect=True)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(1)
    return EMBEDDERS[request.param]()


def size_of(model: Autoencoder) -> tuple[int, int]:
    side = model.spatial_compression_ratio
    return PLACES[0] * side, PLACES[1] * side


def video(frames: int, height: int, width: int) -> list[Tensor]:
    """Noise whose contrast, and so its motion, differs from frame to frame."""
    noise = torch.randint(0, 256, (frames, height, width, 3))
    return list((noise * torch.rand(frames, 1, 1, 1)).to(torch.uint8))


def chunks_of(model: Autoencoder, frames: int) -> list[ChunkLatents]:
    return random_chunks(model, frames, PLACES)


def decoded(model: Autoencoder, chunks: Iterable[ChunkLatents], options: DecodeOptions = DEFAULTS) -> Tensor:
    return torch.cat(list(session_of(model, options).decode((chunk, None) for chunk in chunks)))


def session_of(model: Autoencoder, options: DecodeOptions = DEFAULTS) -> DecodeSession:
    height, width = size_of(model)
    return DecodeSession(model, height=height, width=width, options=options)


def round_trip(model: Autoencoder, frames: list[Tensor], options: DecodeOptions) -> Tensor:
    height, width = frames[0].shape[:2]
    chunks = encode_frames(model, frames)
    return torch.stack(list(decode_chunks(model, chunks, height=height, width=width, options=options)))


def pieces(frames: Sequence[Tensor], lengths: Iterable[int]) -> Iterator[Sequence[Tensor]]:
    for length in lengths:
        yield frames[:length]
        frames = frames[length:]
    yield frames


@PER_EMBEDDER
@given(*[st.integers(1, 14)] * 3, st.lists(st.integers(0, 7), max_size=6), st.sampled_from(SEAMS))
def test_any_length_and_size_comes_back_however_it_is_split_into_calls(
    model: Autoencoder, length: int, height: int, width: int, lengths: list[int], seams: Seams
) -> None:
    frames, options = video(length, height, 2 * width), DecodeOptions(steps=2, seams=seams)
    encoder = EncodeSession(model)
    decoder = DecodeSession(model, height=height, width=2 * width, options=options)
    parts = []
    for piece in pieces(frames, lengths):
        parts += [decoder.feed(chunk) for chunk in encoder.feed(piece)]
    parts += [decoder.feed(chunk) for chunk in encoder.flush()]
    found = torch.cat([*parts, decoder.flush()])
    assert (found.shape, found.dtype) == ((length, height, 2 * width, 3), torch.uint8)
    assert torch.equal(found, round_trip(model, frames, options))


@EXTRAPOLATING
@given(st.integers(1, 12), st.integers(1, 12), st.lists(st.booleans(), max_size=24), st.sampled_from(SEAMS))
def test_two_sessions_on_one_model_do_not_touch_each_other(
    model: Autoencoder, first: int, second: int, turns: list[bool], seams: Seams
) -> None:
    height, width = size_of(model)
    videos = [video(first, height, width), video(second, width, height)]
    options = [DecodeOptions(steps=2, seams=seams), DecodeOptions(steps=3, seed=5, batch=2, seams="extend")]
    encoders = [EncodeSession(model) for _ in videos]
    decoders = [
        DecodeSession(model, height=frames[0].shape[0], width=frames[0].shape[1], options=each)
        for frames, each in zip(videos, options, strict=True)
    ]
    waiting, parts = [iter(frames) for frames in videos], ([], [])
    for turn in chain(turns, [False] * 12, [True] * 12):
        frames = islice(waiting[turn], 1)
        parts[turn].extend(decoders[turn].feed(chunk) for chunk in encoders[turn].feed(frames))
    for turn in (False, True):
        parts[turn].extend(decoders[turn].feed(chunk) for chunk in encoders[turn].flush())
        parts[turn].append(decoders[turn].flush())
        alone = round_trip(model, videos[turn], options[turn])
        assert torch.equal(torch.cat(parts[turn]), alone)


@PER_EMBEDDER
@given(st.integers(2, 12), st.integers(1, 2))
def test_without_seams_a_chunk_is_what_it_is_alone(model: Autoencoder, length: int, steps: int) -> None:
    options = DecodeOptions(steps=steps, seams="none")
    chunks = chunks_of(model, length)
    whole = decoded(model, chunks, options)
    assert torch.equal(whole, torch.cat([decoded(model, [chunk], options) for chunk in chunks]))
    assert torch.equal(whole, torch.cat([decoded(model, [c], options) for c in reversed(chunks)][::-1]))


@PER_EMBEDDER
@given(st.integers(1, 22), st.integers(2, 4))
def test_batches_give_the_same_frames_in_their_order(model: Autoencoder, length: int, batch: int) -> None:
    chunks = chunks_of(model, length)
    session = session_of(model, DecodeOptions(batch=batch))
    parts = [session.feed(chunk) for chunk in chunks]
    for number, part in enumerate(parts, start=1):
        ready = sum(chunk.frames for chunk in chunks[number - batch : number]) if number % batch == 0 else 0
        assert len(part) == ready, "frames come out a batch at a time"
    whole = torch.cat([*parts, session.flush()])
    assert torch.equal(whole, decoded(model, chunks, DecodeOptions(batch=batch)))
    alone = decoded(model, chunks)
    assert whole.shape == alone.shape == (length, *size_of(model), 3)
    assert (whole.int() - alone.int()).abs().max() <= 1, "rounding to 8 bits may tip over"
    assert (whole != alone).float().mean() < 0.01


@PER_EMBEDDER
def test_chunks_that_cannot_share_a_batch_do_not(model: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images go apart from chunks; encoded frames of chunks share batches whatever else is asked for."""
    decode, sizes, length = type(model).decode, [], model.chunk_frames
    plain, (image,) = chunks_of(model, 7 * length), chunks_of(model, 1)
    session = session_of(model, DecodeOptions(batch=3))

    def counted(self: Autoencoder, latents: Tensor | Latents, times: Tensor, **options: object) -> object:
        sizes.append((len(latents), len(times)))
        return decode(self, latents, times, **options)

    monkeypatch.setattr(type(model), "decode", counted)
    wanted = [None] * 6 + [[0.5], [2.0, 0.5], None]
    out = list(session.decode(zip([*plain[:4], image, image, *plain[4:]], wanted, strict=True)))
    further = [(1, 1), (1, 1)] if model.extrapolates else []  # others blend what there is
    assert sizes == [(3, length), (1, length), (2, 1), (3, length), *further]
    assert [len(part) for part in out] == [0, 0, 3 * length, 0, length, 0, 2, 0, 3 + length, 0]


@EXTRAPOLATING
def test_a_batch_waits_for_nothing_where_chunks_are_joined(model: Autoencoder) -> None:
    chunks = chunks_of(model, 15)
    for seams in ("extend", "match"):
        joined = DecodeOptions(steps=2, seams=seams, batch=3)
        session = session_of(model, joined)
        assert [len(session.feed(chunk)) for chunk in chunks] == [5, 5, 5]
        alone = DecodeOptions(steps=2, seams=seams)
        assert torch.equal(decoded(model, chunks, joined), decoded(model, chunks, alone))


@NOT_EXTRAPOLATING
@pytest.mark.parametrize("seams", ["extend", "match"])
def test_chunks_of_models_that_do_not_extrapolate_are_not_joined(model: Autoencoder, seams: Seams) -> None:
    """Whatever is asked for, chunks are what they are alone, share batches, and stand still beyond it."""
    length = model.chunk_frames
    chunks = chunks_of(model, 3 * length)
    options = DecodeOptions(steps=2, seams=seams)
    apart = decoded(model, chunks, DecodeOptions(steps=2, seams="none"))
    assert torch.equal(decoded(model, chunks, options), apart)
    session = session_of(model, DecodeOptions(seams=seams, batch=3))
    assert [len(session.feed(chunk)) for chunk in chunks] == [0, 0, 3 * length]
    beyond = session_of(model, options).feed(chunks[0], [-7.5, -1.0, length + 0.0, length + 0.5])
    assert torch.equal(beyond, apart[[0, 0, length - 1, length - 1]])


@PER_EMBEDDER
@PER_SEAMS
def test_reset_and_flush_make_a_session_new(model: Autoencoder, seams: Seams) -> None:
    chunks, options = chunks_of(model, 18), DecodeOptions(steps=2, seams=seams, batch=2)
    expected = decoded(model, chunks, options)
    session = session_of(model, options)
    for chunk in chunks:
        session.feed(chunk)
    session.reset()
    assert len(session.flush()) == 0
    for _ in range(2):
        assert torch.equal(torch.cat(list(session.decode((chunk, None) for chunk in chunks))), expected)
    frames = video(model.chunk_frames + 2, *size_of(model))
    encoder = EncodeSession(model)
    encoder.feed(video(3, 24, 8))
    encoder.reset()
    for _ in range(2):
        found = [*encoder.feed(frames), *encoder.flush()]
        for a, b in zip(found, encode_frames(model, frames), strict=True):
            assert (a.index, a.frames) == (b.index, b.frames)
            assert same_latents(a.latents, b.latents)
    assert encoder.flush() == []


@PER_EMBEDDER
@settings(max_examples=25)
@given(
    st.lists(NUMBERS, min_size=1, max_size=7),
    st.integers(0, 9),
    st.integers(1, 3),
    st.sampled_from(list(SOLVERS)),
)
def test_frames_at_any_times_are_those_of_the_model(
    model: Autoencoder, at: list[float], index: int, steps: int, solver: SolverName
) -> None:
    """The encoded frames are decoded by themselves, then the others, as many at a time, in order of time.

    With several steps the encoded frames are beside these, too.
    """
    length = model.chunk_frames
    chunk = ChunkLatents(index, chunks_of(model, length)[0].latents, 3)
    found = session_of(model, DecodeOptions(steps=steps, seed=4, solver=solver)).feed(chunk, at)
    encoded = [float(i) for i in range(length)]
    others = sorted({*at} - {*encoded})
    expected: dict[float, Tensor] = {}
    for piece in (encoded, others[:length], others[length:]):
        offsets = piece if piece is encoded or steps == 1 else [*encoded, *piece]
        if not piece:
            continue
        with torch.no_grad():
            clip = model.decode(
                collate([chunk.latents]).for_decoder(),
                torch.tensor(offsets) / (length - 1),
                steps,
                generator_for(4, index),
                solver=SOLVERS[solver],
            ).sample[0]
        bytes_ = ((clip.clamp(-1, 1) + 1) * 127.5).round().byte()
        expected = dict(zip(offsets, bytes_.permute(1, 2, 3, 0), strict=True)) | expected
    assert torch.equal(found, torch.stack([expected[offset] for offset in at]))


TIMELINES = [
    Timeline(interpolate=2),
    Timeline(interpolate=5),
    Timeline(fps=Fraction(3)),
    Timeline(extrapolate_before=1, extrapolate_after=7),
    Timeline(interpolate=3, extrapolate_before=2, extrapolate_after=1, every_chunk=True),
]


@PER_EMBEDDER
@PER_SEAMS
@pytest.mark.parametrize("timeline", TIMELINES)
@pytest.mark.parametrize(("steps", "batch", "noise"), [(1, 3, "normal"), (2, 2, None)])
def test_encoded_frames_are_the_same_to_the_bit_whatever_else_is_asked_for(
    model: Autoencoder, seams: Seams, timeline: Timeline, steps: int, batch: int, noise: Noise | None
) -> None:
    """Also in the last chunk, which is short; at 3 frames a second of 2, every third one is encoded."""
    count = 3 * model.chunk_frames + 2
    chunks, options = chunks_of(model, count), DecodeOptions(steps, 3, seams=seams, batch=batch, noise=noise)
    plain = decoded(model, chunks, options)
    shown, _ = output_frames([i / 2 for i in range(count)], Fraction(2), model.chunk_frames, timeline)
    wanted = offsets_per_chunk(shown, len(chunks))
    images = torch.cat(list(session_of(model, options).decode(zip(chunks, wanted, strict=True))))
    times = [(chunk.index, at) for chunk, at_each in zip(chunks, wanted, strict=True) for at in at_each]
    starts = [chunk.index * model.chunk_frames for chunk in chunks]
    kept = [
        (i, starts[chunk] + int(at)) for i, (chunk, at) in enumerate(times) if _is_encoded(chunks[chunk], at)
    ]
    assert len(kept) >= count // 3
    for image, frame in kept:
        assert torch.equal(images[image], plain[frame]), frame


def _is_encoded(chunk: ChunkLatents, at: float) -> bool:
    return at.is_integer() and 0 <= at < chunk.frames


@PER_EMBEDDER
def test_asking_for_nothing_or_for_own_frames_only(model: Autoencoder) -> None:
    (chunk,) = chunks_of(model, model.chunk_frames)
    own = decoded(model, [chunk])
    session = session_of(model)
    assert session.feed(chunk, []).shape == (0, *size_of(model), 3)
    assert torch.equal(session.feed(chunk, [float(i) for i in range(model.chunk_frames)]), own)
    assert torch.equal(session.feed(chunk, [4.0, 0.0, 0.0, 2.0]), own[[4, 0, 0, 2]])
    short = ChunkLatents(0, chunk.latents, 2)
    assert torch.equal(session.feed(short), own[:2])
    assert torch.equal(session.feed(short, [4.0]), own[4:5]), "what was padded can be asked for"


@PER_EMBEDDER
def test_single_frame_is_an_image_and_a_lone_last_frame_is_not(model: Autoencoder) -> None:
    side, length = model.spatial_compression_ratio, model.chunk_frames
    (image,) = encode_frames(model, video(1, side, side))
    assert image.latents.shape == (4, 1, 1, 1)
    first, last = encode_frames(model, video(length + 1, side, side))
    assert (first.frames, last.frames) == (length, 1)
    assert last.latents.shape == first.latents.shape == (4, 5 if length == 17 else 2, 1, 1)


@PER_EMBEDDER
@PER_SEAMS
def test_an_image_has_one_frame_that_can_be_repeated(model: Autoencoder, seams: Seams) -> None:
    (image,) = chunks_of(model, 1)
    options = DecodeOptions(steps=2, seams=seams)
    (frame,) = decoded(model, [image], options)
    session = session_of(model, options)
    assert torch.equal(session.feed(image, offsets=[0.0, 0.0]), torch.stack([frame, frame]))
    if model.extrapolates:
        with pytest.raises(ValueError, match="times of an image"):
            session.feed(image, offsets=[0.5])
    else:
        assert torch.equal(session.feed(image, offsets=[0.5])[0], frame), "it stands still"


@PER_EMBEDDER
def test_padding_repeats_the_last_frame_and_the_border(model: Autoencoder) -> None:
    side = model.spatial_compression_ratio
    (frame,) = video(1, side, side + 3)
    wide = torch.cat([frame, frame[:, -1:].expand(side, side - 3, 3)], dim=1)
    (short,) = encode_frames(model, [frame, frame])
    (whole,) = encode_frames(model, [wide] * model.chunk_frames)
    assert same_latents(short.latents, whole.latents)


@DENOISING
def test_frames_depend_on_the_options_and_the_number_of_the_chunk(model: Autoencoder) -> None:
    (chunk,) = chunks_of(model, 5)
    normal = DecodeOptions(noise="normal")
    frames, other = decoded(model, [chunk], normal), ChunkLatents(1, chunk.latents, 5)
    assert not torch.equal(decoded(model, [other], normal), frames)
    for change in ({"seed": 1}, {"steps": 3}, {"steps": 3, "solver": "heun"}, {"noise": None}):
        assert not torch.equal(decoded(model, [chunk], replace(normal, **change)), frames)
    torch.manual_seed(5)
    assert torch.equal(decoded(model, [chunk], normal), frames), "the global random state does not matter"


@DENOISING
def test_one_step_starts_from_zero_and_needs_no_seed(model: Autoencoder) -> None:
    (chunk,) = chunks_of(model, 5)
    frames, other = decoded(model, [chunk]), ChunkLatents(1, chunk.latents, 5)
    assert torch.equal(decoded(model, [other], DecodeOptions(seed=1)), frames)
    assert torch.equal(decoded(model, [chunk], DecodeOptions(noise="zero")), frames)
    several, normal, zero = (DecodeOptions(steps=3, noise=noise) for noise in (None, "normal", "zero"))
    assert torch.equal(decoded(model, [chunk], several), decoded(model, [chunk], normal))
    assert not torch.equal(decoded(model, [chunk], several), decoded(model, [chunk], zero))
    assert torch.equal(decoded(model, [other], zero), decoded(model, [chunk], zero))


@EXTRAPOLATING
def test_frames_are_read_as_needed_and_a_chunk_of_them_kept_at_most(model: Autoencoder) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    taken = most = 0

    def frames() -> Iterator[Tensor]:
        nonlocal taken, most
        for _ in range(4 * model.chunk_frames + 3):
            taken += 1
            frame = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    chunks = encode_frames(model, frames())
    next(decode_chunks(model, chunks, height=8, width=8))
    assert taken == model.chunk_frames
    assert len(list(chunks)) == 4
    assert most <= model.chunk_frames + 1, "a chunk, and the frame that comes next"
    assert len(alive) == 0


def lossless_linear() -> AutoencoderLinear:
    """Both latents hold all the pixels of an 8 x 8 block, one of the first frame, one of the second."""
    model = AutoencoderLinear(temporal_compression_ratio=1, latent_channels=192)
    pixels = torch.eye(192).view(192, 3, 1, 8, 8)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        for part in (model.encoder.content, model.decoder.image):
            part.weight[..., 4:12, 4:12] = pixels
        model.encoder.motion.weight[:, :, 1:, 4:12, 4:12] = pixels
        model.decoder.chunk.weight[:192, :, :1, 4:12, 4:12] = pixels
        model.decoder.chunk.weight[192:, :, 1:, 4:12, 4:12] = pixels
    return model


def test_values_survive_eight_bits_and_are_clamped_to_them() -> None:
    model = lossless_linear()
    frames = list(torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).view(2, 16, 16, 3))
    back = torch.stack(list(decode_chunks(model, encode_frames(model, frames), height=16, width=16)))
    assert torch.equal(back, torch.stack(frames))
    for value, byte in ((-3.0, 0), (3.0, 255)):
        chunk = ChunkLatents(0, Latents.of(torch.full((192, 1, 1, 1), value)), 1)
        (frame,) = decode_chunks(model, [chunk], height=8, width=8)
        assert frame.unique().tolist() == [byte]


@pytest.mark.parametrize("build", [*EMBEDDERS.values(), AutoencoderLinear])
def test_latents_have_the_precision_of_the_model(build: Callable[[], Autoencoder]) -> None:
    model = build().bfloat16()
    (chunk,) = encode_frames(model, video(5, 8, 8))
    assert {part.dtype for part in chunk.latents.parts} == {torch.bfloat16}
    assert len(list(decode_chunks(model, [chunk], height=8, width=8))) == 5


@EXTRAPOLATING
def test_change_of_size_within_a_video_is_an_error(model: Autoencoder) -> None:
    session = EncodeSession(model)
    session.feed(video(7, 16, 8))
    with pytest.raises(ValueError, match="from 8x16 to 24x8 pixels"):
        session.feed(video(1, 8, 24))
    session.flush()
    session.feed(video(1, 8, 24))


@PER_EMBEDDER
def test_latents_of_another_size_are_an_error(model: Autoencoder) -> None:
    first, second = chunks_of(model, 2 * model.chunk_frames)
    side = model.spatial_compression_ratio
    session = DecodeSession(model, height=side - 1, width=3 * side + 1)
    session.feed(first)
    (other,) = random_chunks(model, model.chunk_frames, (1, 2))
    with pytest.raises(ValueError, match=r"need latents of (\d+) x 1 x 4 .* got \1 x 1 x 2;"):
        session.feed(ChunkLatents(1, other.latents, 5))
    assert session.feed(second).shape == (model.chunk_frames, side - 1, 3 * side + 1, 3), "it goes on"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("steps", 0, "steps .* got 0"),
        ("batch", 0, "batch .* and 0"),
        ("solver", "midpoint", "one of euler, heun, got 'midpoint'"),
        ("seams", "blend", "one of extend, match, none, got 'blend'"),
        ("noise", "grey", "one of None, normal, zero, got 'grey'"),
    ],
)
def test_options_out_of_range(name: str, value: object, sentence: str) -> None:
    wrong = DecodeOptions()
    object.__setattr__(wrong, name, value)  # past the checks of types, which only tests have
    with pytest.raises(ValueError, match=sentence):
        wrong.__post_init__()
