"""`Graph`, a value as nodes and edges that add up: its files, summary, effects and exports."""
