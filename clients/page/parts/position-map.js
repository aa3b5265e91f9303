import { LitElement, css, html, svg } from '../vendor/lit.js';
import { base } from '../style.js';
import { labels } from '../say.js';

/**
 * Which position of one prompt is read for which of another, as lines between their tokens. A line is drawn by dragging from a
 * source token to a base token, or by choosing one and then the other. Fires `map` with `[source, base]` pairs.
 */
export class PositionMap extends LitElement {
  static properties = { source: { attribute: false }, target: { attribute: false }, pairs: { attribute: false }, picked: { state: true }, pointer: { state: true }, lines: { state: true } };
  static styles = [base, css`
    .view { overflow-x: auto; position: relative; border: 1px solid var(--line); border-radius: .4rem; padding: .4rem; }
    .inside { position: relative; width: max-content; min-width: 100%; }
    .tokens { display: flex; gap: 2px; }
    .tokens.below { margin-top: 64px; }
    .tokens button {
      border-radius: 3px; padding: 2px 4px; white-space: pre; min-width: 26px; min-height: 26px; text-align: center; touch-action: none; user-select: none; unicode-bidi: isolate; line-height: 1.2;
    }
    .tokens small { display: block; font-size: 11px; color: var(--dim); }
    .tokens .used { background: var(--mark); color: var(--mark-ink); border-color: var(--ink); }
    .tokens .used small { color: inherit; }
    .tokens .picked { outline: 2px solid var(--accent); }
    svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; overflow: visible; }
    path { fill: none; stroke: var(--accent); stroke-width: 2; }
    ul { list-style: none; display: flex; gap: .3rem; flex-wrap: wrap; padding: 0; margin: .4rem 0; }
    ul button { padding: .1rem .5rem; font-size: .9rem; }
    h3 { margin: .2rem 0; font-weight: 400; font-size: .85rem; color: var(--dim); }
  `];

  constructor() {
    super();
    Object.assign(this, { source: { tokens: [], text: '' }, target: { tokens: [], text: '' }, pairs: [], picked: -1, pointer: null, lines: [] });
  }

  connectedCallback() {
    super.connectedCallback();
    this.sizes = new ResizeObserver(() => this.#lay());
    this.sizes.observe(this);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.sizes.disconnect();
  }

  updated(changed) {
    if (['source', 'target', 'pairs'].some(name => changed.has(name))) this.#lay();
  }

  #lay() {
    const at = (row, i) => {
      const token = this.renderRoot.querySelector(`[data-row=${row}][data-i="${i}"]`);
      return token && { x: token.offsetLeft + token.offsetWidth / 2, y: row === 'source' ? token.offsetTop + token.offsetHeight : token.offsetTop };
    };
    const lines = this.pairs.map(([from, to]) => [at('source', from), at('target', to)]).filter(([a, b]) => a && b);
    if (JSON.stringify(lines) === JSON.stringify(this.lines)) return;
    this.lines = lines;
    // Long prompts: what is mapped is shown.
    const view = this.renderRoot.querySelector('.view');
    const most = Math.max(0, ...lines.flat().map(({ x }) => x));
    if (!this.pointer && most > view.scrollLeft + view.clientWidth) view.scrollLeft = most - view.clientWidth + 60;
  }

  render() {
    const { source, target, pairs } = this;
    const shown = { source: labels(source.tokens, source.text), target: labels(target.tokens, target.text) };
    const used = { source: new Set(pairs.map(([from]) => from)), target: new Set(pairs.map(([, to]) => to)) };
    const row = (name, says) => html`<div class="tokens ${name === 'target' ? 'below' : ''}" role="group" aria-label=${says}>${shown[name].map(({ text, part }, i) => html`<button type="button"
      class="${used[name].has(i) ? 'used' : ''} ${name === 'source' && this.picked === i ? 'picked' : ''}" data-row=${name} data-i=${i}
      aria-pressed=${name === 'source' ? this.picked === i : used.target.has(i)}
      @click=${event => { if (!event.detail) this.#choose(name, i); }}>${text}${part ? html`<sub>${part}</sub>` : ''} <small>${i}</small></button>`)}</div>`;
    const curve = ([a, b]) => `M${a.x},${a.y}C${a.x},${(a.y + b.y) / 2} ${b.x},${(a.y + b.y) / 2} ${b.x},${b.y}`;
    const name = (name, i) => `${i} ${shown[name][i]?.text ?? ''}`;
    return html`
      <h3>source, which is read</h3>
      <div class="view" @pointerdown=${this.#down} @pointermove=${this.#move} @pointerup=${this.#up} @pointercancel=${() => { this.pointer = null; }}>
        <div class="inside">${row('source', 'Tokens of the source, which are read')}${row('target', 'Tokens of the base, which are written')}
        <svg aria-hidden="true">${this.lines.map(ends => svg`<path d=${curve(ends)}></path>`)}${this.pointer?.to ? svg`<path d=${curve([this.pointer.from, this.pointer.to])}></path>` : ''}</svg></div></div>
      <h3>base, which is written. Drag from a source token to a base token, or choose one and then the other.</h3>
      <ul aria-label="Position map">${pairs.map(([from, to], at) => html`<li><button @click=${() => this.#tell(pairs.filter((_, i) => i !== at))}
        @keydown=${event => { if (['Delete', 'Backspace'].includes(event.key)) this.#tell(pairs.filter((_, i) => i !== at)); }}>
        ${name('source', from)} → ${name('target', to)} <span aria-hidden="true">✕</span><span class="vh">, remove</span></button></li>`)}</ul>`;
  }

  #token(event) {
    const found = this.renderRoot.elementFromPoint(event.clientX, event.clientY)?.closest?.('[data-row]');
    return found && { row: found.dataset.row, i: Number(found.dataset.i) };
  }

  #place(event) {
    const box = this.renderRoot.querySelector('.inside').getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #down(event) {
    const token = this.#token(event);
    if (!token) return;
    // A line's end at the base moves with the pointer.
    const held = token.row === 'target' ? this.pairs.find(([, to]) => to === token.i) : null;
    this.pointer = { start: token, held, from: this.#place(event), to: null };
    event.currentTarget.setPointerCapture(event.pointerId);
  }

  #move(event) {
    if (this.pointer) this.pointer = { ...this.pointer, to: this.#place(event) };
  }

  #up(event) {
    const { pointer } = this;
    this.pointer = null;
    const token = this.#token(event);
    if (!pointer || !token) return;
    const { start, held } = pointer;
    if (start.row === token.row && start.i === token.i) this.#choose(token.row, token.i);
    else if (start.row === 'source' && token.row === 'target') this.#connect(start.i, token.i);
    else if (held && token.row === 'target') this.#connect(held[0], token.i, held);
  }

  #choose(row, i) {
    if (row === 'source') this.picked = this.picked === i ? -1 : i;
    else if (this.picked >= 0) this.#connect(this.picked, i);
  }

  /** Each base position is written once. */
  #connect(from, to, instead) {
    this.picked = -1;
    this.#tell([...this.pairs.filter(pair => pair[1] !== to && pair[1] !== instead?.[1]), [from, to]].sort((a, b) => a[1] - b[1]));
  }

  #tell(pairs) {
    this.dispatchEvent(new CustomEvent('map', { detail: pairs }));
  }
}
customElements.define('position-map', PositionMap);
