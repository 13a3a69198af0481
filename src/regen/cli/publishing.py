"""The command push."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from regen.cli.options import Name


def push(
    model: Annotated[Positional[str], arg(metavar="RUN")],
    repository: Annotated[Positional[str], arg(metavar="OWNER/NAME")],
    private: FlagCreatePairsOff[bool] = False,
    dry_run: FlagCreatePairsOff[bool] = False,
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None,
    self_contained: FlagCreatePairsOff[bool] = False,
    license: Name = None,
) -> None:
    """Publish a model on the Hugging Face Hub, with its card and code for diffusers.

    Example: regen push runs/first me/first --license apache-2.0 --dry-run --out first

    A generator is published as a pipeline with its embedder and text encoder.

    Args:
        model: The folder of a finished run or of a model, or a name from `regen models`.
        repository: The repository on the Hub; it is made if need be.
        private: Make a new repository private.
        dry_run: Upload nothing; with --out, write the folder that would be uploaded.
        out: A new folder, for --dry-run.
        self_contained: Add the sources of the model, so that diffusers loads it without the package regen.
        license: Licence of the weights, such as apache-2.0; by default that of the card.
    """
    from regen import hub
    from regen.pretrained.models import silence_logging

    silence_logging()
    if dry_run != (out is not None):
        raise ValueError("--dry-run and --out DIR must be given together.")
    if out is not None:
        folder = hub.stage(model, out, repository, self_contained, license)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(folder)}")
        print(f"{repository} would be as in {folder}; --model {folder} loads it.")
        return
    print(f"Published: {hub.push(model, repository, private, self_contained, license)}")
