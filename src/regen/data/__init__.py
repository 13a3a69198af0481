"""Videos and images: read and write files, draw training clips, make toy data."""
