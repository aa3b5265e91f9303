import { LitElement, css, html, svg } from '../vendor/lit.js';
import { base } from '../style.js';
import { num, percent, pm } from '../say.js';

/** What is in one cell of all maps, with error bars on one scale. */
export class CellReading extends LitElement {
  static properties = { data: { attribute: false }, cell: { attribute: false } };
  static styles = [base, css`
    .panel { min-height: 3.2rem; overflow-x: auto; }
    b { font-weight: 600; }
    td, th { white-space: nowrap; }
    td:nth-child(2) { text-align: end; }
    th { color: var(--ink); }
    svg { width: 220px; height: 18px; display: block; overflow: visible; }
    line { stroke: var(--ink); stroke-width: 2; }
    .zero { stroke: var(--dim); stroke-width: 1; }
    circle { fill: var(--accent); }
    @media (max-width: 600px) { svg { width: 90px; } }
  `];

  render() {
    const { data, cell } = this;
    if (!data || !cell) return html`<div class="panel dim">Point at a cell, or press Tab and use the arrow keys. Enter opens a cell, S finds the strongest, T shows a table.</div>`;
    const { row, column } = cell;
    const zero = data.signed ? 110 : 5;
    const x = value => zero + (value / data.max) * (215 - zero);
    return html`<div class="panel"><b>${data.place(row, column)}</b><table><tbody>
      ${panels(data, cell).map(panel => {
        const mean = panel.mean[row][column];
        const se = panel.se?.[row][column] ?? 0;
        const recovery = panel.recovery?.[row][column];
        const note = panel.exact?.[row][column] ? 'exactly null' : panel.trivial?.[row][column] ? 'tautological' : '';
        const missing = mean === null || mean === undefined;
        return html`<tr><th scope="row">${panel.name}</th><td>${missing ? 'no value' : pm(mean, se, data.signed)} ${missing ? '' : data.unit}</td>
          <td>${missing ? '' : html`<svg viewBox="0 0 220 18" aria-hidden="true">${svg`<line class="zero" x1=${zero} x2=${zero} y1="0" y2="18"></line>
            <line x1=${x(mean - se)} x2=${x(mean + se)} y1="9" y2="9"></line><circle cx=${x(mean)} cy="9" r="4"></circle>`}</svg>`}</td>
          <td>${Number.isFinite(recovery) ? `${percent(recovery)} of the total effect` : ''}</td><td>${note}</td></tr>`;
      })}</tbody></table></div>`;
  }
}
customElements.define('cell-reading', CellReading);

/** The maps whose values are shown: all, or the one under the cursor where there are many (`one`). */
const panels = (data, { panel }) => (data.one ? [data.panels[panel]] : data.panels);

/** The same as a sentence. */
export function sentence(data, cell) {
  const { row, column } = cell;
  const values = panels(data, cell).map(panel => {
    const [mean, se] = [panel.mean[row][column], panel.se?.[row][column]];
    if (mean === null || mean === undefined) return `${panel.name}: no value`;
    const note = panel.exact?.[row][column] ? ', exactly null' : panel.trivial?.[row][column] ? ', tautological' : '';
    return `${panel.name} ${num(mean, data.signed)}${se ? ` plus or minus ${num(se)}` : ''} ${data.unit}${note}`;
  });
  return `${data.place(row, column)}. ${values.join('. ')}.`;
}
