"""Closed-form polynomials of MLPs and GLUs under Gaussian inputs."""
