"""Adapting the decoder to one person within minutes: pairs of that person, training of few weights, what it gained."""
