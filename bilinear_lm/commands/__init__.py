"""The commands, one typed function each; what a command needs is imported when it runs."""
