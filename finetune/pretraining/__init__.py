"""Bilinear language models, and their SwiGLU twins, from scratch."""
