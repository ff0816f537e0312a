"""What `visavis doctor` knows: `examine` looks, `speed` measures, `text` tells."""
