"""`regen evaluate-generator`: Fréchet distances and prompt agreement of generated videos."""
