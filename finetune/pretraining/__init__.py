"""Bilinear language models, their SwiGLU twins, and models without gates, from scratch."""
