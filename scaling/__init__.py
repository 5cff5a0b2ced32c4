"""Numbers in, curves out: optima of loss against lr, and laws across them. No files, clock or torch."""
