"""Tables of the commands: what was done with a video, which models there are."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from regen.codec.report import Report
from regen.console import print_table
from regen.pretrained import GeneratorInfo, ModelInfo


def show_report(report: Report, files: Sequence[Path], as_json: bool) -> None:
    """The report on standard output: a table that also names the `files` written, or one line of JSON."""
    if as_json:
        print(json.dumps(asdict(report)))
        return
    facts = [
        ("model", report.model),
        ("frames", f"{report.frames}, at {report.fps:.5g} per second"),
        ("size", f"{report.width} wide, {report.height} high"),
        (
            "latents",
            f"{'x'.join(map(str, report.latent_shape))}, {report.compression:.1f} times fewer values",
        ),
    ]
    if report.lengths is not None:
        least, most = min(report.lengths), max(report.lengths)
        facts.append(("1D latents", f"{least} to {most} in a chunk, {report.values_per_second:.0f} values/s"))
    if report.psnr is not None:
        facts.append(("PSNR", f"{report.psnr:.2f} dB"))
    if report.ssim is not None:
        facts.append(("SSIM", f"{report.ssim:.4f}"))
    if report.seam_ratio is not None:
        facts.append(("seams", f"{report.seam_ratio:.2f} times the jumps inside chunks (1: none visible)"))
    if report.encode_seconds is not None:
        facts.append(("encoding", _speed(report.frames, report.encode_seconds)))
    if report.decode_seconds is not None:
        facts.append(("decoding", _speed(report.frames, report.decode_seconds)))
    if report.tile is not None:
        facts.append(("tiles", f"{report.tile[1]} wide, {report.tile[0]} high"))
    if report.peak_memory_mb is not None:
        facts.append(("peak memory", f"{report.peak_memory_mb:.0f} MB"))
    facts.append(("written", ", ".join(map(str, files))))
    print_table(Table("", "", show_header=False, box=None), facts)


def show_models(models: Sequence[ModelInfo], generators: Sequence[GeneratorInfo], as_json: bool) -> None:
    """Embedders and generators on standard output: two tables, or one line of JSON."""
    if as_json:
        found = {"models": [*map(asdict, models)], "generators": [*map(asdict, generators)]}
        print(json.dumps(found))
        return
    table = Table("embedder", "ratio", "latent channels", "parameters", "size", "where", box=None)
    print_table(
        table,
        [
            (
                *(facts.name, f"{facts.ratio}x", str(facts.latent_channels)),
                *(f"{facts.parameters:,}", f"{facts.megabytes:.1f} MB", facts.where),
            )
            for facts in models
        ],
    )
    if generators:
        table = Table("generator", "of the latents of", "from", "parameters", "size", "where", box=None)
        print_table(
            table,
            [
                (
                    *(facts.name, facts.embedder, facts.condition),
                    *(f"{facts.parameters:,}", f"{facts.megabytes:.1f} MB", facts.where),
                )
                for facts in generators
            ],
        )


def _speed(frames: int, seconds: float) -> str:
    return f"{seconds:.1f} s, {frames / seconds:.1f} frames per second"
