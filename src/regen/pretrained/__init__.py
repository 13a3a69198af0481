"""Trained models by name, and the bundled model."""
