import { html, css, live } from '../vendor/lit.js';
import { Problem, ask } from '../api.js';
import { Watching } from '../watch.js';
import { measured } from '../targets.js';
import { capital, labels, metricName, num, percent, visible } from '../say.js';
import '../charts/heat-map.js';
import '../charts/reading.js';
import '../charts/series-chart.js';
import '../parts/job-bar.js';
import '../parts/position-map.js';
import '../parts/remarks.js';
import '../parts/take-away.js';

const AXES = { layers: ['layers'], positions: ['layers', 'positions'], heads: ['layers', 'heads'] };
const CONTROLS = { self_patch: 'self patch', random_vector: 'random vector of equal norm', random_position: 'random position', unrelated_prompt: 'unrelated prompt' };

/** When the model decides: states of one prompt put into another. */
export const patch = {
  title: 'Patch',
  kind: 'patch',
  from: ({ base, source, target }) => ({ prompt: base, source, target, map: 'last' }),
  body(given) {
    const { prompt, source, target, map, site, sweep, controls } = given;
    if (!prompt || !source || !target || !map) return null;
    const long = map !== 'last' || site !== 'resid_post' || sweep !== 'layers';
    const positions = written(map);
    return {
      ...(long ? { runs: { base: { prompt }, source: { prompt: source } }, base: 'base' } : { base: prompt, source }),
      ...(long && {
        interventions: [{ site: sweep === 'heads' ? 'z' : site, layers: 'all', ...(sweep === 'heads' && { heads: 'all' }), positions, source: { run: 'source', ...(positions === 'last' && { positions }) } }],
        sweep: AXES[sweep] ?? AXES.layers,
      }),
      ...measured(given, ['logprob', 'prob']),
      controls,
      ...(sweep === 'layers' && { derive: ['leaves_base', 'reaches_source'] }),
      read: { topk: 5 },
    };
  },
};

/** A map as requests have it; links write `last`, `diff`, or pairs as `11-5,10-4`. */
function written(map) {
  if (map === 'last') return 'last';
  if (map === 'diff') return { align: 'diff' };
  return { map: map.split(',').map(pair => pair.split('-').map(Number)) };
}

export class PatchView extends Watching {
  static properties = { ...Watching.properties, other: { state: true }, opened: { state: true } };
  static styles = [Watching.styles, css`
    fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: .3rem .8rem; flex-wrap: wrap; align-items: center; }
    legend { float: inline-start; padding: 0; margin-inline-end: .4rem; }
    .said { display: flex; gap: .2rem 2rem; flex-wrap: wrap; margin: .4rem 0; }
    .columns { display: flex; gap: 0 2.5rem; flex-wrap: wrap; }
  `];

  constructor() {
    super();
    this.other = { text: '', tokens: [], problem: null, map: null };
  }

  willUpdate() {
    const { source, prompt } = this.given;
    if (this.asked === `${prompt}\n${source}` || this.lab.view !== 'patch') return;
    this.asked = `${prompt}\n${source}`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(prompt, source), 150);
  }

  async #ask(prompt, source) {
    this.stop?.abort();
    const { signal } = (this.stop = new AbortController());
    try {
      if (!source || !prompt) {
        this.other = { text: source, tokens: [], problem: null, map: null };
        return;
      }
      const [{ tokens }, aligned] = await Promise.all([
        ask('/v1/tokenize', { body: { prompt: source }, signal }), ask('/v1/align', { body: { a: source, b: prompt }, signal }),
      ]);
      this.other = { text: source, tokens, problem: null, map: aligned.map };
    } catch (problem) {
      if (signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      this.other = { text: source, tokens: [], problem, map: null };
    }
  }

  /** The map as pairs. */
  #pairs() {
    const { map } = this.given;
    const [from, to] = [this.other.tokens.length, this.live.tokens.length];
    if (map === 'last') return from && to ? [[from - 1, to - 1]] : [];
    if (map === 'diff') return this.other.map ?? [];
    return map ? written(map).map : [];
  }

  render() {
    const { given, lab, other } = this;
    const set = name => event => lab.set({ [name]: event.target.value });
    const pairs = this.#pairs();
    const last = n => {
      const most = Math.min(n, other.tokens.length, this.live.tokens.length);
      return Array.from({ length: most }, (_, at) => `${other.tokens.length - most + at}-${this.live.tokens.length - most + at}`).join(',');
    };
    const controls = name => event => lab.set({ controls: Object.keys(CONTROLS).filter(one => (one === name ? event.target.checked : given.controls.includes(one))) });
    const result = lab.jobs.patch?.result ?? lab.jobs.patch?.partial;
    return html`
      <p>The prompt above is the base. States of the source are put into it.</p>
      <label for="source" class="dim">Source</label>
      <textarea id="source" dir="auto" spellcheck="false" .value=${live(given.source)} @input=${set('source')}></textarea>
      <div class="row"><button @click=${() => lab.set({ prompt: given.source, source: given.prompt, map: 'last', subject: '', tokens: '' })} ?disabled=${!given.source}>Swap base and source</button>
        <button @click=${() => lab.set({ prompt: 'The river has a strong water', source: 'Why do electricians make good swimmers? Because they know the', subject: '', tokens: '', target: ' current', map: 'last' })}>Example: the pun</button></div>
      <remark-list .problem=${other.problem}></remark-list>
      ${other.tokens.length ? html`
        <div class="row" role="group" aria-label="Position map"><span>Positions:</span>
          ${[['last', 'last to last'], [last(3), 'last 3'], [last(1000), 'all, from the end'], ['diff', 'align by diff']].map(([map, words]) => html`<button aria-pressed=${given.map === map} @click=${() => lab.set({ map })}>${words}</button>`)}</div>
        <position-map .source=${other} .target=${{ tokens: this.live.tokens, text: given.prompt }} .pairs=${pairs} @map=${event => lab.set({ map: event.detail.map(pair => pair.join('-')).join(',') })}></position-map>` : ''}
      <div class="row">
        <label>Sweep <select name="sweep" @change=${set('sweep')}>${[['layers', 'layers'], ['positions', 'layers and positions'], ['heads', 'layers and heads']].map(([name, words]) => html`<option value=${name} ?selected=${given.sweep === name}>${words}</option>`)}</select></label>
        <label>Site <select name="site" @change=${set('site')} ?disabled=${given.sweep === 'heads'}>${(lab.facts.capabilities?.sites ?? []).filter(({ layers, editable, width, site }) => layers && editable && (width || site === given.site)).map(({ site }) =>
          html`<option value=${site} ?selected=${given.sweep === 'heads' ? site === 'z' : given.site === site}>${site}</option>`)}</select></label>
        <fieldset><legend>Controls</legend>${Object.entries(CONTROLS).map(([name, words]) => html`<label><input type="checkbox" .checked=${given.controls.includes(name)} @change=${controls(name)}> ${words}</label>`)}</fieldset>
      </div>
      ${lab.body('patch') ? '' : html`<p>${!given.source ? 'Write the source: the prompt whose states are read.' : !given.target ? 'Write a target.' : !given.prompt ? 'Write a prompt above.' : 'Draw at least one line of the position map.'}</p>`}
      <job-bar .lab=${lab} verb="Patch"></job-bar>
      ${result ? this.#result(result) : ''}`;
  }

  #result(result) {
    const metrics = Object.keys(result.values);
    const metric = metrics.includes(this.given.metric) ? this.given.metric : metrics[0];
    if (this.of !== result || this.ofMetric !== metric) {
      Object.assign(this, { of: result, ofMetric: metric, shown: result.axes.length > 1 ? grid(result, metric) : along(result, metric) });
      this.opened = null;
    }
    const { words } = metricName(metric, result.targets);
    const { derived } = result;
    const { body, id } = this.lab.jobs.patch;
    return html`
      <h2>What the source's states do to <bdi>${words}</bdi></h2>
      <div class="said"><span>base <b>${num(result.baselines.base?.[metric])}</b></span><span>source <b>${num(result.baselines.source?.[metric])}</b></span>
        ${result.controls?.self_patch ? html`<span class="dim">self patch: largest effect ${num(result.controls.self_patch.max_abs_effect)}</span>` : ''}
        <label>Metric <select @change=${event => this.lab.set({ metric: event.target.value })}>${metrics.map(name => html`<option value=${name} ?selected=${name === metric}>${metricName(name, result.targets).words}</option>`)}</select></label></div>
      ${derived?.leaves_base ? html`<p>${crossing('Leaves the base', derived.leaves_base[0])} ${crossing('Reaches the source', derived.reaches_source?.[0])}</p>` : ''}
      ${result.axes.length > 1
        ? html`<heat-map .data=${this.shown} @cell=${event => { this.opened = { title: this.shown.place(event.detail.row, event.detail.column), tokens: this.shown.topk(event.detail) }; }}></heat-map>`
        : html`<series-chart .data=${this.shown} @point=${event => { this.opened = { title: `Layer ${this.shown.x.texts[event.detail]}`, tokens: result.topk?.[event.detail] }; }}></series-chart>`}
      ${result.isPartial ? '' : html`${this.#tokens(result)}
        <take-away kind="patch" .body=${body} job=${id} .show=${{ metric }} plot="plot"></take-away>`}`;
  }

  #tokens(result) {
    const { opened } = this;
    if (!opened?.tokens) return html`<p class="dim">Click ${result.axes.length > 1 ? 'a cell' : 'a layer'} to see what the model says with it.</p>`;
    const list = tokens => html`<td>${(tokens ?? []).map(({ text, prob }) => html`<div><bdi>${visible(text)}</bdi> <span class="dim">${percent(prob)}</span></div>`)}</td>`;
    return html`<h3>${opened.title}</h3><table><thead><tr><th scope="col">base</th><th scope="col">source</th><th scope="col">patched here</th></tr></thead>
      <tbody><tr>${list(result.runs.base?.topk)}${list(result.runs.source?.topk)}${list(opened.tokens)}</tr></tbody></table>`;
  }
}
customElements.define('patch-view', PatchView);

/** Where a derived quantity says that the answer changes, in words. */
function crossing(words, found) {
  if (!found?.lasting) return `${words}: at no layer for good${found?.first ? `, first at layer ${found.first.layer} (“${visible(found.first.token.text)}”)` : ''}.`;
  const { first, lasting } = found;
  const before = first && first.layer !== lasting.layer ? `, first at layer ${first.layer} (“${visible(first.token.text)}”)` : '';
  return `${words} for good from layer ${lasting.layer} on (“${visible(lasting.token.text)}”)${before}.`;
}

/** A sweep along one axis as lines. */
export function along(result, metric) {
  const { words, unit } = metricName(metric, result.targets);
  const [axis] = result.axes;
  const controls = Object.entries(result.controls ?? {}).filter(([, control]) => control[metric]?.effects);
  const start = result.baselines.base?.[metric];
  return {
    x: { name: capital(axis.name), texts: axis.values.map(String) }, words, unit,
    series: [
      { name: 'patched', values: result.values[metric] },
      ...controls.map(([name, control]) => ({ name: name.replace('_', ' '), dots: true, values: control[metric].effects.map(effect => effect + start) })),
    ],
    levels: ['base', 'source'].filter(name => name in result.baselines).map(name => ({ name, value: result.baselines[name][metric] })),
    notes: at => [
      ...(result.masks.trivial[at] ? ['tautological: its answer is the source\'s by construction'] : result.masks.exact_null[at] ? ['exactly null'] : []),
      ...(result.topk?.[at] ? [`says ${result.topk[at].slice(0, 3).map(({ text, prob }) => `${visible(text)} ${percent(prob)}`).join(', ')}`] : []),
    ],
  };
}

/** A sweep along two axes as a map of effects. */
export function grid(result, metric) {
  const { words, unit } = metricName(metric, result.targets);
  const [{ values: layers }, across] = result.axes;
  const rows = layers.toReversed();
  const shown = labels(Object.values(result.runs)[0].tokens, '');
  const columns = across.values.map(value => ({ text: across.name === 'position' ? shown[value]?.text ?? String(value) : String(value) }));
  const mean = result.effects[metric].toReversed();
  const sizes = mean.flat().filter(Number.isFinite).map(Math.abs);
  return {
    panels: [{ name: 'patched', note: '', mean, exact: result.masks.exact_null.toReversed(), trivial: result.masks.trivial.toReversed(), recovery: null }],
    signed: true, unit, words: `effect on ${words}${unit ? ` (${unit})` : ''}`, max: Math.max(...sizes) || 1,
    rows: rows.map(layer => ({ text: String(layer) })), columns,
    place: (row, column) => `Layer ${rows[row]}, ${across.name} ${across.values[column]}${across.name === 'position' ? ` ${columns[column].text}` : ''}`,
    topk: ({ row, column }) => result.topk?.[rows.length - 1 - row][column],
  };
}
