"""DiffusionGemma, an encoder with a decoder that denoises uniform noise."""
