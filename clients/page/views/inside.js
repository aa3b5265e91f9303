import { html } from '../vendor/lit.js';
import { Watching } from '../watch.js';
import { measured } from '../targets.js';
import { labels, metricName, num } from '../say.js';
import '../charts/heat-map.js';
import '../charts/reading.js';
import '../charts/series-chart.js';
import '../parts/job-bar.js';
import '../parts/take-away.js';

/** Inside a clean run: where heads attend, and which components write the answer. */
export const inside = {
  title: 'Inside',
  kind: 'run',
  body: ({ prompt, target, foil, scoring, layer }) => prompt && {
    prompt,
    ...measured({ target, foil, scoring }),
    read: {
      topk: 5, attention: [{ layers: [layer], heads: 'all', positions: 'all' }],
      ...(target && { attribution: { target: foil ? 'target-foil' : 'target', heads: true } }),
    },
  },
};

export class InsideView extends Watching {
  render() {
    const { given, lab } = this;
    const layers = lab.facts.model?.config.num_layers ?? given.layer + 1;
    const job = lab.jobs.inside;
    return html`
      <div class="row"><label>Attention of layer <input type="number" name="layer" min="0" max=${layers - 1} .value=${String(given.layer)} @change=${event => lab.set({ layer: Number(event.target.value) })}></label>
        ${given.target ? '' : html`<span>Write a target to see which components write it.</span>`}</div>
      <job-bar .lab=${lab} verb="Look inside"></job-bar>
      ${job?.result ? this.#result(job) : ''}`;
  }

  #result({ result, id, body }) {
    const run = result.runs.run;
    if (this.of !== result) {
      const shown = labels(run.tokens, result.request.runs.run.prompt);
      Object.assign(this, { of: result, attention: run.attention && attention(run.attention[0], shown), parts: run.attribution && parts(run.attribution), heads: run.attribution?.heads && heads(run.attribution) });
    }
    const { attribution } = run;
    return html`
      ${this.attention ? html`<h2>Attention of layer ${run.attention[0].layers[0]}</h2>
        <p class="dim">Each head: the rows attend to the columns.</p><heat-map .data=${this.attention}></heat-map>
        <take-away kind="run" .body=${body} job=${id} .show=${{ kind: 'attention' }}></take-away>` : ''}
      ${attribution ? html`<h2>What writes <bdi>${metricName(`${attribution.target.includes('-') ? 'logit_diff' : 'logit'}:${attribution.target}`, result.targets).words}</bdi></h2>
        <p>Direct contributions at the last position. Beside the layers: embedding ${num(attribution.embed, true)}${attribution.bias ? `, bias ${num(attribution.bias, true)}` : ''}${Number.isFinite(attribution.mean_logit) ? `; mean logit ${num(attribution.mean_logit, true)}` : ''}. What is not told apart: ${num(attribution.remainder)}.</p>
        <series-chart .data=${this.parts}></series-chart>
        ${this.heads ? html`<h3>By head</h3><heat-map .data=${this.heads}></heat-map>` : ''}
        <take-away kind="run" .body=${body} job=${id} .show=${{ kind: 'attribution' }}></take-away>` : ''}`;
  }
}
customElements.define('inside-view', InsideView);

/** The attention of a layer's heads, a map each: queries down, keys right. */
export function attention({ heads, positions, values }, shown) {
  const at = i => `${i} ${shown[i].text}${shown[i].part ? ` ${shown[i].part}` : ''}`;
  return {
    panels: heads.map((head, h) => ({ name: `Head ${head}`, mean: values[0][h], exact: positions.map(query => shown.map((_, key) => key > query)) })),
    signed: false, max: 1, unit: '', words: 'attention', down: true, one: true,
    rows: positions.map(query => ({ text: shown[query].text })), columns: shown,
    place: (row, column) => `${at(positions[row])} attends to ${at(column)}`,
  };
}

/** Contributions of layers. */
export function parts({ attn_out, mlp_out }) {
  return {
    x: { name: 'Layer', texts: attn_out.map((_, layer) => String(layer)) }, from: 0, words: 'direct contribution', unit: 'logits',
    series: [{ name: 'Attention', kind: 'bars', values: attn_out }, { name: 'MLP', kind: 'bars', values: mlp_out }],
  };
}

/** Contributions of heads. */
export function heads(attribution) {
  const rows = attribution.heads.toReversed();
  const sizes = rows.flat().filter(Number.isFinite).map(Math.abs);
  return {
    panels: [{ name: 'Heads', mean: rows }], signed: true, max: Math.max(...sizes, 0) || 1, unit: 'logits', words: 'direct contribution (logits)',
    rows: rows.map((_, at) => ({ text: String(rows.length - 1 - at) })), columns: rows[0].map((_, head) => ({ text: String(head) })),
    place: (row, column) => `Layer ${rows.length - 1 - row}, head ${column}`,
  };
}
