// An answer while it is computed, in the form that the whole answer has: what is not there yet is null.

/** Rows and columns of a flat list. */
function nested(data, [, ...inner]) {
  if (!inner.length) return data;
  const size = inner.reduce((a, b) => a * b, 1);
  return Array.from({ length: data.length / size }, (_, at) => nested(data.slice(at * size, (at + 1) * size), inner));
}

const shape = arm => arm.axes.map(axis => axis.values.length);

/** What is known when the answer begins. */
export function begun(start) {
  const numbers = Object.fromEntries(Object.entries(start.arms).map(([name, arm]) => {
    const none = () => Array(shape(arm).reduce((a, b) => a * b, 1)).fill(null);
    return [name, { values: none(), effects: none(), se: none() }];
  }));
  return grown({ start, numbers, baselines: { runs: {}, corrupted: null } });
}

/** The same with the cells of an event. */
export function more(partial, { baselines, arms }) {
  const { start, numbers } = partial.of;
  for (const [name, { at, values, effects, se }] of Object.entries(arms)) {
    at.forEach((cell, i) => {
      numbers[name].values[cell] = values[i];
      numbers[name].effects[cell] = effects[i];
      numbers[name].se[cell] = se[i];
    });
  }
  return grown({ start, numbers, baselines });
}

function grown(of) {
  const { start, numbers, baselines } = of;
  const { metric } = start;
  const array = (name, part) => nested(numbers[name][part], shape(start.arms[name]));
  const known = { ...start, of, nulls: [], isPartial: true };
  if (start.kind === 'trace') {
    const clean = Object.values(baselines.runs)[0] ?? null;
    const corrupted = baselines.corrupted ?? { mean: null, se: null };
    const both = clean !== null && corrupted.mean !== null;
    return {
      ...known,
      baselines: { clean: { [metric]: clean }, corrupted: { [metric]: corrupted } },
      total_effect: { [metric]: { mean: both ? clean - corrupted.mean : null, se: corrupted.se } },
      arms: Object.fromEntries(Object.entries(start.arms).map(([name, arm]) => [name, {
        ...arm, effects: { [metric]: { mean: array(name, 'effects'), se: array(name, 'se') } },
      }])),
    };
  }
  if (start.kind !== 'patch') return known;
  const { axes, masks } = start.arms.patch;
  return {
    ...known, axes, masks,
    values: { [metric]: array('patch', 'values') }, effects: { [metric]: array('patch', 'effects') },
    baselines: Object.fromEntries(Object.entries(baselines.runs).map(([name, value]) => [name, { [metric]: value }])),
  };
}

/** The texts that a model writes, as they grow. */
export class Texts {
  constructor({ branches, samples, prompt, lints }) {
    const none = () => Array.from({ length: samples }, () => ({ text: '', tokens: [], finish: '', compare: null }));
    Object.assign(this, { isPartial: true, prompt, lints, branches: Object.fromEntries(branches.map(name => [name, { samples: none() }])) });
  }

  hear({ name, data }) {
    const sample = this.branches[data.branch]?.samples[data.sample];
    if (!sample) return;
    sample.text += data.text;
    if (name === 'done') sample.finish = data.finish;
    else sample.tokens.push(data);
  }
}
