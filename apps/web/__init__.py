"""The page that `visavis serve` serves: plain ES modules and style sheets, used as they lie here."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the page's files are; `index.html` is the page."""
