"""The web app `regen app`, on gradio (the extra `app`): videos and models in a browser, nothing kept."""
