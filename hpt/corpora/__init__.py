"""What `hpt.data` does: one file a subcommand, a configuration and a function each."""
