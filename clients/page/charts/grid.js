import { LitElement, css, html } from '../vendor/lit.js';
import { base } from '../style.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

/**
 * What grids of cells on a canvas share: one cursor, moved by pointer or keys; what is under it is shown at once and spoken
 * when keys moved it; a click or Enter opens a cell and holds the cursor there until Escape; T shows the numbers as a table.
 *
 * A cell is `{ panel, row, column }`. Subclasses have `size()`, `cell(event)`, `draw()`, `over()`, `sentence(cell)`, `strongest()`.
 */
export class Grid extends LitElement {
  static properties = { data: { attribute: false }, asTable: { state: true }, held: { state: true } };
  static styles = [base, css`
    canvas { display: block; }
    [role=application] { outline-offset: 4px; }
    .foot { display: flex; gap: .4rem .9rem; flex-wrap: wrap; align-items: center; color: var(--dim); font-size: .88rem; margin: .4rem 0; }
    .foot button { padding: .1rem .6rem; }
    :host(:fullscreen) { background: var(--bg); padding: 1rem; overflow: auto; }
  `];

  constructor() {
    super();
    this.data = null;
    this.asTable = false;
    this.held = false;
    this.at = null;
    this.frame = 0;
    this.whole = true;
    this.restyle = () => this.later(true);
  }

  connectedCallback() {
    super.connectedCallback();
    dark.addEventListener('change', this.restyle);
    this.sizes = new ResizeObserver(() => this.later(true));
    this.sizes.observe(this);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    dark.removeEventListener('change', this.restyle);
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
    this.frame = 0;
  }

  get isDark() { return dark.matches; }

  updated(changed) {
    if (changed.has('data')) {
      this.held = false;
      if (this.at && !this.#inside(this.at)) this.at = null;
      this.show();
    }
    this.later(true);
  }

  /** Draws in the next frame: all of it, or the cursor alone. */
  later(whole) {
    this.whole ||= whole;
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.data) return;
      if (this.whole) this.draw();
      this.whole = false;
      this.over();
    });
  }

  /** The button that gives the whole screen to it, and takes it back. */
  wide() {
    if (!document.fullscreenEnabled) return '';
    return html`<button @click=${() => (document.fullscreenElement ? document.exitFullscreen() : this.requestFullscreen())}>Full screen</button>`;
  }

  /** The page's colours and how many pixels of the screen make one of the page. */
  paint() {
    const style = getComputedStyle(this);
    const of = name => style.getPropertyValue(`--${name}`).trim();
    return { ink: of('ink'), dim: of('dim'), ground: of('bg'), mark: of('mark'), markInk: of('mark-ink'), line: of('line'), ratio: devicePixelRatio || 1 };
  }

  /** Sets a canvas to a size of the page and gives its context. */
  fit(canvas, width, height, ratio) {
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  }

  #inside({ panel, row, column }) {
    const { panels, rows, columns } = this.size();
    return panel < panels && row < rows && column < columns;
  }

  pointed(event) {
    if (!this.held) this.put(this.cell(event));
  }

  left() {
    if (!this.held) this.put(null);
  }

  clicked(event) {
    const cell = this.cell(event);
    if (cell) this.open(cell);
  }

  put(cell, aloud = false) {
    const { at } = this;
    if (cell?.panel === at?.panel && cell?.row === at?.row && cell?.column === at?.column) return;
    this.at = cell;
    this.later(false);
    this.show();
    if (aloud && cell) this.speak(this.sentence(cell));
  }

  speak(text) {
    this.renderRoot.getElementById('spoken').textContent = text;
  }

  /** Shows what is under the cursor; what was shown last stays. */
  show() {
    const reading = this.renderRoot.querySelector('cell-reading');
    if (!reading) return;
    Object.assign(reading, { cell: this.at ?? (reading.data === this.data ? reading.cell : null), data: this.data });
    reading.toggleAttribute('pointed', !!reading.cell);
  }

  open(cell) {
    this.put(cell);
    this.held = true;
    this.dispatchEvent(new CustomEvent('cell', { detail: cell }));
  }

  key(event) {
    const { panels, rows, columns } = this.size();
    const far = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far], Home: [0, -columns], End: [0, columns],
      PageUp: [-rows, 0], PageDown: [rows, 0],
    };
    const start = this.at ?? { panel: 0, row: rows - 1, column: columns };
    if (event.key === 'Escape') {
      this.held = false;
    } else if (event.key === 'Enter' && this.at) {
      this.open(this.at);
    } else if (/^[tT]$/.test(event.key)) {
      this.asTable = !this.asTable;
    } else if (/^[sS]$/.test(event.key)) {
      const best = this.strongest();
      if (!best.length) return;
      this.rank = ((this.rank ?? -1) + 1) % best.length;
      this.held = false;
      this.put(best[this.rank], true);
    } else if (/^[mM]$/.test(event.key) && panels > 1) {
      this.put({ ...start, column: Math.min(start.column, columns - 1), panel: (start.panel + 1) % panels }, true);
    } else if (moves[event.key]) {
      const clamp = (value, end) => Math.max(0, Math.min(end - 1, value));
      const [down, right] = moves[event.key];
      this.held = false;
      this.put({ panel: start.panel, row: clamp(start.row + down, rows), column: clamp(start.column + right, columns) }, true);
    } else {
      return;
    }
    event.preventDefault();
  }
}
