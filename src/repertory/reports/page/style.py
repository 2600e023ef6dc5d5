"""The page's one style sheet: light, dark, a phone's width, paper.

The seven colours of lines are those of Okabe and Ito, told apart by readers who do not see red or
green; each has dashes of its own besides, for paper without colours.
"""

__all__ = ["STYLE"]

_DARK = """
  --ground: #16181c; --card: #1e2126; --ink: #eceae6; --soft: #a3a19c; --rule: #33373e;
  --c0: #5db3ee; --c1: #ff9256; --c2: #3fcf9f; --c3: #e79fcb; --c4: #f2c14e; --c5: #a7d8f5;
  --c6: #d9d7d2; --serving: #3d9be0; --device: #1f4f78; --host: #5c6068; --moving: #ff9256;
  --good: #3fcf9f; --bad: #ff9256; --warn: #2d2618;
"""

STYLE = (
    """
:root {
  color-scheme: light dark;
  --ground: #fff; --card: #f7f6f3; --ink: #1d1c1a; --soft: #66625c; --rule: #e2dfd9;
  --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #b4558c; --c4: #9a7000; --c5: #3f97c9;
  --c6: #55524d; --serving: #0072b2; --device: #a9d0ea; --host: #b9b5ae; --moving: #d55e00;
  --good: #00734f; --bad: #b94a00; --warn: #fdf4e3;
}
@media screen and (prefers-color-scheme: dark) { :root {"""
    + _DARK
    + """} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 70rem; padding: 2.5rem 1.5rem 4rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
h1, h2, h3, h4, p, figure, dl, dd { margin: 0; }
h1 { font-size: 2rem; line-height: 1.15; letter-spacing: -0.02em; }
h2 {
  font-size: 1.3rem; line-height: 1.25; letter-spacing: -0.01em;
  margin: 3.25rem 0 0.35rem; padding-top: 0.9rem; border-top: 2px solid var(--ink);
}
h3 { font-size: 1rem; margin-top: 1.5rem; overflow-wrap: anywhere; }
h4 { font-size: 0.875rem; margin: 1.25rem 0 0.35rem; overflow-wrap: anywhere; }
h4 small { font-weight: 400; color: var(--soft); font-size: 0.8125rem; margin-left: 0.4rem; }
header p { margin-top: 0.5rem; color: var(--soft); max-width: 46rem; }
.lead, .note, .empty, footer { color: var(--soft); font-size: 0.875rem; }
.lead { max-width: 46rem; margin-bottom: 0.5rem; }
.note { margin-top: 0.5rem; }
.empty { padding: 0.9rem 1rem; margin-top: 0.75rem; background: var(--card); border-radius: 6px; }
nav { margin-top: 1rem; font-size: 0.875rem; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; }
a { color: var(--c0); text-decoration: none; }
a:hover { text-decoration: underline; }
.notices {
  margin-top: 1.5rem; padding: 0.8rem 1rem; background: var(--warn); font-size: 0.9rem;
  border-left: 4px solid var(--bad); border-radius: 0 6px 6px 0;
}
.notices ul { margin: 0.25rem 0 0; padding-left: 1.1rem; }
.origin {
  display: inline-block; padding: 0 0.5em; border: 1.5px solid currentColor; border-radius: 99px;
  font-size: 0.72rem; font-weight: 600; line-height: 1.5; vertical-align: 0.12em;
  white-space: nowrap;
}
.origin.simulated { border-style: dashed; color: var(--c3); }
.origin.measured { color: var(--good); }
.cards {
  display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
.card { background: var(--card); border-radius: 10px; padding: 1.1rem 1.25rem 1rem; }
.cards.alone { grid-template-columns: minmax(0, 1fr); }
.alone .card dl { grid-template-columns: 2fr 1fr 1fr 1fr 1fr; align-items: end; }
.alone .card .big { grid-column: auto; }
.card h3 { margin: 0; font-size: 1.05rem; }
.card .note { margin-top: 0.1rem; }
.card dl { display: grid; grid-template-columns: 1fr 1fr; gap: 0.7rem 1rem; margin-top: 0.9rem; }
.card .big { grid-column: 1 / -1; }
dt { color: var(--soft); font-size: 0.8125rem; line-height: 1.3; }
dd { font-size: 1.15rem; font-weight: 600; line-height: 1.3; }
.big dd { font-size: 2.4rem; letter-spacing: -0.02em; line-height: 1.15; }
dd small, td small {
  font-weight: 400; color: var(--soft); font-size: 0.75rem; white-space: nowrap;
}
.big dd small { font-size: 1rem; letter-spacing: 0; }
.verdict { margin-top: 0.8rem; font-size: 0.9rem; font-weight: 600; }
.met { color: var(--good); }
.missed { color: var(--bad); }
.block { margin-top: 0.25rem; }
.scroll { overflow-x: auto; margin-top: 0.6rem; }
table { border-collapse: collapse; font-size: 0.875rem; width: 100%; }
th, td { padding: 0.4rem 0.55rem; text-align: right; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
td { white-space: nowrap; }
tbody th { font-weight: 500; }
thead th {
  color: var(--soft); font-weight: 500; font-size: 0.8125rem; white-space: nowrap;
  border-bottom: 1px solid var(--ink);
}
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.scroll tbody th { min-width: 8rem; max-width: 26rem; overflow-wrap: break-word; }
td small { display: block; }
.scroll th:first-child { position: sticky; left: 0; background: var(--ground); }
.message { font-weight: 400; overflow-wrap: anywhere; }
.troubles { margin: 0; padding-left: 1.1rem; font-size: 0.875rem; }
.counted { display: inline-flex; align-items: center; gap: 0.6rem; }
svg.bar { flex: none; transform: scaleX(-1); order: -1; }
.bar rect, rect.bar { fill: var(--c0); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 2.5rem; }
.pair > * { min-width: 0; }
.keys { margin-top: 0.4rem; font-size: 0.8125rem; }
.keys th, .keys td { padding-top: 0.2rem; padding-bottom: 0.2rem; }
.keys td { padding-left: 0.4rem; padding-right: 0.4rem; }
.keys tbody tr + tr > * { border-top: 0; }
.keys thead th { border-bottom: 1px solid var(--rule); }
.keys svg { flex: none; }
.named { display: inline-flex; gap: 0.4rem; align-items: baseline; }
.keys th { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.25rem; margin-top: 0.6rem;
  font-size: 0.8125rem; color: var(--soft); }
.legend svg { vertical-align: -0.3em; }
.device { margin-top: 1.25rem; }
.row { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr); gap: 0 0.75rem; }
.row .of { font-size: 0.8125rem; line-height: 1.3; min-width: 0; }
.row .of small {
  display: flex; flex-wrap: wrap; gap: 0 0.5rem; color: var(--soft); font-size: 0.75rem;
}
.lane { align-items: center; }
.course { align-items: center; }
.clip { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
details { margin-top: 0.75rem; border-top: 1px solid var(--rule); padding-top: 0.6rem; }
summary { cursor: pointer; font-size: 0.9rem; font-weight: 500; }
svg.plot { display: block; overflow: visible; }
svg.hidden { position: absolute; }
svg text { font: 0.6875rem/1 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
.tick { fill: var(--soft); paint-order: stroke; stroke: var(--ground); stroke-width: 3px;
  stroke-linejoin: round; }
.name { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--ground);
  stroke-width: 3px; stroke-linejoin: round; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 1; }
.mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; }
.gap { stroke: var(--bad); stroke-width: 2; }
.curves { overflow: visible; }
.line { fill: none; stroke-width: 1.9; stroke-linejoin: round; }
.curves path, .keys path { vector-effect: non-scaling-stroke; }
.thin { stroke-width: 1; }
.ideal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 4; fill: none; }
.dots { fill: none; stroke-width: 7; stroke-linecap: round; stroke-dasharray: none !important; }
.fill { stroke: none; fill-opacity: 0.28; }
"""
    + "".join(
        f".s{at} {{ stroke: var(--c{at}); }} .fill.s{at} {{ fill: var(--c{at}); }}\n"
        for at in range(7)
    )
    + """
.fill { stroke: none !important; }
.s1.line { stroke-dasharray: 7 3; } .s2.line { stroke-dasharray: 2 2.5; }
.s3.line { stroke-dasharray: 9 3 2 3; } .s4.line { stroke-dasharray: 4 2; }
.s5.line { stroke-dasharray: 12 4; } .s6.line { stroke-dasharray: 1.5 4; }
.course .s1.line { stroke-dasharray: none; stroke-width: 1.4; }
.pale { opacity: 0.28; }
.ink0 { color: var(--c0); } .ink1 { color: var(--c1); }
.serving { fill: var(--serving); } .device-rect, rect.device { fill: var(--device); }
rect.host { fill: var(--host); } rect.moving { fill: url(#hatch); }
.hatch-ground { fill: var(--device); } .hatch-line { fill: var(--moving); }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
footer dt { font-weight: 600; color: var(--ink); margin-top: 0.6rem; }
footer dd { font-size: 0.8125rem; font-weight: 400; }
@media (max-width: 44rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  h2 { margin-top: 2.5rem; }
  .pair { grid-template-columns: minmax(0, 1fr); }
  .row { grid-template-columns: 5.25rem minmax(0, 1fr); gap: 0 0.5rem; }
  .row .of { font-size: 0.75rem; }
  .big dd { font-size: 2rem; }
  th, td { padding: 0.4rem 0.5rem; }
  .scroll tbody th { min-width: 6rem; max-width: 12rem; }
  .counted svg { display: none; }
  .alone .card dl { grid-template-columns: 1fr 1fr; }
  .alone .card .big { grid-column: 1 / -1; }
}
@media print {
  @page { size: A4; margin: 14mm 13mm; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  nav { display: none; }
  h2 { margin-top: 1.6rem; break-after: avoid; }
  h3, h4, .lead, .legend, summary { break-after: avoid; }
  p, figure, .card, .row, tr, .notices, .device { break-inside: avoid; }
  .scroll { overflow: visible; }
  .scroll table { font-size: 7.5pt; }
  .scroll th, .scroll td { padding: 0.2rem 0.35rem; }
  .scroll tbody th { min-width: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
