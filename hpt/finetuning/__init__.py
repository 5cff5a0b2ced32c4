"""What hpt.finetune and hpt.evaluate share: tasks and files as they are given, heads, scores."""
