"""Ops of the domain `ai.edgec`: what defines one, and where a definition is found."""
