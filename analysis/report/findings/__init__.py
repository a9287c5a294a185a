"""The few most telling things that a report found: chosen by rules, each with its numbers and its null."""
