"""The app as a Space: regen app, with limits that suit a small shared machine."""

from regen.app.limits import Limits
from regen.app.server import Serving, serve
from regen.pretrained.models import silence_logging

# More models by name, once they are published, such as ("onedva-small", "t2v-world").
MODELS: tuple[str, ...] = ()

if __name__ == "__main__":
    silence_logging()
    serve(MODELS, Limits(max_frames=150, max_side=320, max_upload="20MB"), Serving("0.0.0.0", 7860))
