"""The data of the features part in pieces, each of which the page reads when it needs it."""
