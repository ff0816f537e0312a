"""Data that ships with the code: model bundles, demo portraits and demo speech, each with its licence."""
