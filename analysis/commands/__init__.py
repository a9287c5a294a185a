"""The commands that read a model: report, eigen, hosvd, interactions, trace, diff, polynomial."""
