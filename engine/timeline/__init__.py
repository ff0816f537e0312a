"""What a session's frames are made from: voices, speech, states and cues, by frame. No clock, no input or output."""
