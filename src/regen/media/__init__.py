"""Media files in and out: reading, seeking, pixels, images, writing, sound."""
