import { html, css } from '../vendor/lit.js';
import { Problem, ask } from '../api.js';
import { Watching } from '../watch.js';
import { joined, measured } from '../targets.js';
import { armName, labels, metricName, num, percent, pm, visible } from '../say.js';
import '../charts/heat-map.js';
import '../charts/reading.js';
import '../parts/job-bar.js';
import '../parts/remarks.js';

const ARMS = ['hidden', 'mlp', 'attn'];
/** Tokens of each run that are told of an opened cell. */
const TOLD = 5;

/** Where the answer comes from: noise on the subject breaks it, each cell puts one clean state back. */
export const trace = {
  title: 'Trace',
  kind: 'trace',
  /** The fields of an example. */
  from: ({ prompt, subject, target, targets }) => ({ prompt, subject, target: target ?? joined(targets.target), foil: joined(targets?.foil ?? []) }),
  body(given, lab) {
    const { prompt, target, arms, samples, noise, seed, every, base } = given;
    const subject = lab.subject();
    const layers = lab.facts.model?.config.num_layers;
    if (!prompt || !subject.length || !target || !arms.length || (every > 1 && !layers)) return null;
    return {
      prompt, subject,
      ...measured(given, ['logprob', 'prob']),
      arms,
      ...(every > 1 && { layers: { from: 0, to: layers, step: every } }),
      ...(base !== 'corrupted' && { base }),
      corrupt: { samples, ...(noise !== 3 && { sigma: { k: noise, of: 'subjects' } }), ...(seed !== 1 && { seed }) },
    };
  },
};

/** A trace's answer as maps, the last layer on top. */
export function maps(result, metric) {
  const arms = Object.entries(result.arms);
  const [{ values: layers }, { values: positions }] = arms[0][1].axes;
  const shown = labels(result.tokens, prompt(result));
  const upside = rows => rows?.toReversed();
  const panels = arms.map(([name, arm]) => ({
    name: armName(name), arm: name, note: `${arm.site}${arm.window > 1 ? `, window of ${arm.window} layers` : ''}`,
    mean: upside(arm.effects[metric].mean), se: upside(arm.effects[metric].se), recovery: upside(arm.recovery?.[metric]),
    exact: upside(arm.masks.exact_null), trivial: upside(arm.masks.trivial),
  }));
  const { words, unit } = metricName(metric, result.targets);
  const sizes = panels.flatMap(panel => panel.mean.flat()).filter(Number.isFinite).map(Math.abs);
  const rows = layers.toReversed();
  const columns = positions.map(at => ({ ...shown[at], marked: result.tokens[at].corrupted, at }));
  return {
    panels, unit, signed: true, ...(result.isPartial && { missing: 'not computed yet' }), words: `effect on ${words}${unit ? ` (${unit})` : ''}`, max: Math.max(...sizes) || 1, layers: rows,
    rows: rows.map(layer => ({ text: String(layer) })), columns,
    place: (row, column) => `Layer ${rows[row]}, token ${columns[column].at} ${columns[column].text}${columns[column].part ? ` ${columns[column].part}` : ''}${columns[column].marked ? ' (noised)' : ''}`,
  };
}

const prompt = result => Object.values(result.request.runs).find(run => run.prompt)?.prompt ?? '';

export class TraceView extends Watching {
  static properties = { ...Watching.properties, opened: { state: true } };
  static styles = [Watching.styles, css`
    .base { display: flex; gap: .3rem 1.5rem; flex-wrap: wrap; margin: .4rem 0; font-variant-numeric: tabular-nums; }
    .columns { display: flex; gap: 0 2.5rem; flex-wrap: wrap; }
    ol { margin: .2rem 0; padding-inline-start: 1.4rem; }
    ol button { border: 0; padding: 0 .2rem; background: none; text-align: start; text-decoration: underline dotted; }
    fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: .3rem .8rem; flex-wrap: wrap; align-items: center; }
    legend { float: inline-start; padding: 0; margin-inline-end: .4rem; }
  `];

  #maps(result, metric) {
    if (this.of !== result || this.ofMetric !== metric) Object.assign(this, { of: result, ofMetric: metric, shown: maps(result, metric) });
    return this.shown;
  }

  render() {
    const { given, lab } = this;
    const result = lab.jobs.trace?.result ?? lab.jobs.trace?.partial;
    const set = (name, read = value => value) => event => lab.set({ [name]: read(event.target.value) });
    const arms = name => event => lab.set({ arms: ARMS.filter(arm => (arm === name ? event.target.checked : given.arms.includes(arm))) });
    return html`
      <div class="row">
        <fieldset><legend>Restore</legend>${ARMS.map(name => html`<label><input type="checkbox" .checked=${given.arms.includes(name)} @change=${arms(name)}> ${armName(name)}</label>`)}</fieldset>
        <label>Noise samples <input type="number" name="samples" min="1" max="100" .value=${String(given.samples)} @change=${set('samples', Number)}></label>
        <label>Noise, in σ <input type="number" name="noise" min="0.1" step="0.5" .value=${String(given.noise)} @change=${set('noise', Number)}></label>
        <label>Layers <select name="every" @change=${set('every', Number)}>${[[1, 'all'], [2, 'every 2nd'], [3, 'every 3rd'], [5, 'every 5th']].map(([step, words]) =>
          html`<option value=${step} ?selected=${given.every === step}>${words}</option>`)}</select></label>
        <label>Base <select name="base" @change=${set('base')}>${[['corrupted', 'the noised run, patched with clean states'], ['clean', 'the clean run, patched with noised states']].map(([name, words]) =>
          html`<option value=${name} ?selected=${given.base === name}>${words}</option>`)}</select></label>
      </div>
      ${lab.body('trace') ? '' : html`<p>${!given.prompt ? 'Write a prompt above.' : !lab.subject().length ? 'Mark the subject: drag over its tokens above.' : !given.target ? 'Write a target, for example the token that the model says next.' : 'Choose what is restored.'}</p>`}
      <job-bar .lab=${lab} verb="Trace"></job-bar>
      ${result ? this.#result(result) : ''}`;
  }

  #result(result) {
    const metrics = Object.keys(result.total_effect);
    const metric = metrics.includes(this.given.metric) ? this.given.metric : metrics[0];
    const data = this.#maps(result, metric);
    const { words, unit } = metricName(metric, result.targets);
    const { clean, corrupted } = result.baselines;
    const total = result.total_effect[metric];
    const body = this.lab.jobs.trace.body;
    return html`
      <h2>Where <bdi>${result.targets.target.map(({ text }) => visible(text)).join(' or ')}</bdi> comes from</h2>
      <div class="base">
        <span>${words}: clean <b>${num(clean[metric])}</b></span><span>noised <b>${pm(corrupted[metric].mean, corrupted[metric].se)}</b></span>
        <span>total effect <b>${pm(total.mean, total.se, true)}</b> ${unit}</span>
        <span class="dim">${result.samples} noise samples${result.sigma ? `, σ = ${num(result.sigma.abs)}` : ''}</span>
        <label>Metric <select @change=${event => this.lab.set({ metric: event.target.value })}>${metrics.map(name => html`<option value=${name} ?selected=${name === metric}>${metricName(name, result.targets).words}</option>`)}</select></label>
      </div>
      <heat-map .data=${data} @cell=${event => { if (!result.isPartial) this.#open(event.detail, data); }}></heat-map>
      ${result.isPartial ? '' : html`<div class="columns"><div><h3>Strongest cells</h3><ol>${this.#strongest(data).map(cell => html`<li><button @click=${() => this.#go(cell, data)}>
        ${data.panels[cell.panel].name}, layer ${data.layers[cell.row]}, ${data.columns[cell.column].at} ${data.columns[cell.column].text}: ${pm(cell.value, cell.se, true)}</button></li>`)}</ol></div>
        <div>${this.#opened()}</div></div>
      <take-away kind="trace" .body=${body} job=${this.lab.jobs.trace.id} .show=${{ metric }} plot="plot"></take-away>`}`;
  }

  #strongest(data) {
    this.chart ??= this.renderRoot.querySelector('heat-map');
    if (this.bestOf !== data) {
      const chart = document.createElement('heat-map');
      chart.data = data;
      Object.assign(this, { bestOf: data, best: chart.strongest() });
    }
    return this.best;
  }

  #go(cell, data) {
    const chart = this.renderRoot.querySelector('heat-map');
    chart.open(cell);
    chart.renderRoot.querySelector('[role=application]').focus();
    return data;
  }

  /** Asks what the model says with one cell, beside what it says without. */
  async #open({ panel, row, column }, data) {
    const { body } = this.lab.jobs.trace;
    const { arm, name } = data.panels[panel];
    const [layer, position] = [data.layers[row], data.columns[column].at];
    const heading = `${name}, layer ${layer}, token ${position} ${data.columns[column].text}`;
    const opened = (this.opened = { heading, of: data });
    try {
      const one = await ask('/v1/trace', {
        body: { ...body, arms: [arm], layers: [layer], positions: [position], cells: [{ layer, position }], read: { topk: TOLD } },
      });
      const [{ tokens }] = one.cells;
      const rows = (tokens ?? []).map(({ text, clean, corrupted, prob }) => ({ text, clean, noised: corrupted, cell: prob }));
      // A target of several tokens is none of these.
      if (body.target_scoring) rows.push(...Object.keys(one.targets).filter(of => `prob:${of}` in one.total_effect).map(of => this.#whole(one, of)));
      const why = tokens ? '' : one.nulls.find(({ where }) => where === '/cells/0/tokens')?.reason;
      if (this.opened === opened) this.opened = { ...opened, rows, why };
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (this.opened === opened) this.opened = { ...opened, problem };
    }
  }

  /** A target's probability as it is scored. */
  #whole(one, of) {
    const [{ values }] = Object.values(one.arms);
    const { mean, se } = values[`prob:${of}`];
    return {
      text: one.targets[of].map(({ text }) => text).join(' or '), clean: one.baselines.clean[`prob:${of}`], noised: one.baselines.corrupted[`prob:${of}`],
      cell: { mean: mean[0][0], se: se?.[0][0] },
    };
  }

  #opened() {
    const { opened } = this;
    if (!opened || opened.of !== this.shown) return html`<h3>One cell</h3><p class="dim">Click a cell to see what the model says with it.</p>`;
    const share = value => (value.se ? `${pm(value.mean * 100, value.se * 100)} %` : percent(value.mean));
    const what = this.lab.jobs.trace.body.base === 'clean' ? 'this cell noised' : 'this cell restored';
    return html`<h3>${opened.heading}</h3>
      ${opened.problem ? html`<remark-list .problem=${opened.problem}></remark-list>` : ''}
      ${opened.why ? html`<p>No values: ${opened.why}.</p>` : ''}
      ${opened.rows ? html`<table><thead><tr><th scope="col">P of</th><th scope="col">clean</th><th scope="col">noised</th><th scope="col">${what}</th></tr></thead>
        <tbody>${opened.rows.map(({ text, clean, noised, cell }) => html`<tr><th scope="row"><bdi>${visible(text)}</bdi></th><td>${percent(clean)}</td><td>${share(noised)}</td><td>${share(cell)}</td></tr>`)}</tbody></table>
        <p class="dim">The target, and the ${TOLD} most probable tokens of each of the three; means over the noise samples.</p>` : opened.problem ? '' : html`<p role="status">asking …</p>`}`;
  }
}
customElements.define('trace-view', TraceView);
