"""Training under torchrun or in a single process; `loop.train` is the loop.

trainer.py            training of a recipe: data, model, loop, latent statistics, saved model
loop.py               forward, backward, clipping, step, averaging
lifecycle.py          run folder, signals, evaluations, non-finite updates
checkpoint.py         training state and its checkpoints
dataloader.py         data loading processes
distributed.py        DDP, FSDP2, collectives
optimizer.py          AdamW, Muon, learning rate schedule
finetune.py           initial weights from another model or from PCA, and freezing
auxiliary_losses.py   perceptual, adversarial and representation losses; predicted latents
latent_statistics.py  mean and standard deviation of the latents
throughput.py         throughput, metrics, log.jsonl and TensorBoard
run_summary.py        what `regen runs show` shows: figures and plots
"""
