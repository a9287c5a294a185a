"""The parts of an edit: hidden units from directions, their bounds, a model's room for them, its folder."""
