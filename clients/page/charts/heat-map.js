import { css, html, nothing } from '../vendor/lit.js';
import { num } from '../say.js';
import { Grid } from './grid.js';
import { sentence } from './reading.js';
import { MISSING, STEPS, diverging, pixels, place, rgb } from './scale.js';

/** Columns from which maps stand below each other: side by side a cell would have two pixels. */
const STACKED = 48;
const LEFT = 34;
/** Characters of a label, at most. */
const LONGEST = 16;

/**
 * Maps of equal shape with one scale and one cursor.
 *
 * `data`: `panels` of `{ name, note, mean, se, exact, trivial, recovery }` by rows and columns, the first row on top; `rows` and
 * `columns` their labels (`{ text, part, marked }`); `place(row, column)` in words; `max`, `unit`, `signed`, `words`.
 */
export class HeatMap extends Grid {
  static styles = [...Grid.styles, css`
    .maps { display: flex; flex-wrap: wrap; gap: .75rem 1.25rem; }
    figure { margin: 0; flex: 1 1 var(--wide, 280px); min-width: 0; max-width: var(--widest, none); }
    figcaption { font-weight: 600; margin-bottom: .2rem; }
    figcaption small { font-weight: 400; color: var(--dim); }
    .box { position: relative; }
    .box .over { position: absolute; inset: 0; pointer-events: none; }
    .foot canvas { border: 1px solid var(--line); display: inline-block; }
    .foot span { display: inline-flex; gap: .4rem; align-items: center; }
    .stacked ~ cell-reading[pointed] { position: sticky; bottom: 0; }
  `];

  size() {
    const { panels, rows, columns } = this.data;
    return { panels: panels.length, rows: rows.length, columns: columns.length };
  }

  sentence(cell) { return sentence(this.data, cell); }

  strongest() {
    const found = [];
    this.data.panels.forEach((panel, at) => panel.mean.forEach((values, row) => values.forEach((value, column) => {
      if (Number.isFinite(value) && !panel.exact?.[row][column] && !panel.trivial?.[row][column]) found.push({ panel: at, row, column, value, se: panel.se?.[row][column] });
    })));
    return found.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 8);
  }

  render() {
    const { data } = this;
    if (!data) return nothing;
    const { panels, rows, columns } = this.size();
    const has = mask => data.panels.some(panel => panel[mask]?.some(row => row.some(Boolean)));
    const missing = data.panels.some(panel => panel.mean.some(row => row.includes(null)));
    return html`
      <div class="maps" tabindex="0" role="application" aria-roledescription=${panels > 1 ? 'heat maps' : 'heat map'}
        aria-label="${data.words}: ${panels} ${panels > 1 ? 'maps' : 'map'} of ${rows} by ${columns} cells. Arrow keys move, ${panels > 1 ? 'M goes to the next map, ' : ''}Enter opens a cell, S goes to the strongest, T shows a table."
        @keydown=${this.key} @pointermove=${this.pointed} @pointerleave=${this.left} @click=${this.clicked}>
        ${data.panels.map((panel, at) => html`<figure data-panel=${at}><figcaption>${panel.name} <small>${panel.note ?? ''}</small></figcaption>
          <div class="box"><canvas class="base"></canvas><canvas class="over"></canvas></div></figure>`)}
      </div>
      <div class="foot">
        <span>${data.signed ? num(-data.max) : '0'}<canvas id="scale"></canvas>${num(data.max, data.signed)}</span><span>${data.words}</span>
        ${has('exact') ? html`<span><canvas id="exact"></canvas>exactly null</span>` : ''}
        ${has('trivial') ? html`<span><canvas id="trivial"></canvas>tautological</span>` : ''}
        ${missing ? html`<span><canvas id="missing"></canvas>${data.missing ?? 'no value'}</span>` : ''}
        <button aria-expanded=${this.asTable} @click=${() => { this.asTable = !this.asTable; }}>Table</button>
        ${this.wide()}
        ${this.held ? html`<button @click=${() => { this.held = false; }}>Held here. Let go (Escape)</button>` : ''}
      </div>
      <cell-reading></cell-reading>
      <div class="vh" id="spoken" aria-live="polite"></div>
      ${this.asTable ? this.#table() : ''}`;
  }

  #table() {
    const { data } = this;
    return data.panels.map(panel => html`<h3>${panel.name}</h3><div class="scroll" tabindex="0" role="region" aria-label="Values of ${panel.name}"><table>
      <thead><tr><td></td>${data.columns.map((column, at) => html`<th scope="col">${at} ${column.text}</th>`)}</tr></thead>
      <tbody>${data.rows.map((row, r) => html`<tr><th scope="row">${row.text}</th>${panel.mean[r].map(value => html`<td>${num(value, data.signed)}</td>`)}</tr>`)}</tbody></table></div>`);
  }

  draw() {
    const { data, isDark } = this;
    const paint = this.paint();
    const { rows, columns } = this.size();
    const stacked = columns > STACKED;
    const maps = this.renderRoot.querySelector('.maps');
    if (!maps) return;
    maps.classList.toggle('stacked', stacked);
    const least = data.one ? 200 : 280;
    maps.style.setProperty('--wide', stacked ? '100%' : `${least}px`);
    maps.style.setProperty('--widest', `${Math.max(least, columns * (data.one ? 34 : 80) + LEFT)}px`);
    const room = this.matches(':fullscreen') ? (innerHeight - 330) / (stacked ? data.panels.length : 1) : 0;
    const high = room > 210 ? room / rows : stacked ? Math.max(2.2, Math.min(22, 210 / rows)) : Math.max(6, Math.min(22, 330 / rows));
    const longest = Math.min(LONGEST, Math.max(...data.columns.map(({ text, part }) => text.length + (part ? part.length + 1 : 0))));
    this.patterns = { exact: hatching(isDark ? '#5d6068' : '#b3b6bf', false, paint.ratio), trivial: hatching(isDark ? '#e8e9ec' : '#444', true, paint.ratio) };
    // All are measured before any is written to.
    const figures = [...maps.querySelectorAll('figure')].map(figure => ({ figure, width: figure.clientWidth }));
    for (const { figure, width } of figures) {
      if (!width) continue;
      const wide = (width - LEFT) / columns;
      const slope = wide >= 26 ? Math.PI / 4 : Math.PI / 2;
      const shape = { left: LEFT, wide, high, height: Math.round(rows * high), width, slope, below: 18 + Math.ceil(longest * 7 * Math.sin(slope)) };
      figure.shape = shape;
      const base = this.fit(figure.querySelector('.base'), width, shape.height + shape.below, paint.ratio);
      this.fit(figure.querySelector('.over'), width, shape.height + shape.below, paint.ratio);
      base.clearRect(0, 0, width, shape.height + shape.below);
      const panel = data.panels[figure.dataset.panel];
      this.#cells(base, panel, shape);
      for (const mask of ['exact', 'trivial']) if (panel[mask]) this.#hatch(base, panel[mask], this.patterns[mask], shape, paint.ratio);
      this.#rows(base, shape, paint);
      this.#columns(base, shape, paint);
    }
    this.#legend(paint);
  }

  #cells(context, panel, { left, wide, height }) {
    const { rows, columns } = this.size();
    const image = new ImageData(columns, rows);
    const out = new Uint32Array(image.data.buffer);
    const table = pixels(this.isDark);
    panel.mean.forEach((values, row) => values.forEach((value, column) => { out[row * columns + column] = table[place(value, this.data.max)]; }));
    const small = new OffscreenCanvas(columns, rows);
    small.getContext('2d').putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, left, 0, wide * columns, height);
  }

  /** Neighbours in a row are one rectangle: a hatched column of 80 layers is drawn in a stroke. */
  #hatch(context, mask, pattern, { left, wide, high }, ratio) {
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = context.createPattern(pattern, 'repeat');
    context.beginPath();
    mask.forEach((values, row) => {
      for (let column = 0, from = -1; column <= values.length; column++) {
        if (values[column] && from < 0) from = column;
        if (!values[column] && from >= 0) {
          context.rect((left + from * wide) * ratio, row * high * ratio, (column - from) * wide * ratio, high * ratio);
          from = -1;
        }
      }
    });
    context.fill();
    context.restore();
  }

  #rows(context, { left, high }, { dim }) {
    context.font = '11px system-ui, sans-serif';
    context.fillStyle = dim;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    const { rows } = this.data;
    const step = [1, 2, 5, 10, 20, 50].find(step => step * high >= 13) ?? 100;
    // From the end where layers begin.
    for (let at = 0; at < rows.length; at += step) {
      const row = this.data.down ? at : rows.length - 1 - at;
      context.fillText(rows[row].text.slice(0, 5), left - 5, (row + 0.5) * high);
    }
  }

  #columns(context, { left, wide, height, slope, below }, { ink, mark, markInk }) {
    const { columns } = this.data;
    const skip = Math.max(1, Math.ceil(13 / wide));
    context.textAlign = 'left';
    columns.forEach((column, at) => {
      if (!column.marked) return;
      context.fillStyle = mark;
      context.fillRect(left + at * wide, height + 1, wide + 0.5, below - 4);
      context.fillStyle = ink;
      context.fillRect(left + at * wide, height + 1, wide + 0.5, 1.5);
    });
    columns.forEach((column, at) => {
      const last = columns.length - 1;
      if (at !== last && (at % skip || last - at < skip)) return;
      context.save();
      context.translate(left + (at + 0.5) * wide, height + 8);
      context.rotate(slope);
      context.fillStyle = column.marked ? markInk : ink;
      const text = column.text + (column.part ? ` ${column.part}` : '');
      context.fillText(text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text, 0, 0);
      context.restore();
    });
  }

  #legend({ ratio }) {
    const find = id => this.renderRoot.getElementById(id);
    const { data, isDark } = this;
    const scale = this.fit(find('scale'), 180, 12, ratio);
    const table = diverging(isDark);
    for (let x = 0; x < 180; x++) {
      const step = data.signed ? Math.round((x / 179) * 2 * STEPS) : STEPS + Math.round((x / 179) * STEPS);
      scale.fillStyle = `rgb(${table[step * 3]},${table[step * 3 + 1]},${table[step * 3 + 2]})`;
      scale.fillRect(x, 0, 1, 12);
    }
    for (const id of ['exact', 'trivial', 'missing']) {
      const canvas = find(id);
      if (!canvas) continue;
      const context = this.fit(canvas, 26, 14, ratio);
      context.fillStyle = rgb(id === 'missing' ? MISSING : table.subarray(STEPS * 3, STEPS * 3 + 3));
      context.fillRect(0, 0, 26, 14);
      if (id === 'missing') continue;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = context.createPattern(this.patterns[id], 'repeat');
      context.fillRect(0, 0, 26 * ratio, 14 * ratio);
    }
  }

  over() {
    const { at } = this;
    const { ink, ratio } = this.paint();
    for (const figure of this.renderRoot.querySelectorAll('figure')) {
      if (!figure.shape) continue;
      const { left, wide, high, height, width, below } = figure.shape;
      const context = figure.querySelector('.over').getContext('2d');
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height + below);
      if (!at) continue;
      const [x, y] = [left + at.column * wide, at.row * high];
      context.strokeStyle = ink;
      context.globalAlpha = 0.35;
      context.lineWidth = 1;
      context.strokeRect(left, y, width - left, high);
      context.strokeRect(x, 0, wide, height);
      context.globalAlpha = 1;
      context.lineWidth = Number(figure.dataset.panel) === at.panel ? 3 : 1.5;
      context.strokeRect(x - 0.5, y - 0.5, wide + 1, high + 1);
    }
  }

  cell(event) {
    const figure = event.composedPath().find(node => node.dataset?.panel);
    if (!figure?.shape) return null;
    const { left, wide, high } = figure.shape;
    const box = figure.querySelector('.base').getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - left) / wide);
    const row = Math.floor((event.clientY - box.top) / high);
    const { rows, columns } = this.size();
    return row < 0 || column < 0 || row >= rows || column >= columns ? null : { panel: Number(figure.dataset.panel), row, column };
  }
}
customElements.define('heat-map', HeatMap);

/** A tile of strokes in one direction, or crossed. */
function hatching(stroke, crossed, ratio) {
  const side = Math.round(5 * ratio);
  const tile = new OffscreenCanvas(side, side);
  const context = tile.getContext('2d');
  context.strokeStyle = stroke;
  context.lineWidth = ratio;
  context.beginPath();
  for (const shift of [-side, 0, side]) {
    context.moveTo(shift, side);
    context.lineTo(shift + side, 0);
    if (crossed) {
      context.moveTo(shift, 0);
      context.lineTo(shift + side, side);
    }
  }
  context.stroke();
  return tile;
}
