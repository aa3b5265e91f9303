import { css, html, nothing } from '../vendor/lit.js';
import { num, percent, visible } from '../say.js';
import { Grid } from './grid.js';
import { rgb, share } from './scale.js';

const [WIDE, HIGH, LEFT, TOP] = [76, 21, 34, 24];

/**
 * The logit lens: layers by tokens, in each cell the token that this layer would predict, shaded by its probability or by how
 * sure the layer is. Only what is in view is drawn.
 *
 * `data`: `layers`, `columns` (labels), `topk` and `entropy` by layer and position, `vocabulary` (how many tokens there are).
 */
export class LensGrid extends Grid {
  static properties = { ...Grid.properties, by: {} };
  static styles = [...Grid.styles, css`
    .view { overflow: auto; max-height: 480px; border: 1px solid var(--line); position: relative; }
    :host(:fullscreen) .view { max-height: calc(100vh - 160px); }
    .size { position: relative; }
    .stick { position: sticky; left: 0; top: 0; width: max-content; }
    .over { position: absolute; inset: 0; pointer-events: none; }
    .panel { min-height: 2.4rem; margin-top: .4rem; }
  `];

  constructor() {
    super();
    this.by = 'prob';
  }

  size() { return { panels: 1, rows: this.data.layers.length, columns: this.data.columns.length }; }

  /** The first row is the last layer. */
  #of(values, row) { return values[this.data.layers.length - 1 - row]; }

  sentence({ row, column }) {
    const { data } = this;
    const tokens = this.#of(data.topk, row)[column].map(({ text, prob }) => `${visible(text)} ${percent(prob)}`);
    return `Layer ${this.#of(data.layers, row)}, after ${column} ${data.columns[column].text}: ${tokens.join(', ')}; entropy ${num(this.#of(data.entropy, row)[column])} nats.`;
  }

  strongest() {
    const { rows, columns } = this.size();
    const cells = Array.from({ length: rows * columns }, (_, at) => ({ panel: 0, row: Math.floor(at / columns), column: at % columns }));
    const prob = ({ row, column }) => this.#of(this.data.topk, row)[column][0].prob;
    return cells.sort((a, b) => prob(b) - prob(a)).slice(0, 8);
  }

  render() {
    const { data } = this;
    if (!data) return nothing;
    const { rows, columns } = this.size();
    return html`
      <div class="view" tabindex="0" role="application" aria-roledescription="logit lens"
        aria-label="Logit lens: ${rows} layers by ${columns} tokens. Arrow keys move, T shows a table."
        @keydown=${this.key} @pointermove=${this.pointed} @pointerleave=${this.left} @click=${this.clicked} @scroll=${() => this.later(true)}>
        <div class="size"><div class="stick"><canvas class="base"></canvas><canvas class="over"></canvas></div></div></div>
      <div class="foot"><label>Shade by <select @change=${event => { this.by = event.target.value; }}>
          <option value="prob">probability</option><option value="sure">certainty (entropy)</option></select></label>
        <button aria-expanded=${this.asTable} @click=${() => { this.asTable = !this.asTable; }}>Table</button>
        ${this.wide()}
        ${this.held ? html`<button @click=${() => { this.held = false; }}>Held here. Let go (Escape)</button>` : ''}</div>
      <div class="panel" id="reading" dir="auto">Point at a cell to see what its layer would predict.</div>
      <div class="vh" id="spoken" aria-live="polite"></div>
      ${this.asTable ? html`<div class="scroll" tabindex="0" role="region" aria-label="Values of the lens"><table>
        <thead><tr><th scope="col">layer</th>${data.columns.map((column, at) => html`<th scope="col">${at} ${column.text}</th>`)}</tr></thead>
        <tbody>${data.layers.map((_, row) => html`<tr><th scope="row">${this.#of(data.layers, row)}</th>
          ${this.#of(data.topk, row).map(([{ text, prob }]) => html`<td><bdi>${visible(text)}</bdi> ${percent(prob)}</td>`)}</tr>`)}</tbody></table></div>` : ''}`;
  }

  show() {
    const box = this.renderRoot.getElementById('reading');
    if (box && this.at) box.textContent = this.sentence(this.at);
  }

  draw() {
    const view = this.renderRoot.querySelector('.view');
    if (!view) return;
    const { data, isDark } = this;
    const { ground, ink, dim, ratio } = this.paint();
    const { rows, columns } = this.size();
    const [whole, tall] = [LEFT + columns * WIDE, TOP + rows * HIGH];
    const size = view.querySelector('.size');
    size.style.width = `${whole}px`;
    size.style.height = `${tall}px`;
    const [width, height] = [Math.min(view.clientWidth, whole), Math.min(view.clientHeight, tall)];
    const base = this.fit(view.querySelector('.base'), width, height, ratio);
    this.fit(view.querySelector('.over'), width, height, ratio);
    const [x0, y0] = [LEFT - view.scrollLeft, TOP - view.scrollTop];
    const from = { row: Math.max(0, Math.floor(view.scrollTop / HIGH)), column: Math.max(0, Math.floor(view.scrollLeft / WIDE)) };
    const to = { row: Math.min(rows, Math.ceil((view.scrollTop + height) / HIGH)), column: Math.min(columns, Math.ceil((view.scrollLeft + width) / WIDE)) };
    const write = (text, x, y, room) => {
      base.save();
      base.beginPath();
      base.rect(x, y, room, HIGH);
      base.clip();
      base.fillText(text, x + 4, y + HIGH / 2);
      base.restore();
    };
    base.fillStyle = ground;
    base.fillRect(0, 0, width, height);
    base.font = '12px system-ui, sans-serif';
    base.textBaseline = 'middle';
    const most = Math.log(data.vocabulary);
    for (let row = from.row; row < to.row; row++) {
      for (let column = from.column; column < to.column; column++) {
        const [best] = this.#of(data.topk, row)[column];
        const part = this.by === 'prob' ? best.prob : 1 - this.#of(data.entropy, row)[column] / most;
        const [x, y] = [x0 + column * WIDE, y0 + row * HIGH];
        base.fillStyle = rgb(share(part, isDark));
        base.fillRect(x, y, WIDE - 1, HIGH - 1);
        base.fillStyle = isDark ? '#fff' : '#111';
        write(visible(best.text), x, y, WIDE - 2);
      }
    }
    base.fillStyle = ground;
    base.fillRect(0, 0, LEFT, height);
    base.fillRect(0, 0, width, TOP);
    base.fillStyle = dim;
    base.textAlign = 'right';
    for (let row = from.row; row < to.row; row++) {
      const y = y0 + (row + 0.5) * HIGH;
      if (y > TOP) base.fillText(String(this.#of(data.layers, row)), LEFT - 6, y);
    }
    base.textAlign = 'left';
    base.fillStyle = ink;
    for (let column = from.column; column < to.column; column++) {
      if (x0 + column * WIDE < LEFT - WIDE / 2) continue;
      const { text, part } = data.columns[column];
      write(part ? `${text} ${part}` : text, x0 + column * WIDE, 1, WIDE - 3);
    }
  }

  over() {
    const view = this.renderRoot.querySelector('.view');
    if (!view) return;
    const { ink, ratio } = this.paint();
    const canvas = view.querySelector('.over');
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.at) return;
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.strokeRect(LEFT - view.scrollLeft + this.at.column * WIDE, TOP - view.scrollTop + this.at.row * HIGH, WIDE - 1, HIGH - 1);
  }

  cell(event) {
    const view = this.renderRoot.querySelector('.view');
    const box = view.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left + view.scrollLeft - LEFT) / WIDE);
    const row = Math.floor((event.clientY - box.top + view.scrollTop - TOP) / HIGH);
    const { rows, columns } = this.size();
    return row < 0 || column < 0 || row >= rows || column >= columns ? null : { panel: 0, row, column };
  }

  put(cell, aloud) {
    super.put(cell, aloud);
    const view = this.renderRoot.querySelector('.view');
    if (!aloud || !cell) return;
    const [x, y] = [cell.column * WIDE, cell.row * HIGH];
    view.scrollLeft = Math.max(x + WIDE + LEFT - view.clientWidth, Math.min(x, view.scrollLeft));
    view.scrollTop = Math.max(y + HIGH + TOP - view.clientHeight, Math.min(y, view.scrollTop));
  }
}
customElements.define('lens-grid', LensGrid);
