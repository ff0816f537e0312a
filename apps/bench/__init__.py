"""`visavis bench`: what the live avatar takes on this machine, seen from where its user stands.

A viewer takes the frames of real sessions and notes when; every figure comes from such notes. What each figure means is
written in the class that holds it, and its unit is in its name.
"""
