"""Pages that people read: what a search or a final run found."""
