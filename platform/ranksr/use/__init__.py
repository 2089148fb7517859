"""Uses of a trained network: upscale photographs, export it for other programs."""
