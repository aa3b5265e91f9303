// Makes clients/page/vendor from the npm packages of package-lock.json: one file for each library, so that the page needs no
// import map, which the policy would refuse as an inline script. `node vendor.mjs --check` compares instead of writing.
import { build } from 'esbuild';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

const here = fileURLToPath(new URL('.', import.meta.url));
const target = join(here, '../../clients/page/vendor');
const LIBRARIES = {
  lit: `export { LitElement, html, svg, css, nothing } from 'lit';
        export { live } from 'lit/directives/live.js'; export { repeat } from 'lit/directives/repeat.js';
        export { ref, createRef } from 'lit/directives/ref.js';`,
  d3: `export { scaleLinear } from 'd3-scale'; export { line, area } from 'd3-shape';`,
};

const lock = JSON.parse(readFileSync(join(here, 'package-lock.json'), 'utf8')).packages;
const files = {};
const used = {};
for (const [name, contents] of Object.entries(LIBRARIES)) {
  const made = await build({
    stdin: { contents, resolveDir: here }, bundle: true, minify: true, format: 'esm', target: 'es2022', metafile: true,
    write: false, legalComments: 'none', banner: { js: `// ${name}, bundled; licences in LICENSES.txt` },
  });
  files[`${name}.js`] = made.outputFiles[0].text;
  for (const input of Object.keys(made.metafile.inputs)) {
    const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//);
    if (found) used[found[1]] = lock[`node_modules/${found[1]}`];
  }
}
const packages = Object.entries(used).sort(([a], [b]) => a.localeCompare(b));
files['LICENSES.txt'] = packages.map(([name, { version }]) => {
  const folder = join(here, 'node_modules', name);
  const file = readdirSync(folder).find(file => /^licen[cs]e/i.test(file));
  return `${name} ${version}\n\n${readFileSync(join(folder, file), 'utf8').trim()}\n`;
}).join('\n----\n\n');
const sum = text => createHash('sha256').update(text).digest('hex');
files['vendor.json'] = JSON.stringify({
  packages: packages.map(([name, { version, license, integrity }]) => ({ name, version, license, integrity })),
  files: Object.entries(files).map(([name, text]) => ({ name, sha256: sum(text) })),
}, null, 2) + '\n';

mkdirSync(target, { recursive: true });
let differ = false;
for (const [name, text] of Object.entries(files)) {
  const path = join(target, name);
  if (!process.argv.includes('--check')) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, 'utf8') !== text) { differ = true; console.error(`${name} differs; run node vendor.mjs`); }
}
process.exitCode = differ ? 1 : 0;
