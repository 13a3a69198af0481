"""What is asked for against what a generator can make: frames, sizes, chunks, and what is cut off again."""

from dataclasses import dataclass

from regen.generate.generator import LatentSpec
from regen.media.sizes import Size


@dataclass(frozen=True)
class VideoShape:
    """The videos that are made: shown are `frames` frames of `height` x `width` pixels.

    Their latents have `latent_frames` for each of `chunks` chunks (1 for an image), on `rows` x `columns`
    places. With `continues` another chunk, which is given, lies before them. `parts` is how often the
    generator has to begin, because it makes only so many chunks at once. `notes` are sentences for people.
    """

    frames: int
    height: int
    width: int
    chunks: int
    latent_frames: int
    rows: int
    columns: int
    continues: bool
    parts: int
    notes: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        return self.frames == 1 and not self.continues


def video_shape(
    source: LatentSpec,
    patch: int,
    frames: int | None = None,
    size: Size | None = None,
    continues: bool = False,
) -> VideoShape:
    """The shape of the videos for a request; by default one chunk, of the most frequent size in training.

    `patch`: places on a side that the generator makes one token of. With `continues` the last chunk of a
    video is given, and `frames` count what comes after it. Raises ValueError for what can't be made.
    """
    whole = source.chunk_frames if source.chunk_latents > 1 else 1
    frames = whole if frames is None else frames
    if frames < 1:
        raise ValueError(f"A video has 1 frame or more, not {frames}; {whole} are one chunk.")
    if size is None:
        if not source.sizes:
            raise ValueError(
                "This generator does not tell the size of its videos; give one, such as 256x256."
            )
        size = Size(*source.sizes[0])
    is_image = frames == 1 and not continues
    chunks = 1 if is_image else -(-frames // whole)
    multiple = source.spatial_compression_ratio * patch
    rows, columns = (-(-side // multiple) * patch for side in (size.height, size.width))
    made = Size(rows * source.spatial_compression_ratio, columns * source.spatial_compression_ratio)
    notes = [*_cut(size, made, multiple, frames, chunks * whole, is_image), *_unknown(source, size, made)]
    total, most = chunks + continues, max(1, source.max_chunks)
    if total > most and most < 2:
        raise ValueError(
            f"This generator was trained on one chunk of {whole} frames at a time and can't go on from it; "
            f"give at most {whole} frames, without a video to go on with."
        )
    parts = 1 + max(0, -(-(total - most) // max(1, most - 1)))
    if parts > 1:
        notes.append(
            f"The training had {most} chunks of {whole} frames in a row, and this takes {total}: it is made "
            f"in {parts} parts, each of which goes on from the last chunk of the one before it."
        )
    latent_frames = 1 if is_image else source.chunk_latents
    return VideoShape(
        frames, size.height, size.width, chunks, latent_frames, rows, columns, continues, parts, tuple(notes)
    )


def _cut(size: Size, made: Size, multiple: int, frames: int, total: int, is_image: bool) -> list[str]:
    """What is generated and not shown."""
    notes = []
    if made != size:
        notes.append(
            f"This generates {made} pixels and cuts them to {size}, because sides are multiples of "
            f"{multiple} here."
        )
    if frames != total and not is_image:
        notes.append(
            f"This generates {total} frames and leaves out the last {total - frames}, because frames come in "
            "chunks."
        )
    return notes


def _unknown(source: LatentSpec, size: Size, made: Size) -> list[str]:
    """A warning about a size that the training did not have."""
    if not source.sizes or not {(size.height, size.width), (made.height, made.width)}.isdisjoint(
        source.sizes
    ):
        return []
    first = Size(*source.sizes[0])
    others = len(source.sizes) - 1
    more = f" and {others} other {'size' if others == 1 else 'sizes'}" if others else ""
    return [f"The training had videos of {first}{more}, not of {size}: how good these are is unknown."]
