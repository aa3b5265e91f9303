// A server of the program, and a browser that forgives nothing: an error on the console, a violation of the policy or a request
// to elsewhere fails the test in which it happens.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { violations } from './axe.mjs';
import { chromium } from 'playwright-core';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const program = process.env.MEDIANT_BIN ?? join(root, 'target/debug/mediant');

const freePort = () => new Promise(resolve => {
  const probe = createServer().listen(0, '127.0.0.1', () => {
    const { port } = probe.address();
    probe.close(() => resolve(port));
  });
});

/** Starts the program on a free port; `model` is left out for the default one. With `keys`, requests need `server.token`. */
export async function serve({ model, keys = false } = {}) {
  const port = await freePort();
  const data = mkdtempSync(join(tmpdir(), 'mediant-page-'));
  const made = keys && execFileSync(program, ['key', 'create', '--owner', 'ada', '--data-dir', data], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const child = spawn(program, ['serve', '--listen', `127.0.0.1:${port}`, '--data-dir', data, ...(model ? ['--model', model] : [])], {
    stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...(keys && { MEDIANT__AUTH__KEYS: 'on' }) },
  });
  let log = '';
  child.stderr.on('data', text => { log += text; });
  const url = `http://127.0.0.1:${port}`;
  const end = new Promise(resolve => child.once('exit', resolve));
  const server = {
    url,
    token: made && made.match(/mdt_\w+/)[0],
    async stop() {
      child.kill('SIGTERM');
      await end;
      rmSync(data, { recursive: true, force: true });
    },
    /** Asks the server itself, for what the page must show. */
    async ask(path, body) {
      const response = await fetch(url + path, body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
      assert.ok(response.ok, `${path}: ${response.status}`);
      return response.json();
    },
  };
  for (let tries = 0; ; tries++) {
    const ready = await fetch(`${url}/readyz`).then(answer => answer.ok, () => false);
    if (ready) return server;
    assert.ok(child.exitCode === null && tries < 600, `the server does not start: ${log}`);
    await new Promise(resolve => setTimeout(resolve, 100));
  }
}

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'],
});

/** A fresh browser at a link of the page. `allow` are texts of console errors that the test provokes. */
export async function open(server, link = '', { allow = [], prepare } = {}) {
  const context = await browser.newContext({
    viewport: { width: 1300, height: 950 }, colorScheme: 'light', acceptDownloads: true,
  });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const page = await context.newPage();
  const faults = [];
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type()) && !allow.some(text => message.text().includes(text))) faults.push(message.text());
  });
  page.on('pageerror', error => faults.push(String(error.stack)));
  page.on('request', request => {
    if (!request.url().startsWith(server.url) && !/^(blob|data):/.test(request.url())) faults.push(`asks ${request.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', event => console.error(`policy: ${event.violatedDirective} ${event.sourceFile}`));
  });
  await prepare?.(page, context);
  await page.goto(server.url + '/' + link);
  page.faults = faults;
  page.done = async () => {
    await context.close();
    assert.deepEqual(faults, []);
  };
  return page;
}

/** Goes by Tab to what has these words in its id, name, role or text; `tag` is the kind of element. */
export async function reach(page, words, tag = '') {
  const seen = [];
  for (let i = 0; i < 150; i++) {
    await page.keyboard.press('Tab');
    const [kind, at] = await page.evaluate(() => {
      let active = document.activeElement;
      while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
      const { row, i } = active?.dataset ?? {};
      const says = [active?.id, active?.name, active?.getAttribute('role'), active?.getAttribute('aria-roledescription'), row && `${row}:${i} `, active?.textContent?.trim().slice(0, 80)];
      return [active?.localName ?? '', says.filter(Boolean).join(' ')];
    });
    if (at.includes(words) && (!tag || kind === tag)) return;
    seen.push(`${kind} ${at.slice(0, 30)}`);
  }
  assert.fail(`no way to ${words} by Tab; it goes to ${[...new Set(seen)].join(', ')}`);
}

/** The text of a part, once it holds `pattern`. */
export async function says(page, selector, pattern, timeout = 30_000) {
  const part = page.locator(selector).filter({ hasText: pattern }).first();
  await part.waitFor({ timeout });
  return part.innerText();
}

/** What an accessibility checker finds serious. */
export async function serious(page) {
  return (await violations(page)).filter(({ impact }) => ['serious', 'critical'].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes.map(node => node.html.slice(0, 200)).join(' | ')}`);
}

/** Keeps a picture to be looked at, where MEDIANT_SHOTS says. */
export async function shoot(page, name) {
  if (!process.env.MEDIANT_SHOTS) return;
  mkdirSync(process.env.MEDIANT_SHOTS, { recursive: true });
  await page.screenshot({ path: join(process.env.MEDIANT_SHOTS, `${name}.png`), fullPage: true });
}

/** What a button copies. */
export async function copied(page, what) {
  await page.locator(`take-away [data-copy=${what}]`).first().click();
  await says(page, 'take-away', 'Copied.');
  return page.evaluate(() => navigator.clipboard.readText());
}

/** Where the server keeps what a view shows: an answer, or the result of a job. */
export const place = id => (id.startsWith('job_') ? `/v1/jobs/${id}/result` : `/v1/results/${id}`);

/** What a view shows, by its link: its id, and what the server keeps of it. */
export async function shown(server, page) {
  const id = new URLSearchParams(page.url().split('?')[1]).get('r');
  assert.ok(id, page.url());
  return [id, await server.ask(place(id))];
}

/** Rows times layers that a server has computed so far. */
export async function computed(server) {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(text.match(/^mediant_row_layers_total (\d+)/m)[1]);
}

/**
 * The same server behind a connection that can be cut: while it is, nothing goes through, and what was open is closed.
 */
export async function behind(server) {
  const target = new URL(server.url);
  const open = new Set();
  let isCut = false;
  const proxy = createServer(socket => {
    if (isCut) return socket.destroy();
    const other = connect(target.port, target.hostname);
    for (const [one, its] of [[socket, other], [other, socket]]) {
      open.add(one);
      one.on('error', () => {}).on('close', () => { open.delete(one); its.destroy(); });
      one.pipe(its);
    }
  });
  await new Promise(resolve => proxy.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    cut(whether) {
      isCut = whether;
      if (whether) for (const socket of open) socket.destroy();
    },
    stop: () => new Promise(resolve => { proxy.close(resolve); for (const socket of open) socket.destroy(); }),
  };
}

/** What the copied call of the Python client gives: all of it is run, figures and tables too. */
export function python(text, wanted) {
  const program = `${text}\nimport json; print(json.dumps(result[${JSON.stringify(wanted)}]))`;
  const env = { ...process.env, MPLBACKEND: 'Agg' };
  // What it shows by itself comes before.
  return JSON.parse(execFileSync(process.env.MEDIANT_PYTHON, ['-W', 'ignore', '-c', program], { encoding: 'utf8', maxBuffer: 1 << 26, env }).trim().split('\n').at(-1));
}
