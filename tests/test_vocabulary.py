"""Retired words stay out of code, help texts and docs; docs/method.md has the glossary."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "tools", "examples", "docs")

# Names, configuration fields and flags that have better terms, none of which is a term of the field.
RETIRED = """
told contest contestant contestants Contest Contestant FurtherLoss Glimpse HybridLatents VideoMaker
LengthRule NoiseLevelEmbedding Modulator StartConfig start_nearby heads_of trunk_matrices token_rotation
per_entry draw_noise_levels noise_grid velocity_of make_moments keep_freed_memory name_of ran_out
memory_to_spare look_again remove_remains averaged_weights waiting_share be_quiet is_told_something
drawn_lengths batch_of share_out cut_to in_full full_share share_at_one latent_noise noise_from_velocity
clean_from_noise encoder_shortcut least_length image_length length_step joint_depth given_share
values_per_value difference_error blended_share seconds_per_batch seconds_per_sample on_divergence
clip_norm preview_clips video_store siren_layers
"""
PHRASES = (r"\(spec ", r"spec [AB]\d", r"further (?:loss|losses)\b", "values per value")
FLAGS = (
    "--key-every",
    "--loop.passes",
    "--loop.keep ",
    "--loop.workers",
    "--start.",
    "--data.held-out",
    "--group ",
)
WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(RETIRED.split())})(?![\w-])|{'|'.join(PHRASES)}")


def test_retired_words_stay_out() -> None:
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    files += [file for folder in FOLDERS for kind in ("*.py", "*.md") for file in (ROOT / folder).rglob(kind)]
    found = []
    for file in files:
        if file.name in ("log.md", Path(__file__).name):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            old = [match[0] for match in WORDS.finditer(line)] + [flag for flag in FLAGS if flag in line]
            found += [f"{file.relative_to(ROOT)}:{number}: {word}" for word in old]
    assert not found, "\n".join(found)
