// What a link holds: `#/trace?prompt=…&subject=Eiffel+Tower&target=+Paris&samples=3`. Links of this form are read for ever: a
// field may be added, none may change its meaning. What has its default value is left out, except the experiment itself.

const text = { read: value => value, write: value => value };
const list = { read: value => value.split(',').filter(Boolean), write: value => value.join(',') };
const number = { read: value => (Number.isFinite(Number(value)) ? Number(value) : undefined), write: String };

/** The fields, by the name that they have in links; `tokens` is the subject as a range of tokens. */
export const FIELDS = {
  prompt: { ...text, always: true, initial: 'The Eiffel Tower is in the city of' },
  subject: { ...text, initial: '' },
  tokens: { ...text, initial: '' },
  target: { ...text, initial: '' },
  foil: { ...text, initial: '' },
  scoring: { ...text, initial: 'first_token' },
  // how a result is shown
  metric: { ...text, initial: '' },
  group: { ...text, initial: '' },
  class: { ...text, initial: 'last_subject' },
  // trace
  arms: { ...list, initial: ['hidden', 'mlp', 'attn'] },
  samples: { ...number, initial: 10 },
  noise: { ...number, initial: 3 },
  seed: { ...number, initial: 1 },
  every: { ...number, initial: 1 },
  base: { ...text, initial: 'corrupted' },
  // patch
  source: { ...text, initial: '' },
  map: { ...text, initial: 'last' },
  site: { ...text, initial: 'resid_post' },
  sweep: { ...text, initial: 'layers' },
  controls: { ...list, initial: ['self_patch', 'random_vector'] },
  // averages
  dataset: { ...text, initial: '' },
  wrong: { ...text, initial: 'drop' },
  groups: { ...text, initial: 'no' },
  // inside
  layer: { ...number, initial: 0 },
  // generate
  toward: { ...text, initial: '' },
  away: { ...text, initial: '' },
  depth: { ...number, initial: 14 },
  strengths: { ...text, initial: '1, 2, 4' },
  length: { ...number, initial: 24 },
  texts: { ...number, initial: 3 },
  heat: { ...number, initial: 0 },
  chat: { ...text, initial: '' },
  // a result that the server keeps: its id, or that of its job
  r: { ...text, initial: '' },
};

/** What the page shows to who comes without a link. */
export const FIRST = { prompt: 'The Eiffel Tower is in the city of', subject: 'Eiffel Tower', target: ' Paris' };

/** Fields that have their initial values. */
export const initial = () => Object.fromEntries(Object.entries(FIELDS).map(([name, field]) => [name, field.initial]));

/** The view and the fields of a link. */
export function read(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [view, id = ''] = path.split('/');
  const fields = initial();
  const given = new URLSearchParams(query);
  if (![...given.keys()].length) Object.assign(fields, FIRST);
  for (const [name, value] of given) {
    const known = FIELDS[name]?.read(value);
    if (known !== undefined) fields[name] = known;
  }
  return { view, id, fields };
}

/** The link of a view with its fields. */
export function write(view, fields) {
  const query = new URLSearchParams();
  for (const [name, field] of Object.entries(FIELDS)) {
    const value = fields[name];
    if (field.always || String(value) !== String(field.initial)) query.set(name, field.write(value));
  }
  return `#/${view}?${query}`;
}
