"""What hpt.ablate does: variants of a run at several levels of compute, their training, the verdicts."""
