"""The page of a policy: how it plays, what it looks for, and what that is worth when it is changed."""
