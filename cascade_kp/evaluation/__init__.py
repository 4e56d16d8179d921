"""Evaluation: a model on labelled faces, under a protocol that is written beside every number."""
