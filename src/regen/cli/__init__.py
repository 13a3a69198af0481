"""The command `regen`. Heavy imports stand inside the commands, so that `regen --help` answers at once.

app.py        all commands put together, and what the user sees when one fails
video.py      reconstruct, encode, decode, models
training.py   train
evaluation.py evaluate
shards.py     shards: build, index, show
runs.py       runs show
latents.py    latents: export, show
options.py    what several commands have in common: arguments, options, loading the model
"""

from regen.cli.app import main

__all__ = ["main"]
