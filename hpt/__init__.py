"""hpt finds the peak learning rate of a pretraining run you can afford only once."""

__version__ = "0.1.0"
