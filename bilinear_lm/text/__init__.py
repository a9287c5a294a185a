"""Text and token ids: reading files, sampling, losses."""
