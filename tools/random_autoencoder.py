"""Save a tiny autoencoder of diffusers with random weights, which stands in for one of a generator.

    python tools/random_autoencoder.py FOLDER

It has the class, the frames and the sizes of Wan 2.1's, four latent channels, and no content.
"""

import argparse

import torch
from diffusers import AutoencoderKLWan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).save_pretrained(folder)
    print(folder)


if __name__ == "__main__":
    main()
