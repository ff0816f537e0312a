"""Small programs that show how the client is used; each runs as it is."""
