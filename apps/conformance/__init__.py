"""Does a server keep the promises of docs/protocol.md? Conversations as JSON files, played against any URL.

Written from the page alone, without the server's own parser, so that it also checks that page.
"""
