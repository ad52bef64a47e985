/** How the report's page looks, and the few lines that show a command when something is clicked. */
import { chartStyle } from './colours.ts';

export const pageStyle = `
${chartStyle}
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
header, section { max-width: 1020px; margin: 0 auto; padding: 0 30px; }
header { padding-top: 3.5rem; }
.kicker { margin: 0; font-size: 0.8rem; letter-spacing: 0.09em; text-transform: uppercase; color: var(--accent); font-weight: 650; }
h1 { margin: 0.2rem 0 0.8rem; font-size: clamp(1.8rem, 5vw, 2.7rem); line-height: 1.12; letter-spacing: -0.022em; overflow-wrap: anywhere; }
h2 { margin: 3.6rem 0 0.6rem; font-size: clamp(1.25rem, 3vw, 1.6rem); line-height: 1.25; letter-spacing: -0.012em; text-wrap: balance; }
p { margin: 0 0 1rem; max-width: 44em; text-wrap: pretty; }
.lead { font-size: 1.12rem; color: var(--soft); }
section > p { color: var(--soft); font-size: 0.95rem; }
em.paper, .paper { font-style: italic; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.3rem; padding: 0.9rem 0; border-block: 1px solid var(--rule); font-size: 0.9rem; }
nav a { color: var(--ink); text-decoration: none; border-bottom: 1px solid transparent; }
nav a:hover, nav a:focus-visible { border-color: var(--accent); }
figure { margin: 1.6rem 0 2.2rem; cursor: pointer; }
figcaption { font-weight: 600; font-size: 0.92rem; margin-bottom: 0.7rem; max-width: 50em; text-wrap: pretty; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
.narrow { display: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.83rem; line-height: 1.4; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: 0.34rem 0.6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; line-height: 1.25; border-bottom-color: var(--soft); }
.word { text-align: left; }
tr > :first-child { padding-left: 0; }
tbody tr:hover { background: var(--wash); }
tr.ours td { font-weight: 600; }
tr.ours td:first-child { box-shadow: inset 3px 0 var(--accent); padding-left: 0.6rem; }
#verdict td { white-space: normal; min-width: 9rem; }
#verdict td:first-child { min-width: 13rem; }
#verdict td:nth-child(2) { min-width: 0; }
#verdict td:last-child { min-width: 17rem; }
.badge { display: inline-block; padding: 0.1rem 0.55rem; border-radius: 1rem; font-size: 0.78rem; font-weight: 650; white-space: nowrap; border: 1.5px solid; }
.badge.yes { color: var(--g3); } .badge.no { color: var(--g0); } .badge.open { color: var(--soft); border-style: dashed; }
details { margin-top: 0.5rem; font-size: 0.78rem; color: var(--soft); cursor: default; }
summary { cursor: pointer; width: max-content; }
pre { margin: 0.4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 0.78rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.4rem 1.2rem; font-size: 0.88rem; margin: 1rem 0 6rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
#command { position: fixed; inset: auto 0 0; display: flex; gap: 0.8rem; align-items: flex-start; padding: 0.8rem 30px; max-height: 45vh; overflow: auto;
  background: var(--wash); border-top: 1px solid var(--soft); box-shadow: 0 -6px 24px #0002; }
#command[hidden] { display: none; }
#command pre { flex: 1; margin: 0.2rem 0; }
#command button { font: inherit; font-size: 0.82rem; color: var(--ink); background: none; border: 1px solid var(--soft); border-radius: 0.4rem; padding: 0.15rem 0.6rem; cursor: pointer; }
@media (max-width: 700px) {
  header, section { padding: 0 18px; } header { padding-top: 2rem; }
  .narrow { display: block; } .broad { display: none; }
  h2 { margin-top: 2.6rem; }
  nav { flex-wrap: nowrap; overflow-x: auto; white-space: nowrap; }
  #verdict table, #verdict tbody, #verdict tr, #verdict td { display: block; }
  #verdict thead { display: none; }
  #verdict td { border: 0; padding: 0.15rem 0; } #verdict tr { border-bottom: 1px solid var(--rule); padding: 0.7rem 0; }
  th, td { padding: 0.34rem 0.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.7rem; }
  #command { padding: 0.7rem 18px; }
}
@media print { nav, details, #command { display: none; } figure { break-inside: avoid; } }
`;

export const pageScript = `
const bar = document.getElementById('command');
const show = bar.querySelector('pre');
document.addEventListener('click', (event) => {
  const { target } = event;
  if (target.closest('[data-close]')) bar.hidden = true;
  else if (target.closest('[data-copy]')) navigator.clipboard?.writeText(show.textContent);
  else if (!target.closest('#command, details, a')) {
    const owner = target.closest('[data-command]');
    bar.hidden = !owner;
    if (owner) show.textContent = owner.dataset.command;
  }
});
document.addEventListener('keydown', ({ key }) => { if (key === 'Escape') bar.hidden = true; });
`;
