"""What makes a policy act: probes with their terms, edits of states, and terms scaled while it plays."""
