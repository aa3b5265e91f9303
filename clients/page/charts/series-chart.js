import { LitElement, css, html, nothing, svg } from '../vendor/lit.js';
import { line, scaleLinear } from '../vendor/d3.js';
import { base } from '../style.js';
import { num, pm } from '../say.js';

const HIGH = 270;
const EDGE = { left: 58, right: 12, top: 10, bottom: 34 };

/** What tells bars apart beside their colours: the second of a chart is hatched, the third is dotted. */
const GRAINS = svg`<defs>
  <pattern id="hatched" width="6" height="6" patternUnits="userSpaceOnUse" class="grain"><path d="M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2"></path></pattern>
  <pattern id="dotted" width="6" height="6" patternUnits="userSpaceOnUse" class="grain"><circle cx="3" cy="3" r="1.3"></circle></pattern></defs>`;
const grained = at => ['', 'hatched', 'dotted', ''][at % 4];

/**
 * Values along one axis, as lines or bars with error bars. One cursor, moved by pointer or keys; Enter or a click opens a point.
 *
 * `data`: `x` (`{ name, texts }`), `series` of `{ name, kind, values, low, high, se, dots }`, `levels` of `{ name, value }` (what
 * stands still, as a baseline), `words`, `unit`, `from` (where bars begin), `notes(at)` what else is to be said of a point.
 */
export class SeriesChart extends LitElement {
  static properties = { data: { attribute: false }, width: { state: true }, at: { state: true }, asTable: { state: true } };
  static styles = [base, css`
    svg[role] { display: block; width: 100%; height: 270px; touch-action: pan-y; }
    svg:focus:not(:focus-visible) { outline: none; }
    text { fill: var(--dim); font-size: 11px; }
    .axis { stroke: var(--line); }
    .level { stroke: var(--ink); stroke-dasharray: 5 4; }
    .cursor { stroke: var(--ink); opacity: .4; }
    .s0 { --c: var(--one); } .s1 { --c: var(--two); } .s2 { --c: var(--three); } .s3 { --c: var(--four); }
    .line { fill: none; stroke: var(--c); stroke-width: 2; }
    .error { stroke: var(--c); stroke-width: 1.5; }
    .bars .error { stroke: var(--ink); }
    .mark, .bar { fill: var(--c); }
    .s1 .line { stroke-dasharray: 7 3; } .s2 .line { stroke-dasharray: 2 3; }
    .grain { stroke: var(--bg); stroke-width: 1.5; fill: none; }
    .grain circle { fill: var(--bg); stroke: none; }
    .legend { display: flex; gap: .3rem 1.2rem; flex-wrap: wrap; font-size: .9rem; }
    .legend span { display: inline-flex; gap: .4rem; align-items: center; }
    .legend svg, .legend i { width: 22px; height: 12px; flex: none; }
    .legend i.level { background: none; border-top: 2px dashed var(--ink); height: 0; border-radius: 0; }
    .foot { display: flex; gap: .4rem .9rem; align-items: center; margin: .3rem 0; }
    .foot button { padding: .1rem .6rem; }
    b { font-weight: 600; }
  `];

  constructor() {
    super();
    this.width = 600;
    this.at = -1;
    this.asTable = false;
  }

  connectedCallback() {
    super.connectedCallback();
    this.sizes = new ResizeObserver(([{ contentRect }]) => { if (contentRect.width) this.width = Math.round(contentRect.width); });
    this.sizes.observe(this);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.sizes.disconnect();
  }

  willUpdate(changed) {
    if (changed.has('data') && this.at >= (this.data?.x.texts.length ?? 0)) this.at = -1;
  }

  /** How wide the plot is and where a value stands in it. */
  #scales() {
    const { series, levels = [], x, from } = this.data;
    const all = [...series.flatMap(({ values, low = [], high = [] }) => [...values, ...low, ...high]), ...levels.map(({ value }) => value), ...(from === undefined ? [] : [from])].filter(Number.isFinite);
    const [least, most] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    const room = (most - least || Math.abs(most) || 1) * 0.04;
    // Where bars, or probabilities, begin at zero, so does the axis.
    const y = scaleLinear([least === from ? from : least - room, most === from ? from : most + room], [HIGH - EDGE.bottom, EDGE.top]).nice(5);
    const step = (this.width - EDGE.left - EDGE.right) / x.texts.length;
    return { y, step, x: at => EDGE.left + (at + 0.5) * step };
  }

  render() {
    const { data } = this;
    if (!data) return nothing;
    const { x, series, levels = [] } = data;
    const scales = this.#scales();
    const ticks = scales.y.ticks(5);
    const every = [1, 2, 5, 10, 20, 50].find(step => step * scales.step >= Math.max(...x.texts.map(text => text.length)) * 7 + 6) ?? 100;
    return html`
      <div class="legend" aria-hidden="true">${series.length > 1 || levels.length ? series.map((one, at) => html`<span class="s${at % 4}"><svg>${this.#sample(one, at)}</svg>${one.name}</span>`) : ''}
        ${levels.length ? html`<span><i class="level"></i>${levels.map(({ name, value }) => `${name} ${num(value)}`).join(', ')}</span>` : ''}</div>
      <svg viewBox="0 0 ${this.width} ${HIGH}" preserveAspectRatio="none" tabindex="0" role="application" aria-roledescription="chart"
        aria-label="${data.words} by ${x.name}, ${x.texts.length} points. Arrow keys move, Enter opens a point, T shows a table."
        @keydown=${this.#key} @pointermove=${this.#move} @pointerleave=${() => { if (!this.held) this.at = -1; }} @click=${event => { this.#move(event, true); this.#open(); }}>
        ${GRAINS}
        ${ticks.map(tick => svg`<line class="axis" x1=${EDGE.left} x2=${this.width - EDGE.right} y1=${scales.y(tick)} y2=${scales.y(tick)}></line>
          <text x=${EDGE.left - 6} y=${scales.y(tick) + 4} text-anchor="end">${scales.y.tickFormat(5)(tick)}</text>`)}
        ${x.texts.map((text, at) => (at % every ? '' : svg`<text x=${scales.x(at)} y=${HIGH - EDGE.bottom + 14} text-anchor="middle">${text}</text>`))}
        <text x=${(this.width + EDGE.left) / 2} y=${HIGH - 4} text-anchor="middle">${x.name}</text>
        ${levels.map(({ name, value }) => (Number.isFinite(value) ? svg`<line class="level" x1=${EDGE.left} x2=${this.width - EDGE.right} y1=${scales.y(value)} y2=${scales.y(value)}></line>
          <text x=${this.width - EDGE.right - 2} y=${scales.y(value) - 4} text-anchor="end">${name}</text>` : ''))}
        ${series.map((one, at) => (one.kind === 'bars' ? this.#bars(one, at, scales) : this.#line(one, at, scales)))}
        ${this.at < 0 ? '' : svg`<line class="cursor" x1=${scales.x(this.at)} x2=${scales.x(this.at)} y1=${EDGE.top} y2=${HIGH - EDGE.bottom}></line>`}
      </svg>
      <div class="panel">${this.at < 0 ? html`<span class="dim">Point at the chart, or press Tab and use the arrow keys.</span>` : this.#reading()}</div>
      <div class="foot"><button aria-expanded=${this.asTable} @click=${() => { this.asTable = !this.asTable; }}>Table</button></div>
      <div class="vh" id="spoken" aria-live="polite"></div>
      ${this.asTable ? this.#table() : ''}`;
  }

  /** How a series looks, for the legend. */
  #sample({ kind, dots }, at) {
    if (kind !== 'bars') return dots ? svg`<circle class="mark" cx="11" cy="6" r="3"></circle>` : svg`<path class="line" d="M0,6H22"></path><circle class="mark" cx="11" cy="6" r="3"></circle>`;
    return svg`<rect class="bar" width="22" height="12"></rect>${grained(at) ? svg`<rect fill="url(#${grained(at)})" width="22" height="12"></rect>` : ''}`;
  }

  #line({ values, low, high, dots }, at, { x, y }) {
    const path = line((_, i) => x(i), value => y(value)).defined(Number.isFinite)(values);
    return svg`<g class="s${at % 4}">${dots ? '' : svg`<path class="line" d=${path ?? ''}></path>`}
      ${values.map((value, i) => (Number.isFinite(value) ? svg`${low && Number.isFinite(low[i]) ? svg`<line class="error" x1=${x(i)} x2=${x(i)} y1=${y(low[i])} y2=${y(high[i])}></line>` : ''}
        <circle class="mark" cx=${x(i)} cy=${y(value)} r=${i === this.at ? 5 : dots ? 2.5 : 3}></circle>` : ''))}</g>`;
  }

  #bars({ values, low, high }, at, { x, y, step }) {
    const bars = this.data.series.filter(({ kind }) => kind === 'bars').length;
    const wide = (step * 0.8) / bars;
    const left = i => x(i) - step * 0.4 + at * wide;
    const zero = y(this.data.from ?? 0);
    return svg`<g class="bars s${at % 4}">${values.map((value, i) => (Number.isFinite(value) ? svg`<rect class="bar" x=${left(i)} width=${Math.max(1, wide - 1)} y=${Math.min(y(value), zero)} height=${Math.abs(y(value) - zero)}></rect>
      ${grained(at) ? svg`<rect fill="url(#${grained(at)})" x=${left(i)} width=${Math.max(1, wide - 1)} y=${Math.min(y(value), zero)} height=${Math.abs(y(value) - zero)}></rect>` : ''}
      ${low && Number.isFinite(low[i]) ? svg`<line class="error" x1=${left(i) + wide / 2} x2=${left(i) + wide / 2} y1=${y(low[i])} y2=${y(high[i])}></line>` : ''}` : ''))}</g>`;
  }

  #value(one, at) {
    const interval = one.low && Number.isFinite(one.low[at]) ? `, ${num(one.low[at], true)} to ${num(one.high[at], true)}` : '';
    return `${one.se ? pm(one.values[at], one.se[at]) : num(one.values[at])}${interval} ${this.data.unit}`.trim();
  }

  #reading() {
    const { x, series, notes } = this.data;
    return html`<b>${x.name} ${x.texts[this.at]}</b> ${series.map(one => html`<div>${one.name}: ${this.#value(one, this.at)}</div>`)}
      ${(notes?.(this.at) ?? []).map(note => html`<div><bdi>${note}</bdi></div>`)}`;
  }

  #table() {
    const { x, series } = this.data;
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Values"><table><thead><tr><th scope="col">${x.name}</th>${series.map(({ name }) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>${x.texts.map((text, at) => html`<tr><th scope="row">${text}</th>${series.map(one => html`<td>${this.#value(one, at)}</td>`)}</tr>`)}</tbody></table></div>`;
  }

  #move(event, force = false) {
    if (this.held && !force) return;
    const box = this.renderRoot.querySelector('svg[role]').getBoundingClientRect();
    const { step } = this.#scales();
    const at = Math.floor((event.clientX - box.left - EDGE.left) / step);
    this.at = at >= 0 && at < this.data.x.texts.length ? at : -1;
  }

  #open() {
    if (this.at < 0) return;
    this.held = true;
    this.dispatchEvent(new CustomEvent('point', { detail: this.at }));
  }

  #key(event) {
    const last = this.data.x.texts.length - 1;
    const far = event.shiftKey ? 10 : 1;
    const to = { ArrowRight: this.at + far, ArrowLeft: this.at - far, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') this.held = false;
    else if (event.key === 'Enter') this.#open();
    else if (/^[tT]$/.test(event.key)) this.asTable = !this.asTable;
    else if (to === undefined) return;
    else {
      this.held = true;
      this.at = Math.max(0, Math.min(last, to));
      const { x, series, notes } = this.data;
      const spoken = [`${x.name} ${x.texts[this.at]}`, ...series.map(one => `${one.name} ${this.#value(one, this.at)}`), ...(notes?.(this.at) ?? [])];
      this.renderRoot.getElementById('spoken').textContent = `${spoken.join('. ')}.`;
    }
    event.preventDefault();
  }
}
customElements.define('series-chart', SeriesChart);
