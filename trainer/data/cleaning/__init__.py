"""Texts in, cleaner texts out: filters and near-duplicates over files, on one machine or on a cluster."""

from trainer.data.cleaning.job import Job as Job
from trainer.data.cleaning.local import clean as clean
