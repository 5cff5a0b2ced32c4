"""Zero-shot tasks: their files, how a model is scored on them, what a score is. Begin with `evaluators`, the table."""
