"""Which trials to run and for how much: strategies (pure), budget (pure), and what executes them."""
