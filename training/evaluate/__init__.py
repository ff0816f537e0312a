"""Measures of quality: `visavis evaluate`."""
