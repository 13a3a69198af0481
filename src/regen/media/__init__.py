"""Media files in and out: readers, writers, pixels, sizes, audio."""
