"""The export of the latents of a corpus, on which generators are trained.

plan.py        settings, input, and the manifest
corpus.py      what is embedded: shard sets and folders, shard by shard
clip_stream.py one video or image, decoded, as the chunks that a model sees
embedding.py   chunks of many videos through the model, in batches
latents.py     the export: what is missing is claimed, made and published
ray_engine.py  the same on a Ray cluster
overview.py    what a folder of latents holds, for people
"""
