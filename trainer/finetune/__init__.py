"""From a pretrained model to one that does tasks: examples as tokens, mixtures packed into rows, heads, decoding."""
