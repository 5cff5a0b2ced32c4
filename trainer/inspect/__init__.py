"""Inside a trained model: attention maps and what heads do, neurons and what activates them, the logit lens."""
