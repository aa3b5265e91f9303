// Requests as texts to take away: for a shell, and for Python.

import { key } from './key.js';

/** Puts a text on the clipboard. Browsers hide the clipboard from pages that came over plain http, but for the loopback. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = document.createElement('textarea');
  box.value = text;
  document.body.append(box);
  box.select();
  const done = document.execCommand('copy');
  box.remove();
  if (!done) throw new Error('The browser does not let the page copy.');
}

/** The request as a curl command. */
export function curl(kind, body) {
  const quoted = text => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const secret = key.get() ? ' \\\n     -H "authorization: Bearer $MEDIANT_KEY"' : '';
  return `curl ${location.origin}/v1/${kind} -H 'content-type: application/json'${secret} \\\n     -d ${quoted(JSON.stringify(body))}`;
}

/** The arguments that a method of the Python client takes by their place. */
const PLACED = { run: ['prompt'], patch: ['base', 'source', 'target'], trace: ['prompt', 'subject', 'target'], sweep: ['dataset'], generate: ['prompt'] };

/** The request as a call of the Python client. `after` is what is shown of its result. */
export function python(kind, body, after = 'result.df') {
  const rest = { ...body };
  const given = [];
  for (const name of PLACED[kind]) {
    if (rest[name] === undefined) break;
    given.push(literal(rest[name]));
    delete rest[name];
  }
  for (const [name, value] of Object.entries(rest)) given.push(`${name}=${literal(value)}`);
  const short = given.join(', ');
  const inside = short.length < 90 ? short : `\n    ${given.join(',\n    ')},\n`;
  return `import mediant\n\nlab = mediant.Client(${literal(location.origin)})\nresult = lab.${kind}(${inside})\n${after}`;
}

/** A value of JSON as Python writes it. */
function literal(value) {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (typeof value === 'object') return `{${Object.entries(value).map(([name, inner]) => `${literal(name)}: ${literal(inner)}`).join(', ')}}`;
  return JSON.stringify(value);
}
