"""Mazes in which a mouse looks for cheese: of our own in numpy, and ProcGen's."""
