// What all parts share.

import { css } from './vendor/lit.js';

export const base = css`
  :host { display: block; }
  * { box-sizing: border-box; }
  h2 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
  h3 { font-size: .95rem; margin: .8rem 0 .3rem; }
  p { margin: .4rem 0; max-width: 75ch; }
  textarea, input, select, button {
    font: inherit; color: var(--ink); background: var(--bg); border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .6rem;
  }
  textarea { width: 100%; min-height: 3.4rem; resize: vertical; }
  input[type=number] { width: 5.5rem; }
  input[type=checkbox], input[type=radio] { accent-color: var(--accent); width: 1.1rem; height: 1.1rem; margin: 0; }
  button, select, a { min-height: 24px; }
  button { cursor: pointer; }
  button:disabled { cursor: default; color: var(--dim); }
  button.go { background: var(--accent); color: var(--bg); border-color: var(--accent); font-weight: 600; }
  button.go:disabled { background: var(--panel); color: var(--dim); border-color: var(--line); }
  button[aria-pressed=true] { background: var(--mark); color: var(--mark-ink); border-color: var(--ink); }
  button[aria-pressed=true] .dim { color: inherit; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
  .row { display: flex; gap: .5rem 1rem; flex-wrap: wrap; align-items: center; margin: .5rem 0; }
  label { display: inline-flex; gap: .4rem; align-items: center; max-width: 100%; }
  input, select { max-width: 100%; min-width: 0; }
  .dim { color: var(--dim); }
  .vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  .panel { border: 1px solid var(--line); background: var(--panel); border-radius: .5rem; padding: .5rem .75rem; font-variant-numeric: tabular-nums; }
  .scroll { max-height: 420px; overflow: auto; border: 1px solid var(--line); }
  table { border-collapse: collapse; }
  td, th { padding: .15rem .8rem .15rem 0; text-align: start; font-weight: 400; font-variant-numeric: tabular-nums; }
  th { color: var(--dim); }
  .scroll td, .scroll th { padding: .1rem .5rem; font-size: .85rem; text-align: right; white-space: pre; }
  a { color: var(--accent); }
  code { font-size: .85em; }
  @media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
`;
