import { html, css, live } from '../vendor/lit.js';
import { Problem, ask, file } from '../api.js';
import { Watching } from '../watch.js';
import * as link from '../link.js';
import { scoringChoice } from '../parts/scoring.js';
import { armName, metricName, num, pm, visible } from '../say.js';
import '../charts/heat-map.js';
import '../charts/reading.js';
import '../charts/series-chart.js';
import '../parts/job-bar.js';
import '../parts/remarks.js';
import '../parts/take-away.js';

const ARMS = { hidden: { site: 'resid_post' }, mlp: { site: 'mlp_out', window: 10 }, attn: { site: 'attn_out', window: 10 } };
const CLASSES = ['first_subject', 'middle_subject', 'last_subject', 'first_subsequent', 'further', 'last'];
const words = text => text.replaceAll('_', ' ');
const CAPITALS = `id,group,prompt,subject,target
eiffel,monuments,The Eiffel Tower is in the city of,Eiffel Tower," Paris"
colosseum,monuments,The Colosseum is located in the city of,Colosseum," Rome"
gate,monuments,The Brandenburg Gate is located in the city of,Brandenburg Gate," Berlin"
japan,countries,The capital of Japan is the city of,Japan," Tokyo"
russia,countries,The capital of Russia is the city of,Russia," Moscow"
`;
const PUNS = `id,group,prompt,subject,target
current,homograph,Why do electricians make good swimmers? Because they know the,electricians," current"
interest,homograph,Why did the banker break up? He lost,banker," interest"
impasta,homophone,What do you call a fake noodle? An,fake noodle," impasta"
banana,compound,Time flies like an arrow. Fruit flies like a,Fruit flies," banana"
`;

/** Where the answer comes from on average: a trace of many prompts, by layer and token class. */
export const averages = {
  title: 'Averages',
  kind: 'sweep',
  alone: true,
  body(given, lab) {
    const { dataset, arms, samples, noise, seed, every, wrong, groups, scoring } = given;
    const layers = lab.facts.model?.config.num_layers;
    if (!dataset || !arms.length || (every > 1 && !layers)) return null;
    const some = every > 1 && { from: 0, to: layers, step: every };
    return {
      dataset: { id: dataset },
      arms: some ? Object.fromEntries(arms.map(name => [name, [{ ...ARMS[name], layers: some, positions: 'all' }]])) : arms,
      ...(some && { sweep: ['layers', 'positions'] }),
      metrics: ['logprob:target', 'prob:target'],
      corrupt: { samples, ...(noise !== 3 && { sigma: { k: noise, of: 'subjects' } }), ...(seed !== 1 && { seed }) },
      ...(scoring !== 'first_token' && { target_scoring: scoring }),
      ...(wrong === 'keep' && { filters: { expect_top1: false } }),
      aggregate: { by: ['arm', 'layer', 'token_class', ...(groups === 'yes' ? ['group'] : [])] },
    };
  },
};

export class AveragesView extends Watching {
  static properties = { ...Watching.properties, sets: { state: true }, cases: { state: true }, text: { state: true }, problem: { state: true } };
  static styles = [Watching.styles, css`
    fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: .3rem .8rem; flex-wrap: wrap; align-items: center; }
    legend { float: inline-start; padding: 0; margin-inline-end: .4rem; }
    details { margin: .4rem 0; }
    summary { cursor: pointer; min-height: 24px; }
    .cases td, .cases th { text-align: start; white-space: normal; }
    .cases button { padding: 0 .4rem; }
  `];

  constructor() {
    super();
    Object.assign(this, { sets: null, cases: null, text: '', problem: null });
  }

  connectedCallback() {
    super.connectedCallback();
    this.#list();
  }

  willUpdate() {
    const { dataset } = this.given;
    if (this.of !== dataset) {
      this.of = dataset;
      this.cases = null;
      if (dataset) this.#read(dataset);
    }
  }

  async #try(work) {
    try {
      this.problem = null;
      return await work();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.problem = problem;
      return null;
    }
  }

  #list = () => this.#try(async () => { this.sets = (await ask('/v1/datasets')).datasets; });

  #read = id => this.#try(async () => {
    const lines = await file(`/v1/datasets/${id}`);
    this.cases = (await lines.text()).split('\n').filter(Boolean).map(line => JSON.parse(line));
  });

  #save = () => this.#try(async () => {
    const text = this.text.trim();
    const type = text.startsWith('[') ? 'application/json' : text.startsWith('{') ? 'application/x-ndjson' : 'text/csv';
    const name = this.renderRoot.getElementById('name').value.trim();
    const made = await ask(`/v1/datasets${name ? `?${new URLSearchParams({ name })}` : ''}`, { body: `${text}\n`, headers: { 'content-type': type } });
    await this.#list();
    this.lab.set({ dataset: made.id });
  });

  render() {
    const { given, lab, sets, cases } = this;
    const set = (name, read = value => value) => event => lab.set({ [name]: read(event.target.value) });
    const arms = name => event => lab.set({ arms: Object.keys(ARMS).filter(arm => (arm === name ? event.target.checked : given.arms.includes(arm))) });
    const job = lab.jobs.averages;
    return html`
      <div class="row"><label>Data set <select name="dataset" @change=${set('dataset')}><option value="">choose …</option>${(sets ?? []).map(({ id, name, cases }) =>
        html`<option value=${id} ?selected=${id === given.dataset}>${name ?? `${id.slice(0, 9)}…`}: ${cases} cases</option>`)}</select></label>
        ${cases ? html`<span class="dim">${cases.length} cases</span>` : ''}</div>
      <details ?open=${sets !== null && !sets.length}><summary>New data set</summary>
        <p>CSV with a header, JSON, or JSON lines. Columns: prompt, subject, target, and if wanted id, foil, group.</p>
        <label for="cases" class="vh">Cases</label><textarea id="cases" rows="6" spellcheck="false" .value=${live(this.text)} @input=${event => { this.text = event.target.value; }}></textarea>
        <div class="row"><label>File <input type="file" accept=".csv,.json,.jsonl" @change=${async event => { this.text = (await event.target.files[0]?.text()) ?? this.text; }}></label>
          <label>Name <input id="name" autocomplete="off"></label>
          ${[['capitals', CAPITALS], ['puns', PUNS]].map(([name, cases]) => html`<button @click=${() => { this.text = cases; }}>Example: ${name}</button>`)}
          <button @click=${this.#save} ?disabled=${!this.text.trim()}>Save on the server</button></div></details>
      <remark-list .problem=${this.problem}></remark-list>
      <div class="row">
        <fieldset><legend>Restore</legend>${Object.keys(ARMS).map(name => html`<label><input type="checkbox" .checked=${given.arms.includes(name)} @change=${arms(name)}> ${armName(name)}</label>`)}</fieldset>
        <label>Noise samples <input type="number" name="samples" min="1" max="100" .value=${String(given.samples)} @change=${set('samples', Number)}></label>
        <label>Layers <select name="every" @change=${set('every', Number)}>${[[1, 'all'], [2, 'every 2nd'], [3, 'every 3rd'], [5, 'every 5th']].map(([step, said]) =>
          html`<option value=${step} ?selected=${given.every === step}>${said}</option>`)}</select></label>
        ${scoringChoice(lab)}
        <label><input type="checkbox" name="wrong" .checked=${given.wrong === 'keep'} @change=${event => lab.set({ wrong: event.target.checked ? 'keep' : 'drop' })}> keep cases that the model answers otherwise</label>
        <label><input type="checkbox" name="groups" .checked=${given.groups === 'yes'} @change=${event => lab.set({ groups: event.target.checked ? 'yes' : 'no' })}> by group</label>
      </div>
      ${lab.body('averages') ? '' : html`<p>Choose a data set, or save one.</p>`}
      <job-bar .lab=${lab} verb="Start job" alone></job-bar>
      ${job?.result?.averages ? this.#result(job) : ''}`;
  }

  #result({ result, id, body }) {
    const { averages: found, metrics, cases } = result;
    const metric = metrics.includes(this.given.metric) ? this.given.metric : metrics[0];
    const groups = [...new Set(found.rows.map(row => row.group).filter(Boolean))];
    const group = groups.includes(this.given.group) ? this.given.group : null;
    const rows = found.rows.filter(row => row.metric === metric && row.group === group);
    const classes = CLASSES.filter(name => rows.some(row => row.token_class === name));
    const kind = classes.includes(this.given.class) ? this.given.class : classes[0];
    const { words: said, unit } = metricName(metric, null);
    const totals = found.totals.filter(total => total.metric === metric && total.group === group);
    const mark = `${id} ${result.cells_done} ${metric} ${group} ${kind}`;
    if (this.mark !== mark) Object.assign(this, { mark, bars: bars(rows, kind, said, unit), maps: maps(rows, classes, said, unit) });
    return html`
      <h2>Averages over ${found.kept} cases${result.complete ? '' : `, ${result.cells_done} of ${result.cells_total} cells so far`}</h2>
      <div class="row">
        <span>total effect <b>${totals.length ? pm(totals[0].total_effect.mean, totals[0].total_effect.se, true) : '–'}</b> ${unit}</span>
        <label>Metric <select @change=${event => this.lab.set({ metric: event.target.value })}>${metrics.map(name => html`<option value=${name} ?selected=${name === metric}>${metricName(name, null).words}</option>`)}</select></label>
        ${groups.length ? html`<label>Group <select @change=${event => this.lab.set({ group: event.target.value })}><option value="">all cases</option>${groups.map(name => html`<option value=${name} ?selected=${name === group}>${name}</option>`)}</select></label>` : ''}
        ${classes.length ? html`<label>Bars of <select @change=${event => this.lab.set({ class: event.target.value })}>${classes.map(name => html`<option value=${name} ?selected=${name === kind}>${words(name)}</option>`)}</select></label>` : ''}</div>
      ${rows.length ? html`<h3>At the ${words(kind ?? '')} token, by layer, with 95 % intervals over cases</h3><series-chart .data=${this.bars}></series-chart>
        <h3>Layer by token class</h3><heat-map .data=${this.maps}></heat-map>` : html`<p>${result.complete ? 'No case counts: see below why.' : 'No cell is computed yet.'}</p>`}
      ${this.#cases(cases, metrics.indexOf(metric))}
      <take-away kind="sweep" .body=${body} job=${id} .show=${{ metric, kind: 'heatmap', ...(group && { group }) }} plot="plot"></take-away>`;
  }

  #cases(cases, at) {
    return html`<h3>Cases</h3><div class="scroll cases" tabindex="0" role="region" aria-label="Cases"><table><thead><tr><th scope="col">case</th><th scope="col">group</th><th scope="col">says</th><th scope="col">total effect</th><th scope="col">counts</th><td></td></tr></thead>
      <tbody>${cases.map((one, index) => {
        const clean = one.runs?.find(run => run.name === 'clean');
        // By arm and metric; all arms have the same runs.
        const total = one.total_effect[0]?.[at];
        const whole = this.cases?.[index];
        return html`<tr><th scope="row">${one.id}</th><td>${one.group ?? ''}</td><td><bdi>${clean ? visible(clean.top1) : ''}</bdi></td><td>${total ? pm(total.mean, total.se, true) : ''}</td>
          <td>${one.kept ? 'yes' : `no: ${one.dropped.map(reason => (typeof reason === 'string' ? words(reason) : words(reason.reason ?? reason.code ?? JSON.stringify(reason)))).join(', ')}`}</td>
          <td>${typeof whole?.prompt === 'string' && typeof whole.subject === 'string' && typeof whole.target === 'string' ? html`<button @click=${() => this.#open(whole)}>Trace it</button>` : ''}</td></tr>`;
      })}</tbody></table></div>`;
  }

  #open({ prompt, subject, target, foil = '' }) {
    location.hash = link.write('trace', { ...this.given, prompt, subject, tokens: '', target, foil: typeof foil === 'string' ? foil : '', r: '' });
  }
}
customElements.define('averages-view', AveragesView);

const named = rows => [...new Set(rows.map(row => row.arm))];
const layered = rows => [...new Set(rows.map(row => row.layer))].sort((a, b) => a - b);

/** Averages of one token class by layer. */
export function bars(rows, kind, said, unit) {
  const layers = layered(rows);
  const series = named(rows).map(arm => {
    const found = layers.map(layer => rows.find(row => row.arm === arm && row.layer === layer && row.token_class === kind)?.effect);
    return { name: armName(arm), kind: 'bars', values: found.map(effect => effect?.mean ?? NaN), low: found.map(effect => effect?.ci?.[0] ?? NaN), high: found.map(effect => effect?.ci?.[1] ?? NaN) };
  });
  return { x: { name: 'Layer', texts: layers.map(String) }, series, words: `average effect on ${said}`, unit, from: 0 };
}

/** Averages by layer and token class, a map for each arm. */
export function maps(rows, classes, said, unit) {
  const layers = layered(rows).toReversed();
  const panels = named(rows).map(arm => {
    const cell = layers.map(layer => classes.map(name => rows.find(row => row.arm === arm && row.layer === layer && row.token_class === name)));
    const of = read => cell.map(line => line.map(row => (row ? read(row) : null)));
    return {
      name: armName(arm), note: '', mean: of(row => row.effect.mean), se: of(row => row.effect.se), recovery: of(row => row.recovery),
      exact: of(row => row.cells > 0 && row.exact_null === row.cells), trivial: of(row => row.cells > 0 && row.trivial === row.cells),
    };
  });
  const sizes = panels.flatMap(panel => panel.mean.flat()).filter(Number.isFinite).map(Math.abs);
  return {
    panels, signed: true, unit, words: `average effect on ${said}${unit ? ` (${unit})` : ''}`, max: Math.max(...sizes, 0) || 1,
    rows: layers.map(layer => ({ text: String(layer) })), columns: classes.map(name => ({ text: words(name) })),
    place: (row, column) => `Layer ${layers[row]}, ${words(classes[column])}`,
  };
}
