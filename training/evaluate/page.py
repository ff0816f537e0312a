"""The report as one HTML page that needs nothing else: pictures and films lie in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from engine.errors import OutputNotWritableError
from training.evaluate.sections import Film, Picture, Section, Table

TITLE = "visavis: measures of quality"
_TEMPLATE = Path(__file__).with_name("page.html")
_MOST_EMBEDDED_BYTES = 4 << 20
"""A larger film is linked from beside the page, so that phones can open it."""


def html_page(sections: Sequence[Section], title: str = TITLE) -> str:
    """All sections, in order."""
    links = "".join(f'<li><a href="#{escape(s.key)}">{escape(s.title)}</a></li>' for s in sections)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title), links=links, sections="\n".join(map(_section, sections))
    )


def page_files(sections: Sequence[Section], page: str = "report.html") -> dict[str, bytes]:
    """The page and, beside it, the pictures and films of the sections, by file name."""
    return {
        **{picture.name: picture.data for section in sections for picture in section.pictures},
        **{film.name: film.data for section in sections for film in section.films},
        page: html_page(sections).encode(),
    }


def save(files: Mapping[str, bytes], out: Path) -> list[Path]:
    """Files by name into folder `out`, which is made; returns their paths. Raises OutputNotWritableError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (out / name).write_bytes(data)
    except OSError as error:
        raise OutputNotWritableError(f"the report cannot be written to {out}: {error}") from error
    return [out / name for name in files]


def _section(section: Section) -> str:
    parts = [f'<section id="{escape(section.key)}">', f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    if section.command:
        parts.append(f'<pre aria-label="Command that makes these figures"><code>{escape(section.command)}</code></pre>')
    if section.facts:
        parts.append(_facts(section))
    parts += [_table(table) for table in section.tables]
    parts += [_film(film) for film in section.films]
    parts += [_picture(picture) for picture in section.pictures]
    return "\n".join([*parts, "</section>"])


def _facts(section: Section) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in section.facts) + "</dl>"


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(c) or "<span></span>"}</th>' for c in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"
        for name, *cells in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    body = f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    # Focusable, so that a wide table can be scrolled with the keyboard.
    label = escape(table.caption or "table")
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{body}</div>{notes}'


def _film(film: Film) -> str:
    source = _data_uri("video/mp4", film.data) if len(film.data) <= _MOST_EMBEDDED_BYTES else escape(film.name)
    labels = "".join(f"<span>{escape(label)}</span>" for label in film.labels)
    spoken = escape(f"{film.caption}: {', '.join(film.labels)}")
    return (
        f'<figure><figcaption>{escape(film.caption)}</figcaption><div class="labels" aria-hidden="true">{labels}</div>'
        f'<video controls loop playsinline preload="metadata" width="{film.width_px}" height="{film.height_px}" '
        f'aria-label="{spoken}" src="{source}"></video></figure>'
    )


def _picture(picture: Picture) -> str:
    kind = "image/jpeg" if picture.data[:2] == b"\xff\xd8" else "image/png"
    return f'<figure><img loading="lazy" alt="{escape(picture.alt)}" src="{_data_uri(kind, picture.data)}"></figure>'


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"
