/** The last minute as four small rows on a canvas: answer, interval, queue, skew. */

import { BINS } from "./figures.js";

const ROWS = [
  { field: "answer", label: "First frame", key: "--c-answer", least: 400, dots: true },
  { field: "interval", label: "Frame interval", key: "--c-interval", least: 80, mark: 40 },
  { field: "queue", label: "Queue", key: "--c-queue", least: 200 },
  { field: "skew", label: "A/V skew", key: "--c-skew", least: 60, centred: true },
];
const LABEL_PX = 15;
const GAP_PX = 8;
const DOT_PX = 3.5;

/** Draw what `figures.bins()` gives. */
export function draw(canvas, bins) {
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const paper = canvas.getContext("2d");
  paper.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const each = height / ROWS.length;
  ROWS.forEach((row, i) => {
    drawRow(paper, row, bins, style, { top: i * each + LABEL_PX, width, height: each - LABEL_PX - GAP_PX });
  });
}

function drawRow(paper, row, bins, style, area) {
  const known = bins.filter((bin) => bin[row.field] !== undefined);
  const most = Math.max(row.least, ...known.map((bin) => Math.abs(bin[row.field])));
  const y = (value) => {
    const share = row.centred ? 0.5 + value / (2 * most) : value / most;
    return area.top + area.height * (1 - share);
  };
  const x = (bin) => area.width * (1 - bin.age / BINS);
  rule(paper, style.getPropertyValue("--line"), area, row.centred ? y(0) : row.mark ? y(row.mark) : y(0));
  paper.strokeStyle = paper.fillStyle = style.getPropertyValue(row.key);
  if (row.dots) dots(paper, known, x, (bin) => y(bin[row.field]));
  else line(paper, known, x, (bin) => y(bin[row.field]));
  paper.fillStyle = style.getPropertyValue("--muted");
  paper.font = "11px system-ui, sans-serif";
  paper.textAlign = "left";
  paper.fillText(row.label, 0, area.top - 4);
  paper.textAlign = "right";
  paper.fillText(`${row.centred ? "±" : ""}${Math.round(most)} ms`, area.width, area.top - 4);
}

function rule(paper, colour, area, at) {
  paper.strokeStyle = colour;
  paper.lineWidth = 1;
  paper.beginPath();
  paper.moveTo(0, at);
  paper.lineTo(area.width, at);
  paper.stroke();
}

function line(paper, bins, x, y) {
  paper.lineWidth = 1.5;
  paper.lineJoin = "round";
  paper.beginPath();
  let before = null;
  for (const bin of bins) {
    if (before !== null && before - bin.age <= 2) paper.lineTo(x(bin), y(bin));
    else paper.moveTo(x(bin), y(bin));
    before = bin.age;
  }
  paper.stroke();
}

function dots(paper, bins, x, y) {
  for (const bin of bins) {
    paper.beginPath();
    paper.arc(Math.min(x(bin), paper.canvas.clientWidth - DOT_PX), y(bin), DOT_PX, 0, 2 * Math.PI);
    paper.fill();
  }
}
