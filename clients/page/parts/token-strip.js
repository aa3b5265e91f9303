import { LitElement, html, css, repeat } from '../vendor/lit.js';
import { base } from '../style.js';
import { isRightToLeft, labels } from '../say.js';

/** The tokens of a prompt; a range is marked by dragging, or with Shift and the arrow keys. Fires `mark` with [from, to) or null. */
export class TokenStrip extends LitElement {
  static properties = { tokens: { attribute: false }, text: {}, mark: { attribute: false }, name: {}, cursor: { state: true } };
  static styles = [base, css`
    .strip { display: flex; flex-wrap: wrap; gap: 3px 1px; touch-action: pan-y; user-select: none; -webkit-user-select: none; }
    .token {
      border: 1px solid var(--line); border-radius: 3px; padding: 3px 3px 2px; white-space: pre; cursor: text; text-align: center;
      background: var(--bg); line-height: 1.15; min-width: 24px; unicode-bidi: isolate;
    }
    .token small { display: block; font-size: 11px; color: var(--dim); }
    .token[aria-selected=true] { background: var(--mark); color: var(--mark-ink); border-color: var(--ink); }
    .token[aria-selected=true] small { color: var(--mark-ink); }
    .strip:focus-visible .cursor { outline: 2px solid var(--accent); outline-offset: 1px; }
    sub { font-size: 10px; }
  `];

  constructor() {
    super();
    this.tokens = [];
    this.text = '';
    this.name = 'Tokens of the prompt';
    this.mark = null;
    this.cursor = 0;
    this.from = -1;
  }

  render() {
    const { mark } = this;
    const shown = labels(this.tokens, this.text);
    return html`<div class="strip" dir=${isRightToLeft(this.text) ? 'rtl' : 'ltr'} role="listbox" tabindex="0" aria-multiselectable="true"
        aria-label="${this.name}. Shift and arrow keys mark the subject, Escape clears it."
        aria-activedescendant=${this.tokens.length ? `t${this.cursor}` : ''}
        @pointerdown=${this.#down} @pointermove=${this.#move} @pointerup=${this.#up} @pointercancel=${this.#up} @keydown=${this.#key}>
      ${repeat(this.tokens, (_, i) => i, (token, i) => html`<span class="token ${this.cursor === i ? 'cursor' : ''}" id="t${i}" data-i=${i}
        role="option" aria-selected=${!!mark && i >= mark[0] && i < mark[1]}
        title="position ${i}, token ${token.id}">${shown[i].text}${shown[i].part ? html`<sub>${shown[i].part}</sub>` : ''}<small>${i}</small></span>`)}
    </div>`;
  }

  #at(event) {
    const at = this.renderRoot.elementFromPoint(event.clientX, event.clientY)?.closest?.('[data-i]');
    return at ? Number(at.dataset.i) : -1;
  }

  #down(event) {
    const i = this.#at(event);
    if (i < 0) return;
    this.from = this.cursor = i;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.#range(i, i);
  }

  #move(event) {
    if (this.from < 0) return;
    const i = this.#at(event);
    if (i >= 0) this.#range(this.from, i);
  }

  #up() {
    if (this.from < 0) return;
    this.from = -1;
    this.#tell();
  }

  #range(a, b) {
    const [from, to] = [Math.min(a, b), Math.max(a, b) + 1];
    if (this.mark?.[0] !== from || this.mark?.[1] !== to) this.mark = [from, to];
  }

  #tell() {
    this.dispatchEvent(new CustomEvent('mark', { detail: this.mark }));
  }

  #key(event) {
    const last = this.tokens.length - 1;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -last, End: last }[event.key];
    if (event.key === 'Escape') {
      this.mark = null;
      return this.#tell();
    }
    if (!step || last < 0) return;
    event.preventDefault();
    const backwards = isRightToLeft(this.text) && event.key.match(/Left|Right/) ? -1 : 1;
    const now = Math.max(0, Math.min(last, this.cursor + step * backwards));
    if (event.shiftKey) {
      this.anchor ??= this.cursor;
      this.#range(this.anchor, now);
      this.#tell();
    } else {
      this.anchor = undefined;
    }
    this.cursor = now;
  }
}
customElements.define('token-strip', TokenStrip);
