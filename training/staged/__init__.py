"""A published run in stages that each fit ten minutes of one GPU: `visavis train recipe`."""
