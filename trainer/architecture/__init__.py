"""The model in one readable file (`model`), its parametrisations, its loss, and its counts of parameters and FLOPs."""
