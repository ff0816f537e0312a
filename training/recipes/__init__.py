"""Published runs, one file each; README.md says how to run them."""
