"""The public classes of the package, and the module of each."""

MODULES = {
    "AutoencoderLinear": "regen.embedders.linear",
    "AutoencoderMagvit2": "regen.embedders.magvit2",
    "AutoencoderOneDVA": "regen.embedders.one_dva",
    "AutoencoderRegen": "regen.embedders.regen",
    "LatentGenerator": "regen.generate.generator",
    "RegenDecoder": "regen.embedders.regen_decoder",
    "RegenTextToVideoPipeline": "regen.generate.pipeline",
}
