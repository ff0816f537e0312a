"""Computer-graphics people: anny identities dressed from an asset folder or from procedures, drawn with OpenGL.

Start at `subject.HeadSubject`.
"""
