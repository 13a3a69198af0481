"""The latents of a corpus, on which generators and decoders are trained.

sources.py: samples, decoded into chunks. embedding.py: chunks to latents. export.py, ray_engine.py: the
export. shards.py: the files. dataset.py: reading them. pairs.py, exported_frames.py: with their frames.
"""
