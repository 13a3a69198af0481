"""Generation of videos in latent space.

generator.py: start here. inputs.py: conditions and tokens. text.py, captions.py: text encoders.
latent_batches.py, training.py: from exported latents to a model. sampling.py: guidance, given frames, long
videos. video_generator.py, run.py, pipeline.py: from prompts to videos.
"""
