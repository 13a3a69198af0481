"""Generation on latents: from a text or a class to a video.

export/             the latents of a corpus, on which generators are trained
generator.py        LatentGenerator: START HERE
tokens.py           latents as tokens: where each lies, of what kind it is
conditions.py       class or text, as a vector and as tokens
text.py             text encoders; captions.py: captions embedded once
latent_batches.py   batches as a function of (seed, step); source.py: what is told of the latents
training.py         a recipe from latents to finished generator; preview.py: its pictures
sampling.py         from noise to latents: guidance, given frames, long videos
video.py            from a request to videos; shape, blanks, loading, decoding, files: its parts
pipeline.py         the same as a diffusers pipeline
evaluation.py       generated against real videos: Fréchet distance, what prompts asked for
predictor.py        a generator in the post-training of a decoder
"""
