"""How the gallery looks, and the script of its filter, without which everything is shown."""

STYLE = """
:root { color-scheme: light; --line: #ccc; --faint: #555; }
body { font: 16px/1.5 Georgia, "Times New Roman", serif; color: #111; background: #fff; margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1, h2, h3, h4, h5, h6, summary, nav, .filter { font-family: system-ui, "Helvetica Neue", Arial, sans-serif; }
h2 { border-bottom: 2px solid #111; margin-top: 3rem; }
h3 { font-size: 1rem; color: var(--faint); }
h4 { margin: 0 0 .5rem; font-size: 1rem; }
h5, h6 { margin: 1.2rem 0 .4rem; font-size: .9rem; }
a { color: #0b5394; }
nav { font-size: .85rem; }
nav h2 { margin-top: 1rem; }
nav ul { padding-left: 1.2rem; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; padding: 1rem; border: 1px solid var(--line); break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto .8rem; }
figcaption { font-size: .95rem; }
summary { cursor: pointer; font-size: .85rem; color: var(--faint); margin-top: .6rem; }
.wide { overflow-x: auto; }
.data { max-height: 24rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .8rem; margin: .5rem 0; }
th, td { padding: .15rem .5rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #111; }
.data td { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: nowrap; }
.words td { min-width: 6rem; }
.n { text-align: right; white-space: nowrap; }
pre { font-size: .75rem; max-height: 24rem; overflow: auto; background: #f6f6f6; padding: .6rem; }
.flaw { background: #fff0e0; border-left: 4px solid #b45f06; padding: .4rem .6rem; margin: .3rem 0; }
.reproduced strong { color: #1b6b2f; }
.reproduced-in-sign-only strong { color: #7a5c00; }
.inconclusive strong { color: #4a4a8a; }
.contradicted strong, .not-reproduced strong { color: #a02c00; }
.not-testable-here strong { color: var(--faint); }
@media print {
  nav, .filter, details:not([open]) { display: none; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  .data, pre { max-height: none; }
}
"""
SCRIPT = """
"use strict";
const box = document.getElementById("filter");
const shown = document.getElementById("shown");
const figures = [...document.querySelectorAll("main figure")];
const texts = figures.map((figure) => (figure.id + " " + [...figure.children]
  .filter((part) => part.tagName !== "DETAILS").map((part) => part.textContent).join(" ")).toLowerCase());
const sections = [...document.querySelectorAll("main section")];
function show() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  figures.forEach((figure, number) => {
    figure.hidden = !words.every((word) => texts[number].includes(word));
    count += figure.hidden ? 0 : 1;
  });
  sections.forEach((section) => { section.hidden = !section.querySelector("figure:not([hidden])"); });
  shown.textContent = words.length ? count + " of " + figures.length : "";
}
box.addEventListener("input", show);
document.querySelector(".filter").hidden = false;
"""
