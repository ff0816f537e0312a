"""`visavis serve`: sessions over WebSockets, by the protocol of docs/protocol.md."""
