"""From proposals to trials on disk; begin with `session`, where they meet the budget. `tune` alone imports Ray."""
