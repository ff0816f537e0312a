"""Stages of a model on places of their own: what a plan is, and how a stage runs in another process."""
