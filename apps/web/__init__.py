"""The page that `visavis serve` serves: plain ES modules and style sheets, used as they lie here."""
